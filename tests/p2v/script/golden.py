# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the golden scripts anew: ``python -m tests.p2v.script.golden``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from p2v.model.host import HypervisorKind
from p2v.model.order import Order
from p2v.script import make_script
from p2v.script.make import extension
from tests.p2v.script.orders import CASES

FOLDER = Path(__file__).parent / "golden"
SHELL = ("gen2-linux", "gen1-windows-many", "gen1-windows-plain", "nasty")
ENDINGS = {
    kind: "ps1" if kind is HypervisorKind.HYPERV else f"{kind}.sh" for kind in HypervisorKind
}


def of_kind(order: Order, kind: HypervisorKind) -> Order:
    """Return the order with the images that the hypervisor takes."""
    disks = (replace(d, file=f"{d.file.rsplit('.')[0]}.{extension(kind)}") for d in order.disks)
    return replace(order, disks=tuple(disks))


def scripts() -> dict[str, str]:
    """Return the text of each golden file by its name."""
    return {
        f"{name}.{ENDINGS[kind]}": make_script(kind, of_kind(order, kind))
        for name, order in CASES.items()
        for kind in HypervisorKind
        if kind is HypervisorKind.HYPERV or name in SHELL
    }


if __name__ == "__main__":
    for name, text in scripts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
