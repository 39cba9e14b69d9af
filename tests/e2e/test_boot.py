# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian server goes through agent, TLS and converter, and boots to its login prompt."""

from __future__ import annotations

import os
import selectors
import subprocess
from pathlib import Path
from time import monotonic

import pytest

from tests.e2e import images
from tests.e2e.running import tool
from tests.e2e.sources import attached

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
BOOT_S = 300.0


@pytest.fixture(scope="module")
def server() -> Path:
    """The disk of a Debian 12 server: GPT, BIOS boot, ext4, swap; built once, then kept."""
    disk = ROOT / ".cache" / "web01.img"
    tool(ROOT / "demo" / "debian-disk.sh", disk)
    return disk


def boot(image: Path, form: str, until: bytes) -> bytes:
    """Boot a throw-away overlay of the image; return what its console says up to `until`."""
    drive = f"file={image},format={form},if=virtio,snapshot=on"
    machine = ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"]
    qemu = subprocess.Popen(
        ["qemu-system-x86_64", *machine, "-drive", drive, "-nic", "none", "-nographic"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert qemu.stdout is not None
    said, deadline = b"", monotonic() + BOOT_S
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(qemu.stdout, selectors.EVENT_READ)
            while until not in said and selector.select(deadline - monotonic()):
                more = os.read(qemu.stdout.fileno(), 65536)
                if not more:
                    break
                said += more
    finally:
        qemu.kill()
        qemu.communicate()
    assert until in said, said[-3000:].decode(errors="replace")
    return said


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("vhdx", ("--format", "vhdx")),
        pytest.param("qcow2", ("--format", "qcow2", "--compress-image"), marks=pytest.mark.slow),
    ],
)
def test_the_machine_boots_to_its_login(server, image_of, form, options):
    with attached(server, 512, ro=True) as loop:
        image, document = image_of(loop, *options)
    assert document["counters"]["read"] < server.stat().st_size / 2
    images.check(image, 512)
    said = boot(image, form, b"web01 login:")
    assert b"Failed to mount" not in said
    assert b"emergency mode" not in said
