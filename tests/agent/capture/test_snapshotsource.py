# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk put together of what is there, what was kept, snapshots and nothing.

Real snapshots need device-mapper: tests/e2e/test_live_guest.py has them, in a guest.
"""

import mmap
import random
from pathlib import Path

import pytest

from agent.capture.bad import BadRanges
from agent.capture.snapshotsource import SnapshotSource
from agent.capture.volumes import Part
from p2v.model.errors import SnapshotLostError

KiB = 1 << 10
SIZE = 1024 * KiB


class Volumes:
    """Where snapshots are, and whether they hold."""

    def __init__(self, **files: Path) -> None:
        self.files = files
        self.lost = False

    def device(self, volume):
        return self.files[volume]

    def check(self, volume):
        if self.lost:
            raise SnapshotLostError(volume=volume)


@pytest.fixture
def disk(tmp_path):
    dice = random.Random(3)
    files = {name: dice.randbytes(SIZE) for name in ("disk", "home", "root")}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    kept = dice.randbytes(64 * KiB)
    parts = (
        Part(128 * KiB, 64 * KiB, None),
        Part(192 * KiB, 256 * KiB, "home", 512 * KiB),
        Part(448 * KiB, 128 * KiB, ""),
        Part(576 * KiB, 64 * KiB, "root", 0),
        Part(704 * KiB, 64 * KiB, "home", 0),
    )
    expected = bytearray(files["disk"])
    for part in parts:
        source = {None: kept, "": bytes(SIZE)}.get(part.volume) or files[part.volume]
        expected[part.offset : part.end] = source[part.at : part.at + part.length]
    volumes = Volumes(home=tmp_path / "home", root=tmp_path / "root")
    with SnapshotSource(tmp_path / "disk", parts, {128 * KiB: kept}, volumes) as source:
        yield source, bytes(expected), volumes


def read(source, offset, length):
    with mmap.mmap(-1, length) as buffer:
        source.readinto(offset, buffer)
        return buffer[:]


def test_every_range_is_put_together_of_its_parts(disk):
    source, expected, _ = disk
    assert read(source, 0, SIZE) == expected
    dice = random.Random(5)
    for _ in range(200):
        offset = dice.randrange(SIZE - 1)
        length = dice.randrange(1, SIZE - offset + 1)
        assert read(source, offset, length) == expected[offset : offset + length]
    with pytest.raises(ValueError, match="leave"):
        read(source, SIZE - 512, 1024)


def test_only_what_no_volume_has_counts_as_a_hole(disk):
    source, _, _ = disk
    stored = list(source.stored(0, SIZE))
    assert all(a < b for a, b in stored)
    holes = set(range(0, SIZE, 4096)) - {at for a, b in stored for at in range(a, b, 4096)}
    assert holes == set(range(448 * KiB, 576 * KiB, 4096))
    assert list(source.stored(460 * KiB, 4 * KiB)) == []
    assert list(source.stored(444 * KiB, 8 * KiB)) == [(444 * KiB, 448 * KiB)]


def test_bad_sectors_below_a_snapshot_are_those_of_the_disk(disk, monkeypatch):
    source, _, volumes = disk
    home = source._volumes["home"]
    whole = home.readinto

    def failing(offset, buffer):
        whole(offset, buffer)
        home.bad.add(512 * KiB + 8 * KiB, 4 * KiB)

    monkeypatch.setattr(home, "readinto", failing)
    read(source, 192 * KiB, 64 * KiB)
    assert [(bad.offset, bad.length) for bad in source.bad.extents] == [(200 * KiB, 4 * KiB)]
    home.bad = BadRanges()
    volumes.lost = True
    with pytest.raises(SnapshotLostError, match="home"):
        read(source, 192 * KiB, 64 * KiB)


def test_its_files_are_closed_with_it(disk):
    source, _, _ = disk
    held = len(list(Path("/proc/self/fd").iterdir()))
    source.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == held - 3
