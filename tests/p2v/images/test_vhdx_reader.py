# SPDX-License-Identifier: GPL-3.0-or-later
"""VHDX files of other programs, and files that are damaged on purpose."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2v.images.vhdx import VhdxReader, VhdxWriter
from p2v.model.errors import ImageError
from p2v.model.units import GiB, MiB
from tests.p2v.images import corpus
from tests.p2v.images.oracles import Vhdi, qemu_read, qemu_refuses, run
from tests.p2v.images.vhdxlog import sealed

HEADERS = (0x10000, 0x20000)
REGIONS = (0x30000, 0x40000)
METADATA, BAT = 0x200000, 0x300000


def downloads(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that fetches its files when it runs for the first time."""
    return pytest.mark.slow(pytest.mark.timeout(400)(test))


def fetched(fetch: Callable[[str], Path], name: str) -> Path:
    try:
        return fetch(name)
    except corpus.UnreachableError as error:
        pytest.skip(f"{name} cannot be fetched here: {error}")


def read(path: Path, offset: int, length: int) -> bytes:
    reader, buffer = VhdxReader.open(path), bytearray(length)
    reader.readinto(offset, buffer)
    reader.close()
    return bytes(buffer)


@downloads
@pytest.mark.parametrize("name", ["fixed.vhdx", "dynamic.vhdx"])
def test_files_of_windows_read_as_qemu_and_libvhdi_read_them(name):
    path = fetched(corpus.windows, name)
    reader, vhdi = VhdxReader.open(path), Vhdi(path)
    assert reader.creator.startswith("Microsoft Windows 10")
    assert reader.fixed is (name == "fixed.vhdx")
    assert reader.size == vhdi.size == 10 * MiB
    data = read(path, 0, 10 * MiB)
    assert data == qemu_read(path, 0, 10 * MiB)
    assert data == vhdi.read(0, 10 * MiB)
    assert any(data)
    vhdi.close()
    reader.close()


