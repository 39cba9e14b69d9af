# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts to talk to: a real libvirtd, and orders that fit on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.model.order import Order, OrderedDisk
from p2v.model.vm import VmSettings
from tests.libvirtd import libvirtd

MiB = 1 << 20


@pytest.fixture
def images(tmp_path) -> list[Path]:
    """Two images with something in them."""
    made = [tmp_path / "a.raw", tmp_path / "b.raw"]
    for number, path in enumerate(made):
        path.write_bytes(bytes([number + 1]) * MiB + bytes(15 * MiB))
    return made


@pytest.fixture
def order() -> Order:
    """An order for a small machine with two disks; adapters' tests say where."""
    return Order(
        migration="web01-7f3a9c04",
        vm=VmSettings(cpus=1, memory=256 * MiB, name="web 01 (old); 'x'"),
        disks=(
            OrderedDisk("web01-7f3a9c04-0", 16 * MiB),
            OrderedDisk("web01-7f3a9c04-1", 16 * MiB),
        ),
        storage="",
    )


@pytest.fixture(scope="session", name="libvirtd")
def _libvirtd(tmp_path_factory) -> Iterator[None]:
    if os.geteuid():
        pytest.skip("needs root")
    with libvirtd(tmp_path_factory.mktemp("libvirtd")):
        yield
