# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian server goes through agent, TLS, converter and conversion, and boots to its login."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
from pathlib import Path
from time import monotonic

import pytest

from p2v.guest.report import report_path
from tests.e2e import images
from tests.e2e.guests import build_quick, make_quick
from tests.e2e.running import P2V, Agent, run
from tests.e2e.sources import attached

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(1800)]

BOOT_S = 300.0
CONVERT_S = 900.0


@pytest.fixture(scope="module")
def server() -> Path:
    """The disk of a Debian 12 server: GPT, BIOS boot, ext4, swap; built once, then kept."""
    return build_quick()


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


def test_a_migrated_machine_is_converted_and_reaches_its_login(shared_agent: Agent, room):
    disk = make_quick(room / "server.img")
    with attached(disk, 512) as loop:
        words = shared_agent.words(loop, "--format", "vhdx", "--name", "web01")
        words.remove("--no-convert")
        done = shared_agent.run(*words, timeout_s=CONVERT_S)
    disk.unlink()
    assert done.code == 0, done.out + done.err
    image = Path(done.json["images"][0])
    report = json.loads(report_path(image).read_text())
    assert report["verdict"] == "converted"
    edits = {edit["what"]: edit["before"] for edit in report["edits"]}
    (fstab,) = (before for what, before in edits.items() if what.endswith("/etc/fstab"))
    assert "/dev/sdb3 /" in fstab and "/dev/sdc1" in fstab
    (menu,) = (before for what, before in edits.items() if what.endswith("/boot/grub/grub.cfg"))
    assert "root=/dev/sdb3" in menu
    # The cards of the machine that tests are taken for the server's: of several none can be told.
    unknown = [one["subject"] for one in report["problems"] if one["code"] == "unknown-mac"]
    assert "give the network interface the name eno1" in edits or unknown == ["eno1"]
    assert any("hv_storvsc" in check["evidence"] for check in report["checks"])
    images.check(image, 512)
    seen = run([*P2V, "rehearse", str(image), "--progress", "none", "--json"], timeout_s=CONVERT_S)
    assert (seen.json["rehearsal"]["verdict"], seen.code) == ("login", 0), seen.out[-3000:]
    shutil.rmtree(image.parent)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("vhdx", ("--format", "vhdx")),
        ("qcow2", ("--format", "qcow2", "--compress-image")),
    ],
)
@pytest.mark.slow
def test_the_machine_boots_to_its_login(server, image_of, form, options):
    with attached(server, 512, ro=True) as loop:
        image, document = image_of(loop, *options)
    assert document["counters"]["read"] < server.stat().st_size / 2
    images.check(image, 512)
    said = boot(image, form, b"web01 login:")
    assert b"Failed to mount" not in said
    assert b"emergency mode" not in said
