# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess

import pytest

from p2v.model.errors import NoRoomError
from p2v.model.units import MiB
from p2v.service.room import FRACTION, INTERVAL, Room

SIZE = 64 * MiB


@pytest.fixture
def folder(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.root
def test_the_last_sixteenth_of_a_small_file_system_is_not_given_away(folder):
    room = Room(folder)
    room.take(1)
    ballast = folder / "ballast"
    ballast.write_bytes(bytes(SIZE - SIZE // FRACTION + 4096))
    room.take(INTERVAL - 1)
    with pytest.raises(NoRoomError) as caught:
        room.take(1)
    assert caught.value.fields == {"path": folder, "needed": 4096}
    with pytest.raises(NoRoomError):
        room.take(1)
    ballast.unlink()
    room.take(INTERVAL)
