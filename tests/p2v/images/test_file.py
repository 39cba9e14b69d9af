# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole reads and writes, holes and room, on real file systems and on ones that know no holes."""

import errno
import os
import random

import pytest

from p2v.images import _file
from p2v.images._file import (
    allocate,
    fill_holes,
    pread_exact,
    punch,
    pwrite_all,
    stored,
    zero_range,
)
from p2v.model.errors import ImageError, NoRoomError
from p2v.model.units import KiB, MiB


@pytest.fixture
def fd(tmp_path):
    number = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield number
    os.close(number)


@pytest.fixture(params=["as it is", "without fallocate"])
def support(request, monkeypatch):
    """Run once with the file system's own way and once with the fallback."""
    if request.param == "without fallocate":
        monkeypatch.setattr(_file, "_fallocate", lambda *_: False)
    return request.param


def test_short_reads_and_writes_are_continued(fd, monkeypatch):
    pwrite, preadv = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:5]], offset))
    content = random.Random(1).randbytes(1000)
    pwrite_all(fd, 123, content)
    back = bytearray(1000)
    pread_exact(fd, 123, back)
    assert back == content


def test_a_short_file_is_named(fd, tmp_path):
    pwrite_all(fd, 0, bytes(100))
    with pytest.raises(ImageError, match=r"file: the file ends at byte 100, before the 60"):
        pread_exact(fd, 50, bytearray(60))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_file_system_is_no_room(fd, monkeypatch, tmp_path, number):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoRoomError) as caught:
        pwrite_all(fd, 0, bytes(4321))
    assert caught.value.fields == {"path": str(tmp_path / "file"), "needed": 4321}


def test_zeroed_and_punched_ranges_read_as_zeros(fd, support):
    for change, length in ((zero_range, 300_001), (punch, 300_001), (zero_range, 0), (punch, 0)):
        pwrite_all(fd, 0, b"x" * MiB)
        change(fd, 70_003, length)
        content = bytearray(MiB)
        pread_exact(fd, 0, content)
        assert content == b"x" * 70_003 + bytes(length) + b"x" * (MiB - 70_003 - length)


def test_zeroing_beyond_the_end_extends_the_file(fd, support):
    zero_range(fd, 1000, 5000)
    assert os.fstat(fd).st_size == 6000


def test_allocated_room_extends_the_file_and_keeps_its_content(fd, support):
    pwrite_all(fd, 0, b"kept")
    allocate(fd, 0, MiB)
    allocate(fd, 0, 10)
    assert os.fstat(fd).st_size == MiB
    content = bytearray(MiB)
    pread_exact(fd, 0, content)
    assert content == b"kept".ljust(MiB, b"\0")
    if support == "as it is":
        assert os.fstat(fd).st_blocks * 512 >= MiB


def test_stored_parts_are_told_and_holes_filled(fd):
    os.truncate(fd, MiB)
    pwrite_all(fd, 128 * KiB, b"a" * 64 * KiB)
    pwrite_all(fd, 512 * KiB, b"b" * 64 * KiB)
    assert list(stored(fd, 0, MiB)) == [(128 * KiB, 192 * KiB), (512 * KiB, 576 * KiB)]
    assert list(stored(fd, 130 * KiB, 10 * KiB)) == [(130 * KiB, 140 * KiB)]
    assert list(stored(fd, 600 * KiB, 10 * KiB)) == []
    before = bytearray(MiB)
    pread_exact(fd, 0, before)
    fill_holes(fd, 0, MiB)
    assert list(stored(fd, 0, MiB)) == [(0, MiB)]
    after = bytearray(MiB)
    pread_exact(fd, 0, after)
    assert after == before


def test_a_file_system_that_knows_no_holes_says_that_all_is_stored(fd, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    os.truncate(fd, MiB)
    monkeypatch.setattr(os, "lseek", refuse)
    assert list(stored(fd, 5, 100)) == [(5, 105)]
