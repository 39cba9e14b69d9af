# SPDX-License-Identifier: GPL-3.0-or-later
"""The appliance ends when its time is over, whatever runs in it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from p2v.guest import appliance as module
from p2v.guest.appliance import Appliance, Drive
from p2v.model.errors import GuestError, ToolError
from tests.p2v.guest.phony import make_disk, make_tree

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(600)]


def children() -> set[str]:
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def sleep_in(appliance: Appliance) -> None:
    with appliance.calling("sleeping") as handle:
        handle.debug("sh", ["sleep", "500"])


def test_what_takes_too_long_is_ended_and_the_disk_let_go(tmp_path):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    before = children()
    appliance = Appliance("disk.img", [Drive(disk, "raw")], read_only=False)
    begun = time.monotonic()
    with pytest.raises(GuestError, match="it took too long"), appliance._watched(3):
        sleep_in(appliance)
    assert time.monotonic() - begun < 30
    with pytest.raises(GuestError):
        appliance.exists("/etc")
    appliance.close(flush=False)
    assert children() <= before
    assert not appliance._scratch.path.exists()


def test_all_of_it_has_a_deadline(tmp_path):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    appliance = Appliance("disk.img", [Drive(disk, "raw")], read_only=True, deadline_s=1)
    with pytest.raises(GuestError, match="it took too long"):
        sleep_in(appliance)
    appliance.close(flush=False)


def test_a_deadline_before_it_runs_ends_it_when_it_does(tmp_path, monkeypatch):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    monkeypatch.setattr(module, "LAUNCH_S", 0)
    with pytest.raises(ToolError, match="does not start"):
        Appliance("disk.img", [Drive(disk, "raw")], read_only=True)
