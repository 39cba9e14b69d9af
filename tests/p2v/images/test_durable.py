# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import stat
import subprocess
from pathlib import Path

import pytest

from agent.stream.local import LocalConverter
from p2v.images.durable import check_writable, write_durably
from p2v.model.errors import NoRoomError, UsageError
from p2v.service.converter import Converter, Settings


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


@pytest.fixture
def full(tmp_path):
    """A folder on a file system without room."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "full", tmp_path], check=True)
    try:
        with contextlib.suppress(OSError), (tmp_path / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.root
def test_a_folder_without_room_is_found_before_anything_is_begun(full):
    with pytest.raises(NoRoomError, match="No room left in"):
        check_writable(full)
    with pytest.raises(NoRoomError):
        LocalConverter(full)
    with pytest.raises(NoRoomError):
        Converter(Settings(full, "127.0.0.1", 0))
    assert [path.name for path in full.iterdir()] == ["filler"]


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(UsageError, match="/proc can't be written: No such file"):
        check_writable(Path("/proc"))
