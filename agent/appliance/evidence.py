# SPDX-License-Identifier: GPL-3.0-or-later
"""The evidence bundle: what the machine was, for the day when somebody has to know.

A tar.gz of what the kernel and the hardware say of themselves. It goes to the converter with the
migration, and to a folder on request. Secrets of the kernel's command line are not in it.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import p2v
from agent import tools
from agent.appliance.hardware import check_hardware
from agent.appliance.image import LIVE_MEDIUM
from agent.appliance.settings import without_secrets
from agent.inventory.collect import collect
from p2v.model.errors import P2VError, ToolError

NAME = "evidence.tar.gz"
MAX_PART = 1 << 20
"""Of each part the last MiB is kept: a disk that fails can fill the kernel's log by itself."""
_SMART_ANY = tuple(range(256))  # smartctl(8): its exit status is a set of findings
_COMMANDS = {
    "dmesg.txt": ["dmesg"],
    "journal.txt": ["journalctl", "--boot", "--no-pager", "--output=short-monotonic"],
    "lspci.txt": ["lspci", "-nnvvk"],
    "lsusb.txt": ["lsusb", "-v"],
    "lsblk.json": ["lsblk", "--json", "--bytes", "--output-all"],
    "dmidecode.txt": ["dmidecode"],
    "addresses.json": ["ip", "-json", "-details", "address"],
    "modules.txt": ["lsmod"],
}


def bundle() -> bytes:
    """Return the bundle; a part that can't be had says why in its place."""
    packed = io.BytesIO()
    now = time.time()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=now) as zipped,
        tarfile.open(fileobj=zipped, mode="w|") as tar,
    ):
        for name, content in _parts():
            member = tarfile.TarInfo(f"evidence/{name}")
            member.size, member.mtime, member.mode = len(content), int(now), 0o600
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def deliver(keep: Callable[[bytes], None]) -> str:
    """Give the bundle to `keep`; return what went wrong, since a migration does not fail by it."""
    try:
        keep(bundle())
    except (P2VError, OSError) as error:
        return f"the evidence bundle was not kept: {error}"
    return ""


def save(folder: Path) -> Path:
    """Write the bundle into `folder` and return its path.

    Raises:
        OSError: it can't be written.
    """
    path = folder / f"p2v-{time.strftime('%Y%m%d-%H%M%S')}-{NAME}"
    path.write_bytes(bundle())
    return path


def _parts() -> Iterator[tuple[str, bytes]]:
    machine = collect()
    yield "versions.json", _json(_versions())
    yield "inventory.json", _json(machine.to_json())
    yield "hardware.json", _json(check_hardware().to_json())
    for name, argv in _COMMANDS.items():
        yield name, _said(argv)
    for disk in machine.disks:
        argv = ["smartctl", "--json", "--xall", disk.path]
        yield f"smart-{Path(disk.path).name}.json", _said(argv, _SMART_ANY)


def _versions() -> dict[str, str]:
    return {
        "p2v": p2v.__version__,
        "kernel": Path("/proc/version").read_text().strip(),
        "command_line": without_secrets(Path("/proc/cmdline").read_text().strip()),
        "medium": _text(LIVE_MEDIUM / ".disk/info"),
    }


def _text(path: Path) -> str:
    return path.read_text(errors="replace").strip() if path.is_file() else ""


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2).encode()


def _said(argv: list[str], accept: tuple[int, ...] = (0,)) -> bytes:
    try:
        said = tools.run(argv, accept=accept)[-MAX_PART:]
    except ToolError as error:
        said = f"{error}\n".encode()
    return without_secrets(said.decode(errors="replace")).encode()
