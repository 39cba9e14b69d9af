# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of a live capture before it begins."""

from __future__ import annotations

import pytest

from agent.live.estimate import LINK, WINDOW_S, estimate
from p2v.model.machine import DiskLoad, Load
from p2v.model.plan import Plan, PlannedDisk
from p2v.model.units import GiB, MiB


def expected(tmp_path, churn, *, bwlimit=0):
    (tmp_path / "disk.img").touch()
    disk = PlannedDisk("disk.img", str(tmp_path / "disk.img"), 100 * GiB, used=10 * GiB)
    load = Load(WINDOW_S, 1.0, 0, (DiskLoad("sda", 0.0, 9.0, 0.0, churn),), ())
    return estimate(Plan("web01", (disk,), live=True, bwlimit=bwlimit), lambda *_: load)


def test_it_tells_passes_and_time_over_a_usual_link(tmp_path):
    found = expected(tmp_path, 10 * MiB)
    assert (found.used, found.rate) == (10 * GiB, LINK)
    assert found.passes == 1 + 2 and not found.outrun  # leaving 860, 72, 6 MiB
    assert found.finish_s == pytest.approx(86 + 7.2 + 0.6, rel=0.02)
    assert "3 passes (10.0 GiB to begin with)" in found.describe()


def test_a_limit_counts_in_place_of_the_link(tmp_path):
    assert expected(tmp_path, 0, bwlimit=5 * MiB).finish_s == pytest.approx(2048)
    assert "1 pass (" in expected(tmp_path, 0, bwlimit=5 * MiB).describe()


def test_it_warns_where_writes_outrun_the_link(tmp_path):
    found = expected(tmp_path, 10 * MiB, bwlimit=5 * MiB)
    assert found.outrun and found.finish_s is None and found.passes is None
    assert "never catch up" in found.describe()
    assert found.as_dict()["outrun"] is True


@pytest.mark.root
def test_real_disks_are_watched(tmp_path, loop, monkeypatch):
    monkeypatch.setattr("agent.live.estimate.WINDOW_S", 0.1)
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(MiB))
    with loop(image) as device:
        plan = Plan("web01", (PlannedDisk("disk", str(device), MiB),), live=True)
        found = estimate(plan)
        assert (found.churn, found.used, found.passes) == (0.0, MiB, 1)