@downloads
@pytest.mark.parametrize(
    ("name", "creator", "size"),
    [
        ("iotest-dynamic-1G.vhdx", "Microsoft Windows 6.2.9200", GiB),
        ("test-disk2vhd.vhdx", "d2v", 256 * MiB),  # its headers have equal sequence numbers
    ],
)
def test_samples_of_qemu_read_as_qemu_reads_them(name, creator, size):
    path = fetched(corpus.iotest, name)
    reader = VhdxReader.open(path)
    assert reader.creator.startswith(creator)
    assert reader.size == size
    for extent in reader.extents():
        length = 1 if extent.zero else min(extent.length, 100 * MiB)
        length = -(-length // 4096) * 4096
        assert read(path, extent.offset, length) == qemu_read(path, extent.offset, length)
    reader.close()


@downloads
def test_a_real_log_is_replayed_in_memory_as_qemu_replays_it_on_the_disk(tmp_path):
    original = fetched(corpus.iotest, "iotest-dirtylog-10G-4M.vhdx")
    qemu_refuses(original)  # read-only: the log has to be replayed first
    reader = VhdxReader.open(original)
    stored = [extent for extent in reader.extents() if not extent.zero]
    reader.close()
    replayed = tmp_path / "replayed.vhdx"
    shutil.copyfile(original, replayed)
    assert run("qemu-img", "check", "-r", "all", replayed).returncode == 0
    after = VhdxReader.open(replayed)
    assert [extent for extent in after.extents() if not extent.zero] == stored
    after.close()
    for extent in stored:
        expected = qemu_read(replayed, extent.offset, extent.length)
        assert read(original, extent.offset, extent.length) == expected


@downloads
def test_a_differencing_disk_is_refused():
    path = fetched(corpus.windows, "differencing.avhdx")
    with pytest.raises(ImageError, match="differencing disk; merge it"):
        VhdxReader.open(path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk of 5 MiB with blocks 0 and 3 stored."""
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, 5 * MiB, block_size=MiB)
    writer.write(0, b"A" * MiB)
    writer.write(3 * MiB, b"B" * MiB)
    writer.commit()
    writer.close()
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def patch_sealed(path: Path, places: tuple[int, ...], length: int, at: int, data: bytes) -> None:
    """Change structures that have a checksum, and make the checksum right."""
    for place in places:
        with path.open("r+b") as file:
            file.seek(place)
            raw = bytearray(file.read(length))
            raw[at : at + len(data)] = data
            file.seek(place)
            file.write(sealed(raw))


@pytest.mark.parametrize("state", [0, 1, 2, 3])
def test_blocks_of_four_states_read_as_zeros(image, state):
    patch(image, BAT, struct.pack("<Q", state | 4 << 20))
    assert read(image, 0, MiB) == bytes(MiB)
    assert qemu_read(image, 0, MiB) == bytes(MiB)


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        (4 | 4 << 20, "not allowed: 0x0000000000400004"),
        (5 | 4 << 20, "not allowed"),
        (7 | 4 << 20, "not allowed"),
        (6 | 8 | 4 << 20, "not allowed"),
        (6 | 1 << 19 | 4 << 20, "not allowed"),
        (6 | 6 << 20, "beyond the file's end"),
        (6 | 1 << 60, "beyond the file's end"),
        (6, "over the file's structures"),
        (6 | 1 << 20, "over the file's structures"),
        (6 | 2 << 20, "over the file's structures"),
        (6 | 3 << 20, "over the file's structures"),
    ],
)
def test_an_entry_that_is_not_allowed_is_refused(image, entry, complaint):
    patch(image, BAT, struct.pack("<Q", entry))
    reader = VhdxReader.open(image)
    assert reader.size == 5 * MiB  # the rest of the disk can still be read
    buffer = bytearray(4096)
    reader.readinto(3 * MiB, buffer)
    assert buffer == b"B" * 4096
    with pytest.raises(ImageError, match=complaint):
        reader.readinto(MiB - 1, bytearray(2))
    with pytest.raises(ImageError, match=complaint):
        list(reader.extents())
    reader.close()
    with pytest.raises(ImageError, match=complaint):
        VhdxWriter.resume(image)
    assert image.exists()


def test_a_last_block_that_ends_with_the_disk_is_read(tmp_path):
    path = tmp_path / "disk.vhdx"
    writer = VhdxWriter.create(path, 3 * MiB // 2, block_size=MiB)
    writer.write(MiB, b"x" * (MiB // 2))
    writer.commit()
    writer.close()
    with path.open("r+b") as file:  # as QEMU wrote it before 2013
        file.truncate(9 * MiB // 2)
    assert read(path, MiB, MiB // 2) == b"x" * (MiB // 2)
    with path.open("r+b") as file:
        file.truncate(9 * MiB // 2 - 1)
    with pytest.raises(ImageError, match="beyond the file's end"):
        read(path, MiB, 1)


@pytest.mark.parametrize("slot", HEADERS)
def test_one_damaged_header_is_survived_and_two_are_not(image, slot):
    patch(image, slot + 20, b"\xee")
    assert read(image, 0, 10) == b"A" * 10
    for other in HEADERS:
        patch(image, other + 21, b"\xee")
    with pytest.raises(ImageError, match="both headers are damaged"):
        VhdxReader.open(image)


def test_one_damaged_region_table_is_survived_and_two_are_not(image):
    patch(image, REGIONS[0] + 20, b"\xee")
    assert read(image, 0, 10) == b"A" * 10
    patch(image, REGIONS[1] + 20, b"\xee")
    with pytest.raises(ImageError, match="both region tables are damaged"):
        VhdxReader.open(image)


def test_regions_that_are_not_marked_as_required_are_known_nevertheless(image):
    for entry in (16, 48):  # as QEMU 1.6 wrote it
        patch_sealed(image, REGIONS, 0x10000, entry + 28, bytes(4))
    assert read(image, 0, 10) == b"A" * 10


UNKNOWN = UUID("12345678-1234-5678-1234-567812345678").bytes_le


@pytest.mark.parametrize(
    ("at", "data", "complaint"),
    [
        (8, struct.pack("<I", 2048), "claims 2048 entries"),
        (8, struct.pack("<I", 1), "no metadata region"),
        (16, UNKNOWN, "needs a region that is not known: 12345678"),
        (48, UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le, "occurs twice"),
        (32, struct.pack("<Q", 3 * MiB + 4096), "not in whole MiB"),
        (32, struct.pack("<Q", 0), "leaves the file"),
        (32, struct.pack("<Q", 1 << 60), "leaves the file"),
        (32, struct.pack("<Q", 2 * MiB), "overlap at byte 2097152"),
        (32, struct.pack("<Q", MiB), "overlap at byte 1048576"),
        (40, struct.pack("<I", 0), "not in whole MiB"),
        (40, struct.pack("<I", 1 << 31), "leaves the file"),
    ],
)
def test_a_region_table_that_is_not_allowed_is_refused(image, at, data, complaint):
    patch_sealed(image, REGIONS, 0x10000, at, data)
    with pytest.raises(ImageError, match=complaint):
        VhdxReader.open(image)


def test_region_tables_that_differ_are_refused(image):
    patch_sealed(image, REGIONS[1:], 0x10000, 32, struct.pack("<Q", 4 * MiB))
    with pytest.raises(ImageError, match="two region tables differ"):
        VhdxReader.open(image)


@pytest.mark.parametrize(
    ("at", "data", "complaint"),
    [
        (66, b"\2\0", "format version is 2"),
        (72, struct.pack("<Q", MiB + 1), "the log is not in whole MiB"),
        (68, struct.pack("<I", 64 * MiB), "the log .* leaves the file"),
        (48, b"\1" * 16 + b"\1\0", "its log has version 1"),
        (48, b"\1" * 16, "holds no valid entry"),
    ],
)
def test_a_header_that_is_not_allowed_is_refused(image, at, data, complaint):
    patch_sealed(image, HEADERS, 4096, at, data)
    with pytest.raises(ImageError, match=complaint):
        VhdxReader.open(image)


def item(index: int, field: int) -> int:
    """Where a field of an entry of the metadata table is."""
    return 32 + index * 32 + field


CONTENT = 0x10000  # block size, flags; disk size; id; logical and physical sector size


@pytest.mark.parametrize(
    ("at", "data", "complaint"),
    [
        (0, b"metadatA", "begins with b'metadatA'"),
        (10, b"\0\x08", "claims 2048 items"),
        (10, b"\4\0", "cda348c7-445d-4471-9cc9-e9885251c556 is missing"),
        (item(0, 0), UNKNOWN, "needs a metadata item that is not known: 12345678"),
        (item(4, 0), UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le, "occurs twice"),
        (item(1, 16), struct.pack("<I", 0xFFFF), "leaves its region"),
        (item(1, 16), struct.pack("<I", MiB - 4), "leaves its region"),
        (item(1, 20), struct.pack("<I", 9), "has 9 bytes, not 8"),
        (item(0, 24), b"\6", "wrong flags: 0x6"),
        (item(1, 24), b"\4", "wrong flags: 0x4"),
        (item(1, 24), b"\7", "2fa54224-cd1b-4876-b211-5dbed83bf4b8 is missing"),
        (CONTENT, struct.pack("<I", 3 * MiB), "block size is 3145728"),
        (CONTENT, struct.pack("<I", 512 * MiB), "block size is 536870912"),
        (CONTENT, struct.pack("<I", 0), "block size is 0"),
        (CONTENT + 4, b"\2", "differencing"),
        (CONTENT + 8, bytes(8), "has 0 bytes"),
        (CONTENT + 8, b"\xff" * 8, "to 64 TiB"),
        (CONTENT + 8, struct.pack("<Q", MiB + 1), "not a multiple of its 512-byte sectors"),
        (CONTENT + 8, struct.pack("<Q", 1 << 40), "its block table has 1048576 bytes"),
        (CONTENT + 32, struct.pack("<I", 513), "513 bytes, not 512 or 4096"),
        (CONTENT + 36, struct.pack("<I", 0), "0 bytes, not 512 or 4096"),
    ],
)
def test_metadata_that_is_not_allowed_is_refused(image, at, data, complaint):
    patch(image, METADATA + at, data)
    with pytest.raises(ImageError, match=complaint):
        VhdxReader.open(image)


@pytest.mark.parametrize("content", [b"", b"vhdxfile", b"conectix" * 200000, bytes(2 * MiB)])
def test_what_is_no_vhdx_is_refused(tmp_path, content):
    path = tmp_path / "disk.vhdx"
    path.write_bytes(content)
    with pytest.raises(ImageError, match="no VHDX file"):
        VhdxReader.open(path)


@pytest.mark.parametrize("size", [MiB, 2 * MiB, 3 * MiB + 4096, 4 * MiB])
def test_a_file_that_was_cut_is_refused(image, size):
    with image.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ImageError, match=r"leaves the file|beyond the file"):
        read(image, 0, 10)


STRUCTURES = st.sampled_from(
    [
        *[(place, 4096, 80) for place in HEADERS],
        *[(place, 0x10000, 80) for place in REGIONS],
        (METADATA, 0, 32 * 7),
        (METADATA + CONTENT, 0, 40),
        (BAT, 0, 64),
    ]
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(STRUCTURES, st.integers(0, 223), st.binary(min_size=1, max_size=8))))
def test_no_damage_makes_the_reader_fail_otherwise_than_by_refusing(image, changes):
    kept = image.read_bytes()[: 4 * MiB]
    try:
        for (place, length, used), at, data in changes:
            if length:
                patch_sealed(image, (place,), length, 8 + at % (used - 8), data)
            else:
                patch(image, place + at % used, data)
        with suppress(ImageError):
            reader = VhdxReader.open(image, allow_incomplete=True)
            with suppress(ImageError):
                for extent in reader.extents():
                    reader.readinto(extent.offset, bytearray(min(extent.length, 4096)))
            reader.close()
    finally:
        patch(image, 0, kept)
