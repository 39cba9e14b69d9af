# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts to talk to: a real libvirtd, and orders that fit on it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.model.order import Order, OrderedDisk
from p2v.model.vm import VmSettings

MiB = 1 << 20
SOCKET = Path("/run/libvirt/libvirt-sock")


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


_WITHOUT_KVM = """
touch "$1/kvm" && mount --bind "$1/kvm" /dev/kvm && mount -o remount,bind,ro /dev/kvm
echo 'namespaces = []' >"$1/qemu.conf" && mount --bind "$1/qemu.conf" /etc/libvirt/qemu.conf
exec libvirtd
"""
"""libvirt asks QEMU for KVM, time and again, on machines where that hangs: here there is none."""


def _answers() -> bool:
    return not subprocess.run(["virsh", "-q", "version"], capture_output=True).returncode


@pytest.fixture(scope="session")
def libvirtd(tmp_path_factory) -> Iterator[None]:
    """Run libvirtd, unless one runs already."""
    if os.geteuid():
        pytest.skip("needs root")
    if SOCKET.exists() and _answers():
        yield
        return
    folder = tmp_path_factory.mktemp("libvirtd")
    hidden = ["unshare", "--mount", "sh", "-c", _WITHOUT_KVM, "sh", str(folder)]
    started = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (["virtlogd"], hidden if Path("/dev/kvm").exists() else ["libvirtd"])
    ]
    deadline = time.monotonic() + 100
    while not _answers():
        assert time.monotonic() < deadline and started[1].poll() is None, "libvirtd does not start"
        time.sleep(0.2)
    yield
    for process in reversed(started):
        process.terminate()
        process.wait(60)
