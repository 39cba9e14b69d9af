# SPDX-License-Identifier: GPL-3.0-or-later
"""VHDX files that we write, as four independent readers see them."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from uuid import UUID

import pytest

from p2v.images.base import ImageReader, ImageWriter
from p2v.images.vhdx import VhdxReader, VhdxWriter, detect
from p2v.images.vhdx_create import default_block_size
from p2v.model.errors import ImageError, ImageIncompleteError
from p2v.model.extent import Extent
from p2v.model.units import GiB, KiB, MiB, TiB
from tests.p2v.images.oracles import (
    Vhdi,
    complaints,
    is_sparse,
    qemu_accepts,
    qemu_read,
    qemu_refuses,
    qemu_same,
    run,
    sevenzip_accepts,
    sevenzip_extract,
)

ENTRY_CHUNK = 4 * GiB  # disk between two interleaved bitmap entries, at 512-byte sectors

SHAPES = [
    pytest.param(5 * GiB + 3 * MiB, {}, id="dynamic over 4 GiB"),
    pytest.param(9 * GiB, {"block_size": MiB}, id="1 MiB blocks"),
    pytest.param(9 * GiB, {"block_size": 256 * MiB}, id="256 MiB blocks", marks=pytest.mark.slow),
    pytest.param(200 * MiB, {"block_size": 256 * MiB}, id="a block larger than the disk"),
    pytest.param(40 * MiB, {"fixed": True}, id="fixed"),
    pytest.param(70 * MiB, {"fixed": True, "block_size": 32 * MiB}, id="fixed, partial last block"),
    pytest.param(40 * GiB, {"sector_size": 4096}, id="4096-byte sectors over 32 GiB"),
    pytest.param(20 * MiB, {"sector_size": 4096, "fixed": True}, id="4096-byte sectors, fixed"),
    pytest.param(20 * MiB, {"physical_sector_size": 512}, id="physical sectors of 512 bytes"),
    pytest.param(512, {}, id="one sector"),
    pytest.param(10 * MiB + 512, {}, id="odd size"),
    pytest.param(3 * MiB - 4096, {"sector_size": 4096, "block_size": MiB}, id="odd size, 4096"),
]


class Source:
    """A disk of random and zero ranges: written to an image and, as the truth, to a raw file."""

    def __init__(self, writer: ImageWriter, raw: Path, seed: int = 1) -> None:
        self.writer = writer
        self.raw = raw
        self.random = random.Random(seed)
        with raw.open("wb") as file:
            file.truncate(writer.size)

    def write(self, offset: int, length: int) -> None:
        data = self.random.randbytes(length)
        self.writer.write(offset, data)
        self._put(offset, data)

    def zero(self, offset: int, length: int) -> None:
        self.writer.zero(offset, length)
        self._put(offset, bytes(length))

    def _put(self, offset: int, data: bytes) -> None:
        with self.raw.open("r+b") as file:
            file.seek(offset)
            file.write(data)


def borders(size: int, block_size: int) -> list[int]:
    """Where off-by-one mistakes live."""
    places = {0, block_size, size // 2, ENTRY_CHUNK, 8 * ENTRY_CHUNK, size}
    return sorted(place for place in places if place <= size)


def write_borders(source: Source) -> None:
    size = source.writer.size
    for place in borders(size, source.writer.block_size):
        start, end = max(place - 5000, 0), min(place + 7000, size)
        source.write(start, end - start)
    source.zero(size // 3, min(20000, size - size // 3))
    source.write(size // 3, min(3000, size - size // 3))


def read(image: ImageReader, offset: int, length: int) -> bytes:
    buffer = bytearray(b"\xa5" * length)
    image.readinto(offset, buffer)
    return bytes(buffer)


@pytest.mark.parametrize(("size", "options"), SHAPES)
def test_every_reader_finds_the_disk_that_was_written(tmp_path, size, options):
    path, raw = tmp_path / "disk.vhdx", tmp_path / "disk.raw"
    writer = VhdxWriter.create(path, size, **options)
    write_borders(Source(writer, raw))
    writer.commit()
    writer.close()

    assert not is_sparse(path)
    block_size = options.get("block_size", MiB)
    stored = path.stat().st_size
    assert stored % MiB == 0
    if options.get("fixed"):
        assert stored >= -(-size // block_size) * block_size
    reader, vhdi = VhdxReader.open(path), Vhdi(path)
    assert (reader.size, vhdi.size) == (size, size)
    assert reader.sector_size == options.get("sector_size", 512)
    assert reader.block_size == block_size
    with raw.open("rb") as truth:
        for place in [*borders(size, block_size), size // 3]:
            start = max(place - place % 512 - 16 * KiB, 0)
            length = min(48 * KiB, size - start)
            truth.seek(start)
            expected = truth.read(length)
            assert read(reader, start, length) == expected
            assert vhdi.read(start, length) == expected
            if reader.sector_size == 512:  # QEMU supports no other
                assert qemu_read(path, start, length) == expected
    vhdi.close()
    reader.close()
    assert complaints(path) == []
    if reader.sector_size == 512:
        qemu_accepts(path)
        if size <= 70 * MiB:
            qemu_same(path, raw)
    if size // reader.sector_size % 2 == 0:  # 7-Zip 26.02 refuses an odd number of sectors
        sevenzip_accepts(path)
    if size <= 70 * MiB and size // reader.sector_size % 2 == 0:
        extracted = sevenzip_extract(path, tmp_path / "7z")
        assert extracted.read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("sector_size", [512, 4096])
def test_a_disk_of_64_tib_takes_the_room_of_what_is_in_it(tmp_path, sector_size):
    path, size = tmp_path / "huge.vhdx", 64 * TiB
    writer = VhdxWriter.create(path, size, sector_size=sector_size)
    places = [0, 32 * TiB - 100, size - MiB]
    parts = {place: random.Random(place).randbytes(MiB) for place in places}
    for place, data in parts.items():
        writer.write(place, data)
    writer.zero(0, size // 8)
    parts[0] = bytes(MiB)
    writer.commit()
    writer.close()
    assert path.stat().st_size < 200 * MiB
    reader, vhdi = VhdxReader.open(path), Vhdi(path)
    for place, data in parts.items():
        assert read(reader, place, MiB) == data
        assert vhdi.read(place, MiB) == data
    assert read(reader, 48 * TiB, MiB) == bytes(MiB)
    assert vhdi.read(48 * TiB, MiB) == bytes(MiB)
    extents = list(reader.extents())
    assert sum(extent.length for extent in extents) == size
    assert sum(extent.length for extent in extents if not extent.zero) == 4 * 8 * MiB
    vhdi.close()
    reader.close()
    if sector_size == 512:
        qemu_accepts(path)


@pytest.mark.slow
def test_the_largest_table_works(tmp_path):
    path, size = tmp_path / "huge.vhdx", 64 * TiB
    writer = VhdxWriter.create(path, size, block_size=MiB)
    writer.write(size - 100, b"x" * 100)
    writer.checkpoint()
    writer.close()
    writer = VhdxWriter.resume(path)
    writer.commit()
    writer.close()
    assert path.stat().st_size == (1 + 1 + 1 + 513 + 1) * MiB
    assert Vhdi(path).read(size - 100, 100) == b"x" * 100
    qemu_accepts(path)


@pytest.mark.parametrize(
    ("size", "block_size"),
    [(1 * MiB, 1 * MiB), (8 * TiB, 1 * MiB), (8 * TiB + 512, 2 * MiB), (64 * TiB, 8 * MiB)],
)
def test_blocks_are_small_until_the_table_would_grow_large(size, block_size):
    assert default_block_size(size) == block_size


def test_a_partial_image_is_refused_by_everybody(tmp_path):
    writer = VhdxWriter.create(tmp_path / "disk.vhdx", 10 * MiB)
    writer.write(0, b"x" * 4096)
    writer.checkpoint()
    assert not (tmp_path / "disk.vhdx").exists()
    qemu_refuses(writer.partial)
    with pytest.raises(ImageIncompleteError):
        VhdxReader.open(writer.partial)
    peek = VhdxReader.open(writer.partial, allow_incomplete=True)
    assert peek.incomplete
    assert read(peek, 0, 4097) == b"x" * 4096 + b"\0"
    peek.close()
    writer.close()


def test_a_committed_image_that_is_resumed_is_partial_until_it_is_committed_again(tmp_path):
    path, raw = tmp_path / "disk.vhdx", tmp_path / "disk.raw"
    writer = VhdxWriter.create(path, 30 * MiB)
    source = Source(writer, raw)
    source.write(MiB, 3 * MiB)
    writer.commit()
    writer.close()
    qemu_same(path, raw)
    first = path.read_bytes()

    source.writer = writer = VhdxWriter.resume(path)
    assert not path.exists()
    qemu_refuses(writer.partial)
    source.zero(2 * MiB, MiB)
    source.write(20 * MiB, MiB)
    source.write(MiB + 5, 5)
    writer.commit()
    writer.close()
    assert not writer.partial.exists()
    qemu_accepts(path)
    qemu_same(path, raw)
    sevenzip_accepts(path)
    second = path.read_bytes()
    for header in (0x10000, 0x20000):
        assert first[header + 16 : header + 48] != second[header + 16 : header + 48]
    assert first[0x200000:0x300000] == second[0x200000:0x300000]  # metadata


def test_both_headers_are_valid_and_their_sequence_numbers_differ(tmp_path):
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, 10 * MiB)
    writer.commit()
    writer.close()
    good = path.read_bytes()
    sequences = set()
    for broken, left in ((0x10000, 0x20000), (0x20000, 0x10000)):
        damaged = bytearray(good)
        damaged[broken + 100] ^= 1
        path.write_bytes(damaged)
        VhdxReader.open(path).close()
        qemu_accepts(path)
        sequences.add(int.from_bytes(good[left + 8 : left + 16], "little"))
    assert len(sequences) == 2
    assert good[0x30000:0x40000] == good[0x40000:0x50000]
    sequence, ids = good[0x20008:0x20010], good[0x20030:0x20040]
    assert sequence != bytes(8)
    assert ids == bytes(16)  # no log


def test_the_disk_id_is_kept(tmp_path):
    disk_id = UUID("5e0f0a5c-6ee5-4cf3-9a35-d0b3a5cf5f0e")
    writer = VhdxWriter.create(tmp_path / "disk.vhdx", MiB, disk_id=disk_id)
    writer.commit()
    writer.close()
    reader = VhdxReader.open(tmp_path / "disk.vhdx")
    assert (reader.disk_id, reader.creator, reader.fixed) == (disk_id, "p2v", False)
    reader.close()


def test_many_threads_write_and_zero_at_once(tmp_path):
    path, raw = tmp_path / "disk.vhdx", tmp_path / "disk.raw"
    size, step = 48 * MiB, 96 * KiB
    truth = bytearray(size)
    writer = VhdxWriter.create(path, size, block_size=MiB)
    pieces = [(start, min(step, size - start)) for start in range(0, size, step)]
    random.Random(3).shuffle(pieces)
    failures = []

    def work(worker: int) -> None:
        rng = random.Random(worker)
        try:
            for number, (start, length) in enumerate(pieces[worker::6]):
                for _ in range(2):  # every piece is written again
                    data = rng.randbytes(length)
                    writer.write(start, data)
                if number % 5 == 0:
                    data = bytes(length)
                    writer.zero(start, length)
                truth[start : start + length] = data
                if number % 20 == 0:
                    writer.checkpoint()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert read(writer, 0, size) == truth
    writer.commit()
    writer.close()
    assert path.stat().st_size == 52 * MiB  # no block was allocated twice
    raw.write_bytes(truth)
    qemu_accepts(path)
    qemu_same(path, raw)
    sevenzip_accepts(path)


def test_zeros_take_no_room(tmp_path):
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, 8 * TiB)
    writer.zero(0, 8 * TiB)
    writer.zero(123, 5 * GiB)
    writer.commit()
    writer.close()
    assert path.stat().st_size < 70 * MiB
    reader = VhdxReader.open(path)
    assert list(reader.extents()) == [Extent(0, 8 * TiB, zero=True)]
    reader.close()


def test_extents_cover_the_range_without_gaps(tmp_path):
    writer = VhdxWriter.create(tmp_path / "disk.vhdx", 9 * GiB + MiB, block_size=MiB)
    for block in (0, 1, 4095, 4096, 9 * 1024):  # 4096 is the first behind a bitmap entry
        writer.write(block * MiB + 10, b"x")
    assert list(writer.extents()) == [
        Extent(0, 2 * MiB),
        Extent(2 * MiB, 4093 * MiB, zero=True),
        Extent(4095 * MiB, 2 * MiB),
        Extent(4097 * MiB, 5119 * MiB, zero=True),
        Extent(9 * GiB, MiB),
    ]
    assert list(writer.extents(MiB + 5, MiB)) == [
        Extent(MiB + 5, MiB - 5),
        Extent(2 * MiB, 5, zero=True),
    ]
    assert list(writer.extents(9 * GiB + 1)) == [Extent(9 * GiB + 1, MiB - 1)]
    assert list(writer.extents(5, 0)) == []
    writer.close()


def test_an_image_of_another_program_can_be_gone_on_with(tmp_path):
    path, raw = tmp_path / "disk.vhdx", tmp_path / "disk.raw"
    raw.write_bytes(random.Random(7).randbytes(5 * MiB) + bytes(30 * MiB))
    assert run("qemu-img", "convert", "-O", "vhdx", raw, path).returncode == 0
    writer = VhdxWriter.resume(path)
    data = random.Random(8).randbytes(20 * MiB)
    writer.write(4 * MiB, data)
    writer.zero(MiB, MiB)
    writer.commit()
    writer.close()
    with raw.open("r+b") as file:
        file.seek(4 * MiB)
        file.write(data)
        file.seek(MiB)
        file.write(bytes(MiB))
    qemu_accepts(path)
    qemu_same(path, raw)
    assert not is_sparse(path)


@pytest.mark.parametrize(
    ("size", "options", "complaint"),
    [
        (1000, {}, "make it 1024 bytes long"),
        (MiB + 512, {"sector_size": 4096}, "not a multiple of its 4096-byte sectors"),
        (0, {}, "has 0 bytes"),
        (64 * TiB + 512, {}, "to 64 TiB"),
        (MiB, {"sector_size": 520}, "520 bytes"),
        (MiB, {"physical_sector_size": 8192}, "8192 bytes"),
        (MiB, {"block_size": 3 * MiB}, "3145728"),
        (MiB, {"block_size": 512 * MiB}, "256 MiB"),
        (MiB, {"block_size": 0}, "block size is 0"),
    ],
)
def test_what_the_format_cannot_hold_is_refused_with_the_reason(tmp_path, size, options, complaint):
    with pytest.raises(ImageError, match=complaint):
        VhdxWriter.create(tmp_path / "disk.vhdx", size, **options)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "disk.vhdx"
    path.write_bytes(b"precious")
    with pytest.raises(ImageError, match="already exists"):
        VhdxWriter.create(path, MiB)
    path.unlink()
    writer = VhdxWriter.create(path, MiB)
    with pytest.raises(ImageError, match="already exists"):
        VhdxWriter.create(path, MiB)
    path.write_bytes(b"precious")
    with pytest.raises(ImageError, match="already exists"):
        writer.commit()
    assert path.read_bytes() == b"precious"
    path.unlink()
    writer.commit()
    writer.close()
    VhdxReader.open(path).close()


def test_a_creation_that_was_interrupted_is_begun_anew(tmp_path):
    path, partial = tmp_path / "disk.vhdx", tmp_path / "disk.vhdx.partial"
    for left in (b"", b"p2v new\0" + bytes(5 * MiB)):
        partial.write_bytes(left)
        writer = VhdxWriter.create(path, MiB)
        writer.close()
        VhdxReader.open(partial, allow_incomplete=True).close()
        partial.unlink()
    partial.write_bytes(bytes(4096))
    with pytest.raises(ImageError, match="already exists"):
        VhdxWriter.create(path, MiB)


def test_two_writers_of_one_image_are_not_possible(tmp_path):
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, MiB)
    with pytest.raises(ImageError, match="somebody else"):
        VhdxWriter.resume(path)
    writer.close()
    VhdxWriter.resume(path).close()


def test_a_finished_or_closed_writer_refuses_to_write(tmp_path):
    writer = VhdxWriter.create(tmp_path / "one.vhdx", MiB)
    writer.close()
    for act in (writer.checkpoint, writer.commit, lambda: writer.write(0, b"x")):
        with pytest.raises(ImageError, match="closed"):
            act()
    writer = VhdxWriter.create(tmp_path / "two.vhdx", MiB)
    writer.commit()
    for act in (writer.checkpoint, lambda: writer.zero(0, 1), lambda: writer.write(0, b"x")):
        with pytest.raises(ImageError, match="committed"):
            act()
    writer.close()


@pytest.mark.parametrize("offset", [-1, MiB - 1, MiB, 2**64])
def test_ranges_outside_the_disk_are_refused(tmp_path, offset):
    writer = VhdxWriter.create(tmp_path / "disk.vhdx", MiB)
    for act in (
        lambda: writer.write(offset, b"xx"),
        lambda: writer.zero(offset, 2),
        lambda: writer.readinto(offset, bytearray(2)),
        lambda: list(writer.extents(offset, 2)),
    ):
        with pytest.raises(ImageError, match="leave the disk"):
            act()
    writer.close()


def test_a_disk_that_fails_to_sync_is_not_trusted_again(tmp_path, monkeypatch):
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, 4 * MiB)
    writer.write(0, b"kept")
    writer.checkpoint()
    writer.write(2 * MiB, b"lost")
    with monkeypatch.context() as patch:

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(ImageError, match="Input/output error"):
            writer.checkpoint()
    for act in (writer.checkpoint, writer.commit):
        with pytest.raises(ImageError, match="resume"):
            act()
    writer.close()
    writer = VhdxWriter.resume(path)
    assert read(writer, 0, 4) == b"kept"
    assert read(writer, 2 * MiB, 4) == bytes(4)
    writer.close()


def test_formats_are_told_apart():
    assert detect(b"vhdxfile" + bytes(10))
    assert not detect(b"QFI\xfb" + bytes(10))
    assert not detect(b"vhdx")
