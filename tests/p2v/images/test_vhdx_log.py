# SPDX-License-Identifier: GPL-3.0-or-later
"""VHDX logs that wait to be replayed: what QEMU makes of them on the disk, we make in memory."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2v.images.vhdx import VhdxReader, VhdxWriter
from p2v.images.vhdx_log import MAX_LOG
from p2v.model.errors import ImageError
from p2v.model.units import KiB, MiB
from tests.p2v.images import vhdxlog
from tests.p2v.images.oracles import qemu_read, run

PAYLOAD = 4 * MiB
SIZE = 3 * MiB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of 3 MiB, its first two blocks full of random bytes."""
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, SIZE, block_size=MiB)
    writer.write(0, random.Random(1).randbytes(2 * MiB))
    writer.commit()
    writer.close()
    return path


def pages(seed: int, *offsets: int) -> list[vhdxlog.Change]:
    rng = random.Random(seed)
    return [(offset, rng.randbytes(4096)) for offset in offsets]


def content(path: Path) -> bytes:
    reader, buffer = VhdxReader.open(path), bytearray(SIZE)
    reader.readinto(0, buffer)
    reader.close()
    return bytes(buffer)


def as_qemu_replays(path: Path) -> bytes:
    copy = path.with_name("replayed.vhdx")
    shutil.copyfile(path, copy)
    result = run("qemu-img", "check", "-r", "all", copy)
    assert result.returncode == 0, result.stdout + result.stderr
    return qemu_read(copy, 0, SIZE)


def agree(path: Path) -> bytes:
    before = path.read_bytes()
    ours = content(path)
    assert path.read_bytes() == before
    assert ours == as_qemu_replays(path)
    return ours


def third_block(path: Path) -> bytes:
    """The page of the block table, with a third block behind the file's present end."""
    table = bytearray(path.read_bytes()[3 * MiB : 3 * MiB + 4096])
    table[16:24] = (path.stat().st_size | 6).to_bytes(8, "little")
    return bytes(table)


def test_pages_are_laid_over_data(image):
    plain = content(image)
    changes = pages(2, PAYLOAD, PAYLOAD + 64 * KiB, PAYLOAD + MiB + 8 * KiB)
    size = image.stat().st_size
    vhdxlog.put_log(image, 0, [vhdxlog.entry(7, 0, changes, size)])
    replayed = agree(image)
    expected = bytearray(plain)
    for offset, page in changes:
        expected[offset - PAYLOAD : offset - PAYLOAD + 4096] = page
    assert replayed == expected


def test_ranges_are_cleared_and_later_entries_win(image):
    size = image.stat().st_size
    first = vhdxlog.entry(1, 0, [(PAYLOAD, 128 * KiB), *pages(3, PAYLOAD + 4096)], size)
    second = vhdxlog.entry(2, 0, [(PAYLOAD + 4096, 4096), *pages(4, PAYLOAD + 8192, PAYLOAD)], size)
    vhdxlog.put_log(image, 0, [first, second])
    replayed = agree(image)
    assert replayed[4096:8192] == bytes(4096)
    assert replayed[12288 : 128 * KiB] == bytes(116 * KiB)
    assert any(replayed[:4096]) and any(replayed[8192:12288])


def test_the_block_table_itself_may_be_in_the_log(image):
    size = image.stat().st_size
    changes = [(3 * MiB, third_block(image)), *pages(5, size + 4096)]
    vhdxlog.put_log(image, 0, [vhdxlog.entry(1, 0, changes, size + MiB)])
    with image.open("r+b") as file:
        file.truncate(size + MiB)
    replayed = agree(image)
    assert replayed[2 * MiB + 4096 : 2 * MiB + 8192] == changes[1][1]


def test_a_file_that_the_log_makes_longer_reads_as_zeros_there(image):
    size = image.stat().st_size
    raw = bytearray(vhdxlog.entry(1, 0, [(3 * MiB, third_block(image))], size))
    raw[56:64] = (size + MiB).to_bytes(8, "little")  # only LastFileOffset
    vhdxlog.put_log(image, 0, [vhdxlog.sealed(raw)])
    assert content(image)[2 * MiB :] == bytes(MiB)
    reader = VhdxReader.open(image)
    assert [extent.zero for extent in reader.extents()] == [False]
    reader.close()


@pytest.mark.parametrize("start", [8 * KiB, 12 * KiB, 16 * KiB, 20 * KiB, 24 * KiB])
def test_entries_wrap_around_the_ring(image, start):
    plain, size = bytearray(content(image)), image.stat().st_size
    at = vhdxlog.LOG_LENGTH - start
    changes = [pages(6, PAYLOAD, PAYLOAD + 4096), pages(7, PAYLOAD + 8192, PAYLOAD)]
    entries = [vhdxlog.entry(10 + n, at, each, size) for n, each in enumerate(changes)]
    vhdxlog.put_log(image, at, entries)
    for offset, page in changes[0] + changes[1]:
        plain[offset - PAYLOAD : offset - PAYLOAD + 4096] = page
    assert content(image) == plain


