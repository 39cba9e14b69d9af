# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import stat

import pytest

from p2v.images.durable import write_durably


def test_a_file_is_replaced_whole_and_has_its_mode_from_the_start(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    write_durably(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["f"]


def test_what_a_crash_left_does_not_stop_the_next_write(tmp_path):
    (tmp_path / ".f.new").write_text("half")
    write_durably(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_durably(path, "no bytes")
    assert path.read_text() == "old"
