# SPDX-License-Identifier: GPL-3.0-or-later
"""Scratch folders go with their process, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2v.guest import scratch
from p2v.guest.scratch import Scratch

HOLD = """
import sys, time
from p2v.guest.scratch import Scratch
one = Scratch("test", sys.argv[1])
(one.path / "overlay").write_text("x")
print(one.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def old(monkeypatch):
    """Every folder counts as old enough to be looked at."""
    monkeypatch.setattr(scratch, "_YOUNG_S", -1)


def test_it_is_private_and_deleted_at_the_end(tmp_path):
    with Scratch("test", str(tmp_path)) as one:
        assert one.path.stat().st_mode & 0o777 == 0o700
        (one.path / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []
    one.close()


def test_the_next_one_deletes_what_a_killed_process_left_and_nothing_else(tmp_path):
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        killed, alive = (Path(holder.stdout.readline().strip()) for holder in holders)
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        (tmp_path / "p2v-other.1").mkdir()
        (tmp_path / "p2v-test.link").symlink_to(tmp_path / "p2v-other.1")
        (tmp_path / "p2v-test.file").touch()
        assert killed.exists()
        with Scratch("test", str(tmp_path)):
            assert not killed.exists()
            assert (alive / "overlay").exists()
        left = {"p2v-other.1", "p2v-test.link", "p2v-test.file", alive.name}
        assert {path.name for path in tmp_path.iterdir()} == left
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_a_young_one_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_YOUNG_S", 60)
    (tmp_path / "p2v-test.young").mkdir()
    with Scratch("test", str(tmp_path)):
        assert (tmp_path / "p2v-test.young").exists()
