# SPDX-License-Identifier: GPL-3.0-or-later
"""What the live image does by itself, here without it: settings, a real disk, a real converter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.images.compare import compare_images
from tests.e2e.running import Converter, Ended, home, run, tool
from tests.e2e.sources import Disk, Spec, attached, digest_of

pytestmark = [pytest.mark.root]

SOURCE = Spec("unattended", table="gpt", volumes=(("random", 96),))
UNATTENDED = """
import sys
from pathlib import Path
from agent.appliance import gather
from agent.cli.main import main
gather.COMMAND_LINE = Path(sys.argv[1])
sys.exit(main(["unattended"]))
"""
"""As on the image, but with a kernel command line of the test's own."""


class Machine:
    """A machine that starts again and again with other settings."""

    def __init__(self, disk: str, converter: Converter, folder: Path) -> None:
        self.folder = folder
        self.settings = {
            "confirm": "yes",
            "server": converter.address,
            "token": converter.token(),
            "fingerprint": converter.fingerprint,
            "disks": disk,
            "id": "machine-1",
            "convert": "no",
            "post": "",
            "wait": "30",
        }

    def start(self, **more: str) -> Ended:
        words = self.settings | more
        line = " ".join(f'p2v.{key.replace("_", "-")}="{words[key]}"' for key in words)
        command_line = self.folder / "cmdline"
        command_line.write_text(f"BOOT_IMAGE=/live/vmlinuz boot=live quiet {line}\n")
        argv = [sys.executable, "-c", UNATTENDED, command_line]
        return run(argv, home(self.folder / "home"))


@pytest.fixture
def disk(built) -> Disk:
    return built(SOURCE)


@pytest.fixture
def machine(disk: Disk, converter: Converter, tmp_path: Path) -> Iterator[Machine]:
    with attached(disk.path, 512) as loop:
        yield Machine(loop, converter, tmp_path)
        for device in (loop, f"{loop}p1"):
            tool("blockdev", "--setrw", device)  # a loop device keeps what was said to it


def test_what_was_confirmed_is_done_and_not_a_second_time(machine, disk, converter):
    before = digest_of(disk.path)
    done = machine.start(post=f"echo done > {machine.folder}/post")
    assert done.code == 0, done.out + done.err
    assert "machine-1 is finished" in done.out and "evidence is kept" in done.out
    assert machine.settings["token"] not in done.out + done.err
    (image,) = converter.show("machine-1")["images"]
    assert compare_images(disk.path, Path(image)).same
    assert digest_of(disk.path) == before
    assert (machine.folder / "post").read_text() == "done\n"
    assert (Path(image).parent / "evidence.tar.gz").exists()
    again = machine.start(fail=f"echo failed > {machine.folder}/failed")
    assert again.code != 0 and "was migrated already" in again.err
    assert (machine.folder / "failed").read_text() == "failed\n"


def test_the_virtual_machine_is_planned_as_asked_and_a_host_that_is_unknown_is_said(
    machine, converter
):
    wanted = {"host": "hv9", "vcpu": "3", "memory": "1G"}
    done = machine.start(**wanted)
    assert done.code == 0, done.out + done.err
    assert "warning: 'hv9' can't take the machine as things are" in done.out
    vm = converter.show("machine-1")["plan"]["vm"]
    assert (vm["create"], vm["host"], vm["cpus"], vm["memory"]) == (True, "hv9", 3, 1 << 30)


def test_the_disks_cannot_be_written_to_meanwhile(machine):
    ro = machine.folder / "ro"
    done = machine.start(post=f"blockdev --getro {machine.settings['disks']} > {ro}")
    assert done.code == 0, done.out + done.err
    assert ro.read_text() == "1\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"sever": "https://x"}, "'p2v.sever' on the kernel command line is no setting of p2v"),
        ({"server": ""}, "is no converter's address"),
        ({"fingerprint": "sha256:zz"}, "p2v.fingerprint"),
        ({"token": ""}, "needs one of p2v.token and p2v.code"),
        ({"disks": "/dev/nowhere"}, "/dev/nowhere"),
        ({"wait": "1", "server": "https://127.0.0.1:9"}, "127.0.0.1:9"),
        ({"pre": "exit 7"}, "ended with 7"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(machine, more, said):
    done = machine.start(**more)
    assert done.code not in (0, 1) and said in done.err, done.out + done.err


def test_without_the_word_nothing_starts(machine, converter):
    del machine.settings["confirm"]
    done = machine.start()
    assert done.code == 0 and "the wizard waits" in done.out
    assert converter.migrations() == []
