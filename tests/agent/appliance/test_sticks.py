# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from time import monotonic

import pytest

from agent import tools
from agent.appliance import sticks
from p2v.model.errors import ToolError, UsageError
from tests.e2e.running import tool
from tests.e2e.sources import attached

LABEL = "P2VTEST"


@pytest.fixture
def stick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A partition labelled P2VTEST on a disk that is, with all its partitions, read-only."""
    monkeypatch.setattr(sticks, "_MOUNTS", tmp_path / "mounts")
    image = tmp_path / "stick.img"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["sfdisk", "-q", image], input="label: dos\n,,L\n", text=True, check=True)
    with attached(image, 512) as loop:
        tool("mkfs.ext4", "-q", "-L", LABEL, f"{loop}p1")
        for device in (f"{loop}p1", loop):
            tool("blockdev", "--setro", device)
        yield f"{loop}p1"
        for device in (loop, f"{loop}p1"):
            tool("blockdev", "--setrw", device)  # or the next one to get the device can't write


@pytest.mark.root
def test_a_stick_of_a_read_only_system_is_written_to_and_read_only_again(stick):
    with sticks.mounted(LABEL, writable=True) as folder:
        (folder / "evidence").write_text("kept")
    with sticks.mounted(LABEL) as folder:
        assert (folder / "evidence").read_text() == "kept"
        with pytest.raises(OSError, match="Read-only"):
            (folder / "other").write_text("refused")
    assert tool("blockdev", "--getro", stick).strip() == "1"
    assert tool("blockdev", "--getro", stick.removesuffix("p1")).strip() == "1"


@pytest.mark.root
def test_what_is_not_there_and_what_cannot_be_mounted(stick):
    with sticks.mounted("P2VNONE") as folder:
        assert folder is None
    with pytest.raises(UsageError, match="can be no label"):
        sticks.find("../etc")
    with pytest.raises(ToolError):
        tools.run(["mount", "-o", "rw", stick, "/nowhere"])


def test_a_drive_that_wakes_up_late_is_waited_for_but_not_for_ever(tmp_path):
    drive = tmp_path / "bus/usb/drivers/usb-storage/1-1:1.0"
    drive.mkdir(parents=True)
    begun = monotonic()
    sticks.await_usb(0.3, tmp_path)
    assert 0.3 <= monotonic() - begun < 5
    waking = Timer(
        0.3, (drive / "host6/target6:0:0/6:0:0:0/block/sda").mkdir, [], {"parents": True}
    )
    waking.start()
    sticks.await_usb(60, tmp_path)
    waking.join()
    assert monotonic() - begun < 30
