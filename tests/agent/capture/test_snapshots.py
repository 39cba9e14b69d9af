# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose snapshots are whose. Making and removing them is in tests/e2e/test_live_guest.py."""

import os
import subprocess

from agent.capture.snapshots import abandoned
from agent.capture.volumes import Logical, Report


def started(process):
    with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[19]


def report(*tags):
    volumes = (
        Logical("vg", f"lv{n}", 1, (253, n), False, "", tuple(tag.split(",")))
        for n, tag in enumerate(tags)
    )
    return Report((), (), tuple(volumes), ())


def test_only_those_of_a_process_that_is_gone_are_abandoned():
    with subprocess.Popen(["sleep", "60"]) as child:
        gone = f"p2v_capture_{child.pid}_{started(child.pid)}_00ff"
        assert abandoned(report(gone)) == set()
        child.kill()
    own = f"p2v_capture_{os.getpid()}_{started(os.getpid())}_abcd"
    recycled = f"p2v_capture_{os.getpid()}_1_abcd"
    others = "backup,p2v_capture,p2v_capture_x_1_ab"
    assert abandoned(report(own, f"keep,{gone}", others, recycled, "")) == {gone, recycled}