def test_what_lies_before_the_tail_is_not_replayed(image):
    size = image.stat().st_size
    stale = [vhdxlog.entry(n, 0, pages(n, PAYLOAD + n * 4096), size) for n in range(1, 6)]
    vhdxlog.put_log(image, 0, stale)
    plain = agree(image)
    last = vhdxlog.entry(6, 40 * KiB, pages(9, PAYLOAD), size)  # its tail is itself
    vhdxlog.put_log(image, 40 * KiB, [last])
    with image.open("r+b") as file:  # QEMU 7.2 would replay the entries before the tail as well
        file.seek(PAYLOAD)
        file.write(plain[: 64 * KiB])
        file.seek(PAYLOAD + 4096)
        file.write(b"newer than the log".ljust(4096, b"."))
    replayed = content(image)
    assert replayed[4096:8192] == b"newer than the log".ljust(4096, b".")
    assert replayed[:4096] != plain[:4096]
    assert replayed[8192:] == plain[8192:]


def test_the_newer_of_two_sequences_is_replayed(image):
    size = image.stat().st_size
    for at, sequence in ((0, 20), (64 * KiB, 3), (128 * KiB, 30), (192 * KiB, 7)):
        raw = vhdxlog.entry(sequence, at, pages(sequence, PAYLOAD), size)
        vhdxlog.put_log(image, at, [raw])
    assert agree(image)[:4096] == pages(30, PAYLOAD)[0][1]


def test_an_entry_torn_by_a_crash_ends_the_sequence(image):
    size = image.stat().st_size
    good = vhdxlog.entry(1, 0, pages(11, PAYLOAD), size)
    torn = bytearray(vhdxlog.entry(2, 0, pages(12, PAYLOAD, PAYLOAD + 4096), size))
    torn[-4096:] = bytes(4096)
    vhdxlog.put_log(image, 0, [good, bytes(torn)])
    agree(image)


def test_a_log_is_left_alone_where_the_header_says_that_it_is_empty(image):
    plain = content(image)
    before = image.read_bytes()
    vhdxlog.put_log(image, 0, [vhdxlog.entry(1, 0, pages(2, PAYLOAD), len(before))])
    with image.open("r+b") as file:
        file.write(before[:MiB])
    assert content(image) == plain


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda raw: raw, None),
        (lambda raw: bytes(len(raw)), "no valid entry"),
        (lambda raw: vhdxlog.sealed(bytearray(raw[:64] + b"what" + raw[68:])), "b'what'"),
        (lambda raw: vhdxlog.sealed(bytearray(raw[:80] + b"\1" + raw[81:])), "change to byte"),
        (lambda raw: vhdxlog.sealed(bytearray(raw[:4096] + b"dada" + raw[4100:])), "is torn"),
        (lambda raw: vhdxlog.sealed(bytearray(raw[:48] + b"\377" * 6 + raw[54:])), "was cut"),
        (lambda raw: vhdxlog.sealed(bytearray(raw[:24] + b"\377" * 4 + raw[28:])), "no valid"),
    ],
    ids=["good", "empty", "descriptor", "offset", "data", "flushed size", "count"],
)
def test_a_damaged_log_is_refused_with_the_reason(image, break_it, complaint):
    raw = vhdxlog.entry(1, 0, pages(2, PAYLOAD), image.stat().st_size)
    vhdxlog.put_log(image, 0, [break_it(raw)])
    if complaint is None:
        VhdxReader.open(image).close()
    else:
        with pytest.raises(ImageError, match=complaint):
            VhdxReader.open(image)


def test_a_log_too_long_to_hold_in_memory_is_refused(image):
    with image.open("r+b") as file:
        for slot in (0x10000, 0x20000):
            file.seek(slot)
            header = bytearray(file.read(4096))
            header[68:72] = (MAX_LOG + MiB).to_bytes(4, "little")
            header[72:80] = (200 * MiB).to_bytes(8, "little")
            file.seek(slot)
            file.write(vhdxlog.sealed(header))
        file.truncate(400 * MiB)
    vhdxlog.point_to_log(image)
    with pytest.raises(ImageError, match="too long to replay in memory"):
        VhdxReader.open(image)


def test_an_image_whose_log_waits_is_not_written(image):
    vhdxlog.put_log(image, 0, [vhdxlog.entry(1, 0, pages(2, PAYLOAD), image.stat().st_size)])
    before = image.read_bytes()
    with pytest.raises(ImageError, match="log waits"):
        VhdxWriter.resume(image)
    assert image.read_bytes() == before


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_log_makes_the_reader_fail_otherwise(image, data):
    size = image.stat().st_size
    raw = bytearray(vhdxlog.entry(3, 0, [(PAYLOAD, 8192), *pages(2, PAYLOAD)], size))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 140) | st.integers(4096, 4110))
        raw[at] = data.draw(st.integers(0, 255))
    vhdxlog.put_log(image, 0, [vhdxlog.sealed(raw)])
    with suppress(ImageError):
        VhdxReader.open(image).close()
