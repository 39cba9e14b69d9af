# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os

import pytest

from agent.estimate import Speeds, estimate, link_rate, read_rate

MiB = 1 << 20


def test_reading_sets_the_time_disk_after_disk():
    found = estimate({"sda": 600 * MiB, "sdb": 100 * MiB}, Speeds({"sda": 200 * MiB, "sdb": MiB}))
    assert found is not None and found.by == "reading"
    assert found.seconds == pytest.approx(103) and found.rate == pytest.approx(700 * MiB / 103)


def test_a_link_that_is_slower_sets_it():
    found = estimate({"sda": 600 * MiB}, Speeds({"sda": 200 * MiB}, link=10 * MiB))
    assert found is not None and (found.seconds, found.by) == (60, "the network link")


def test_disks_that_were_not_measured_are_like_the_others_and_none_gives_no_time():
    found = estimate({"sda": 100 * MiB, "sdb": 100 * MiB}, Speeds({"sda": 100 * MiB, "sdb": 0.0}))
    assert found is not None and found.seconds == 2
    assert estimate({"sda": MiB}, Speeds({"sdz": MiB, "sda": 0.0})) is None
    assert estimate({}, Speeds({"sda": MiB})) is None


def test_nothing_to_read_takes_no_time():
    found = estimate({"sda": 0}, Speeds({"sda": 5.0 * MiB}))
    assert found is not None and (found.seconds, found.rate) == (0, 5 * MiB)


def test_a_file_is_measured_and_what_cannot_be_read_is_not(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(20 * MiB))
    rate = read_rate(str(path), 20 * MiB)
    assert rate is not None and rate > 0
    assert read_rate(str(path), MiB) is None  # less than one block: nothing to learn
    assert read_rate(str(tmp_path / "none"), 20 * MiB) is None


def test_the_rate_of_a_link_is_that_of_the_route_or_unknown(tmp_path):
    assert link_rate("127.0.0.1", tmp_path) is None
    (tmp_path / "class/net/lo").mkdir(parents=True)
    (tmp_path / "class/net/lo/speed").write_text("1000\n")
    assert link_rate("127.0.0.1", tmp_path) == pytest.approx(112.5e6)
    (tmp_path / "class/net/lo/speed").write_text("-1\n")
    assert link_rate("127.0.0.1", tmp_path) is None
    assert link_rate("no such host", tmp_path) is None
