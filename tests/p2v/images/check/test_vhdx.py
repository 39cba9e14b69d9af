# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import struct
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from native import crc32c
from p2v.images.check import check_image, inspect_image
from p2v.model.errors import ImageError, P2VError

MiB = 1 << 20
BAT_AT = 3 * MiB
HEADER_1, HEADER_2 = 64 << 10, 128 << 10
TABLE_1, TABLE_2 = 192 << 10, 256 << 10


def codes(path: Path, **options) -> set[str]:
    return set(check_image(path, **options).counts)


def guid(vhdx, name: str) -> uuid.UUID:
    order = ["parameters", "size", "id", "logical", "physical"]
    return list(vhdx.items)[order.index(name)]


def qemu_check(path: Path) -> int:
    command = ["qemu-img", "check", "-f", "vhdx", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def sevenzip(path: Path) -> int:
    command = ["7zz", "t", "-tvhdx", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


# --- good images ---------------------------------------------------------------------------------


def test_a_good_image_is_clean_and_so_say_qemu_and_7zip(vhdx, tmp_path):
    path = vhdx.save(tmp_path / "a.vhdx")
    report = check_image(path, deep=True)
    assert report.findings == () and report.exit_code == 0
    assert qemu_check(path) == 0 and sevenzip(path) == 0


def test_the_facts_of_an_image_are_told(vhdx, tmp_path):
    info = inspect_image(vhdx.save(tmp_path / "a.vhdx"))
    assert (info.format, info.variant, info.creator) == ("vhdx", "dynamic", "test")
    assert (info.virtual_size, info.block_size, info.allocated) == (5 << 30, MiB, 3 * MiB)
    assert (info.logical_sector, info.physical_sector, info.incomplete) == (512, 4096, False)
    assert info.disk_id == str(uuid.UUID(int=0x1234))


def test_absent_undefined_zero_and_unmapped_blocks_are_good(vhdx, tmp_path):
    vhdx.bat |= {2: 1, 3: 2, 4: 3}
    assert codes(vhdx.save(tmp_path / "a.vhdx")) == set()


@pytest.mark.parametrize("kind", ["dynamic", "fixed"])
def test_qemus_own_images_have_no_errors(kind, tmp_path):
    path = tmp_path / "q.vhdx"
    options = ["-f", "vhdx", "-o", f"subformat={kind}", str(path), "40M"]
    subprocess.run(["qemu-img", "create", "-q", *options], check=True)
    report = check_image(path)
    assert report.errors == 0
    assert report.info.variant == kind
    # QEMU does not mark the regions required, which [MS-VHDX] demands.
    assert report.counts["region-not-required"] == 2


def test_an_unknown_region_that_is_not_required_is_worth_a_note_only(vhdx, tmp_path):
    vhdx.regions.append((uuid.UUID(int=5), 7 * MiB, MiB, 0))
    vhdx.end += MiB
    report = check_image(vhdx.save(tmp_path / "a.vhdx"))
    assert report.counts == {"region-unknown-optional": 1} and report.exit_code == 0


def test_4096_byte_sectors_are_worth_a_note_only(vhdx, tmp_path):
    vhdx.logical = 4096
    vhdx.bat = {0: 4 << 20 | 6, 1: 5 << 20 | 6, 2: 6 << 20 | 6}
    report = check_image(vhdx.save(tmp_path / "a.vhdx"))
    assert set(report.counts) == {"sector-4096"} and report.exit_code == 0


# --- seeded defects: each changes a good image in one place --------------------------------------

WARNINGS = {"header-invalid", "header-sequence", "file-size", "bat-stale-offset", "fixed-absent"}
DEFECTS = {}


def defect(code: str, *also: str):
    def register(seed):
        DEFECTS[seed.__name__] = (seed, {code, *also})
        return seed

    return register


@defect("bat-state", "unused-space")
def block_state_4(vhdx):
    vhdx.bat[1] = 5 << 20 | 4


@defect("bat-state", "unused-space")
def block_state_5_with_an_offset(vhdx):
    vhdx.bat[1] = 5 << 20 | 5


@defect("bat-state", "unused-space")
def partial_block_without_a_parent(vhdx):
    vhdx.bat[1] = 5 << 20 | 7


@defect("header-sequence")
def equal_header_sequences(vhdx):
    vhdx.sequences = [8, 8]


@defect("header-invalid")
def first_header_checksum(vhdx):
    vhdx.patch(HEADER_1 + 16, b"\xff")


@defect("header-invalid")
def second_header_checksum(vhdx):
    vhdx.patch(HEADER_2 + 16, b"\xff")


@defect("no-header", "header-invalid")
def both_header_checksums(vhdx):
    vhdx.patch(HEADER_1 + 16, b"\xff")
    vhdx.patch(HEADER_2 + 4000, b"\xff")


@defect("region-table-invalid")
def first_region_table_checksum(vhdx):
    vhdx.patch(TABLE_1 + 60000, b"\xff")


@defect("region-table-invalid")
def second_region_table_checksum(vhdx):
    vhdx.patch(TABLE_2 + 20, b"\xff")


@defect("metadata-flags")
def file_parameters_flagged_virtual(vhdx):
    vhdx.items[guid(vhdx, "parameters")] = (None, 6)


@defect("metadata-flags")
def disk_size_not_flagged_virtual(vhdx):
    vhdx.items[guid(vhdx, "size")] = (None, 4)


@defect("metadata-offset", "metadata-flags")
def metadata_item_inside_the_table(vhdx):
    place = vhdx.item_entry(guid(vhdx, "size"))
    vhdx.patch(place + 16, struct.pack("<III", 0x8000, 8, 4))
    vhdx.patch(2 * MiB + 0x8000, struct.pack("<Q", vhdx.size))


@defect("metadata-missing")
def disk_id_missing(vhdx):
    del vhdx.items[guid(vhdx, "id")]


@defect("block-shared", "unused-space")
def two_blocks_at_one_offset(vhdx):
    vhdx.bat[1] = vhdx.bat[0]


@defect("block-shared", "unused-space")
def a_trimmed_block_in_a_live_ones_room(vhdx):
    vhdx.bat[1] = 4 << 20 | 3


@defect("block-in-region", "unused-space")
def block_over_the_metadata(vhdx):
    vhdx.bat[1] = 2 << 20 | 6


@defect("block-in-region", "unused-space")
def block_over_the_log(vhdx):
    vhdx.bat[1] = 1 << 20 | 6


@defect("block-beyond-end", "unused-space")
def block_beyond_the_end(vhdx):
    vhdx.bat[1] = 4000 << 20 | 6


@defect("bat-reserved")
def reserved_bits_in_the_bat(vhdx):
    vhdx.bat[1] |= 1 << 9


@defect("block-cut", "file-size")
def last_block_cut(vhdx):
    vhdx.end -= 4096


@defect("log-no-entries")
def log_guid_without_entries(vhdx):
    vhdx.log_guid = b"\x11" * 16


# --- beyond the table: the rest of Microsoft's own rules -----------------------------------------


@defect("identifier")
def wrong_signature(vhdx):
    vhdx.patch(0, b"vhdxFILE")


@defect("version")
def unknown_version(vhdx):
    vhdx.version = 2


@defect("log-version")
def unknown_log_version(vhdx):
    vhdx.log_version = 1


@defect("log-region", "unused-space")
def unaligned_log(vhdx):
    vhdx.log = (MiB + 4096, MiB)


@defect("log-region", "unused-space")
def log_beyond_the_end(vhdx):
    vhdx.log = (MiB, 1 << 30)


@defect("log-missing", "unused-space")
def log_in_use_without_room(vhdx):
    vhdx.log_guid, vhdx.log = b"\x11" * 16, (0, 0)


@defect("region-tables-differ")
def region_tables_that_differ(vhdx):
    other = bytearray(64 << 10)
    struct.pack_into("<4sII", other, 0, b"regi", 0, 1)
    struct.pack_into("<16sQII", other, 16, vhdx.regions[0][0].bytes_le, 3 * MiB, MiB, 1)
    struct.pack_into("<I", other, 4, crc32c(other))
    vhdx.patch(TABLE_2, bytes(other))


@defect("no-region-table", "region-table-invalid")
def both_region_tables(vhdx):
    vhdx.patch(TABLE_1, b"x")
    vhdx.patch(TABLE_2, b"x")


@defect("region-unknown")
def unknown_required_region(vhdx):
    vhdx.regions.append((uuid.UUID(int=5), 7 * MiB, MiB, 1))
    vhdx.end += MiB


@defect("metadata-guid")
def item_without_an_identifier(vhdx):
    vhdx.items[uuid.UUID(int=0)] = (b"1234", 2)


@defect("truncated", "no-header", "identifier", "file-size")
def nothing_but_zeros(vhdx):
    vhdx.patch(0, bytes(8))
    vhdx.end = 4096


@defect("region-duplicate", "unused-space")
def region_listed_twice(vhdx):
    vhdx.regions.append((vhdx.regions[0][0], 7 * MiB, MiB, 1))
    vhdx.end += MiB


@defect("region-overlap", "unused-space")
def regions_that_overlap(vhdx):
    vhdx.log = (2 * MiB, MiB)


@defect("region-alignment", "region-missing")
def region_between_mibs(vhdx):
    vhdx.regions[0] = (vhdx.regions[0][0], 3 * MiB + 4096, MiB, 1)


@defect("region-beyond-end", "region-missing")
def region_beyond_the_end(vhdx):
    vhdx.regions[0] = (vhdx.regions[0][0], 1 << 40, MiB, 1)


@defect("region-reserved")
def reserved_region_bits(vhdx):
    vhdx.regions[0] = (vhdx.regions[0][0], 3 * MiB, MiB, 3)


@defect("metadata-table", "metadata-missing")
def metadata_signature(vhdx):
    vhdx.patch(2 * MiB, b"METADATA")


@defect("metadata-reserved")
def reserved_bytes_in_the_metadata_table(vhdx):
    vhdx.patch(2 * MiB + 12, b"\x01")


@defect("metadata-reserved")
def reserved_bits_in_the_file_parameters(vhdx):
    vhdx.parameters = 4


@defect("metadata-duplicate")
def item_listed_twice(vhdx):
    place = vhdx.item_entry(guid(vhdx, "physical")) + 32
    copy = guid(vhdx, "physical").bytes_le + struct.pack("<III", 0x18000, 4, 6)
    vhdx.patch(2 * MiB + 10, b"\x06")
    vhdx.patch(place, copy)
    vhdx.patch(2 * MiB + 0x18000, struct.pack("<I", 4096))


@defect("metadata-overlap")
def items_that_overlap(vhdx):
    vhdx.patch(vhdx.item_entry(guid(vhdx, "id")) + 16, struct.pack("<I", 0x10004))


@defect("metadata-unknown")
def unknown_required_item(vhdx):
    vhdx.items[uuid.UUID(int=9)] = (b"1234", 4)


@defect("metadata-user-required")
def required_item_of_a_user(vhdx):
    vhdx.items[uuid.UUID(int=9)] = (b"1234", 5)


@defect("metadata-item-size")
def disk_id_too_short(vhdx):
    vhdx.items[guid(vhdx, "id")] = (b"short", 6)


@defect("metadata-offset")
def item_beyond_the_region(vhdx):
    vhdx.patch(vhdx.item_entry(guid(vhdx, "id")) + 16, struct.pack("<I", MiB - 8))


@defect("block-size")
def block_size_no_power_of_two(vhdx):
    vhdx.block = 3 * MiB


@defect("sector-size")
def odd_sector_size(vhdx):
    vhdx.physical = 1024


@defect("disk-size")
def uneven_disk_size(vhdx):
    vhdx.size += 100


@defect("disk-size")
def disk_over_64_tib(vhdx):
    vhdx.size = (64 << 40) + 512


@defect("bat-size")
def bat_too_small_for_the_disk(vhdx):
    vhdx.size = 1 << 40


@defect("bat-offset", "unused-space")
def block_at_offset_zero(vhdx):
    vhdx.bat[1] = 6


@defect("bat-bitmap", "unused-space")
def sector_bitmap_without_a_parent(vhdx):
    vhdx.bat[4096] = vhdx.bat.pop(1)


@defect("bat-stale-offset", "unused-space")
def absent_block_with_an_offset(vhdx):
    vhdx.bat[1] = 5 << 20


@defect("fixed-absent")
def fixed_disk_with_absent_blocks(vhdx):
    vhdx.parameters = 1


@defect("incomplete")
def incomplete_item(vhdx):
    vhdx.items[uuid.UUID("71cc85f0-1b69-4e28-9558-c3bf83ae75d3")] = (b"", 4)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_is_found_and_nothing_else(name, vhdx, tmp_path):
    seed, expected = DEFECTS[name]
    seed(vhdx)
    report = check_image(vhdx.save(tmp_path / "a.vhdx"))
    assert set(report.counts) == expected
    assert report.exit_code == (3 if expected <= WARNINGS | {"unused-space"} else 50)


def test_qemu_agrees_where_it_looks(vhdx, tmp_path):
    vhdx.bat[1] = 4000 << 20 | 6
    assert qemu_check(vhdx.save(tmp_path / "a.vhdx")) == 2


@pytest.mark.parametrize(
    "name", ["block_state_4", "two_blocks_at_one_offset", "reserved_bits_in_the_bat"]
)
def test_7zip_agrees_where_qemu_sees_nothing(name, vhdx, tmp_path):
    DEFECTS[name][0](vhdx)
    path = vhdx.save(tmp_path / "a.vhdx")
    assert qemu_check(path) == 0
    assert sevenzip(path) == 2


# --- particular cases ----------------------------------------------------------------------------


def test_an_incomplete_image_says_so_whatever_else_it_has(vhdx, tmp_path):
    incomplete_item(vhdx)
    report = check_image(vhdx.save(tmp_path / "a.vhdx"))
    assert report.incomplete and report.info.incomplete


def test_a_partial_name_makes_an_image_incomplete(vhdx, tmp_path):
    assert codes(vhdx.save(tmp_path / "a.vhdx.partial")) == {"incomplete"}


def test_holes_are_a_deep_warning(vhdx, tmp_path):
    path = vhdx.save(tmp_path / "a.vhdx")
    subprocess.run(
        ["fallocate", "--punch-hole", "-o", str(5 * MiB), "-l", "65536", str(path)], check=True
    )
    assert codes(path) == set()
    assert codes(path, deep=True) == {"sparse"}


def test_a_million_bad_entries_make_a_short_report(vhdx, tmp_path):
    vhdx.size = 100 << 30
    vhdx.bat = dict.fromkeys((i for i in range(90000) if i % 4097 != 4096), 4 << 20 | 6)
    report = check_image(vhdx.save(tmp_path / "a.vhdx"))
    assert report.counts["block-shared"] > 80000
    assert len(report.findings) < 50


def test_a_file_damaged_at_its_start_is_judged_by_its_name(vhdx, tmp_path):
    vhdx.patch(0, bytes(8))
    assert codes(vhdx.save(tmp_path / "a.vhdx")) == {"identifier"}


def test_info_of_a_hopeless_image_is_an_error(vhdx, tmp_path):
    both_header_checksums(vhdx)
    with pytest.raises(ImageError, match="neither header is valid"):
        inspect_image(vhdx.save(tmp_path / "a.vhdx"))


def log_entry(guid_: bytes, sequence: int, writes: list[tuple[int, bytes]], size: int) -> bytes:
    """Return a log entry of 4 KiB writes."""
    head = bytearray(4096)
    length = 4096 * (1 + len(writes))
    fields = (length, 0, sequence, len(writes), 0, guid_, size, size)
    struct.pack_into("<4sIIIQII16sQQ", head, 0, b"loge", 0, *fields)
    data = b""
    for index, (offset, sector) in enumerate(writes):
        parts = (b"desc", sector[-4:], sector[:8], offset, sequence)
        struct.pack_into("<4s4s8sQQ", head, 64 + index * 32, *parts)
        high, low = sequence >> 32, sequence & 0xFFFFFFFF
        data += struct.pack("<4sI", b"data", high) + sector[8:-4] + struct.pack("<I", low)
    entry = head + data
    struct.pack_into("<I", entry, 4, crc32c(entry))
    return bytes(entry)


def test_a_dirty_log_is_replayed_in_memory_before_judging(vhdx, tmp_path):
    vhdx.log_guid = b"\x22" * 16
    good = bytearray(4096)
    for index, value in vhdx.bat.items():
        if index < 512:
            struct.pack_into("<Q", good, index * 8, value)
    vhdx.bat[1] = 2 << 20 | 6  # wrong on disk, made right by the log
    vhdx.patch(MiB, log_entry(vhdx.log_guid, 5, [(BAT_AT, bytes(good))], vhdx.end))
    report = check_image(vhdx.save(tmp_path / "a.vhdx"))
    assert set(report.counts) == {"log-dirty"} and report.exit_code == 3


def test_of_two_log_entries_the_newer_one_wins(vhdx, tmp_path):
    vhdx.log_guid = b"\x22" * 16
    bad = struct.pack("<Q", 4 << 20 | 4) + bytes(4088)
    good = struct.pack("<QQ", *list(vhdx.bat.values())[:2]) + bytes(4080)
    log = log_entry(vhdx.log_guid, 5, [(BAT_AT, bad)], vhdx.end)
    log += log_entry(vhdx.log_guid, 6, [(BAT_AT, good)], vhdx.end)
    vhdx.patch(MiB, log)
    assert codes(vhdx.save(tmp_path / "a.vhdx")) == {"log-dirty"}


def test_a_torn_log_entry_is_no_entry(vhdx, tmp_path):
    vhdx.log_guid = b"\x22" * 16
    log = log_entry(vhdx.log_guid, 5, [(BAT_AT, bytes(4096))], vhdx.end)
    vhdx.patch(MiB, log[:5000] + b"\xee" + log[5001:])
    assert codes(vhdx.save(tmp_path / "a.vhdx")) == {"log-no-entries"}


def test_a_file_shorter_than_its_log_promises_was_cut(vhdx, tmp_path):
    vhdx.log_guid = b"\x22" * 16
    vhdx.patch(MiB, log_entry(vhdx.log_guid, 5, [], 1 << 30))
    assert "log-file-cut" in codes(vhdx.save(tmp_path / "a.vhdx"))


def test_a_differencing_disk_needs_its_locator(vhdx, tmp_path):
    vhdx.parameters = 2
    vhdx.bat = {0: 4 << 20 | 7, 4096: 5 << 20 | 6, 1: 6 << 20 | 6}
    assert codes(vhdx.save(tmp_path / "a.vhdx")) == {"parent-locator"}
    vhdx.items[uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")] = (b"x" * 20, 4)
    assert codes(vhdx.save(tmp_path / "b.vhdx")) == {"differencing"}


# --- hostile files -------------------------------------------------------------------------------

STRUCTURES = [(0, 520), (HEADER_1, 80), (HEADER_2, 80), (TABLE_1, 96), (TABLE_2, 96)]
STRUCTURES += [(MiB, 256), (2 * MiB, 256), (2 * MiB + (64 << 10), 64), (BAT_AT, 64)]


def resum(image: bytearray) -> None:
    """Make the checksums right again, so that what they protect is read."""
    spans = [(HEADER_1, 4096), (HEADER_2, 4096), (TABLE_1, 64 << 10), (TABLE_2, 64 << 10)]
    for offset, length in [*spans, (MiB, 8192)]:
        struct.pack_into("<I", image, offset + 4, 0)
        struct.pack_into("<I", image, offset + 4, crc32c(image[offset : offset + length]))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(STRUCTURES), st.integers(0, 600), st.binary(min_size=1, max_size=8)
        ),
        max_size=5,
    ),
    cut=st.none() | st.integers(0, 7 * MiB),
    sums=st.booleans(),
)
def test_no_mutation_makes_the_check_fail(vhdx, scratch, changes, cut, sums):
    vhdx.log_guid = b"\x22" * 16
    vhdx.patch(MiB, log_entry(vhdx.log_guid, 5, [(BAT_AT, bytes(4096))], vhdx.end))
    path = vhdx.save(scratch / "m.vhdx")
    image = bytearray(path.read_bytes())
    for (offset, length), at, data in changes:
        place = offset + at % length
        image[place : place + len(data)] = data
    if sums:
        resum(image)
    path.write_bytes(image[:cut])
    try:
        report = check_image(path, deep=True)
    except P2VError:
        return
    assert len(report.findings) < 400


def test_a_huge_sparse_image_needs_little_memory(vhdx, tmp_path):
    """64 TiB of disk in 1 MiB blocks: the BAT is 513 MiB long and almost empty."""
    vhdx.size = 64 << 40
    vhdx.regions[0] = (vhdx.regions[0][0], 8 * MiB, 513 * MiB, 1)
    vhdx.regions = [vhdx.regions[1], vhdx.regions[0]]
    path = vhdx.save(tmp_path / "a.vhdx")
    os.truncate(path, 15 << 40)  # ext4 ends at 16 TiB
    with path.open("r+b") as file:
        file.seek(8 * MiB + 512 * MiB)
        file.write(struct.pack("<Q", ((15 << 20) - 1) << 20 | 6))
    script = (
        "import sys; from pathlib import Path; from p2v.images.check import check_image;"
        "r = check_image(Path(sys.argv[1])); print(r.errors, r.info.allocated);"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    command = [sys.executable, "-c", script, str(path)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert out[:2] == ["0", str(MiB)]
    assert int(out[2]) < 100_000
