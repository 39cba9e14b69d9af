# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import random
import struct
import subprocess
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.images.check import check_image
from p2v.images.check.qcow2_clusters import DamagedClusterError, check_cluster, frame_end
from p2v.images.check.qcow2_refcounts import _unpack
from p2v.model.errors import P2VError

KiB, MiB = 1 << 10, 1 << 20
CLUSTER = 64 * KiB
COPIED, COMPRESSED = 1 << 63, 1 << 62


def qemu(*words: object) -> subprocess.CompletedProcess[str]:
    command = ["qemu-img", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def qemu_check(path: Path) -> int:
    return qemu("check", "-f", "qcow2", path).returncode


def readable_by_qemu(path: Path) -> bool:
    out = path.with_suffix(".out")
    return qemu("convert", "-f", "qcow2", "-O", "raw", path, out).returncode == 0


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    """A 9 MiB disk: 1 MiB of text, 1 MiB of noise, a hole, 200 KiB at the end; in many qcow2s."""
    folder = tmp_path_factory.mktemp("qcow2")
    raw = folder / "disk.raw"
    noise = random.Random(1)
    with raw.open("wb") as file:
        file.write(b"".join(b"%08d lines of text\n" % n for n in range(50000))[:MiB])
        file.write(noise.randbytes(MiB))
        file.truncate(9 * MiB)
        file.seek(9 * MiB - 200 * KiB)
        file.write(noise.randbytes(200 * KiB))
    made = {"raw": raw}
    for name, options in {
        "plain": [],
        "zlib": ["-c"],
        "zstd": ["-c", "-o", "compression_type=zstd"],
        "extended": ["-o", "extended_l2=on"],
        "small": ["-o", "cluster_size=512"],
        "large": ["-c", "-o", "cluster_size=2M,compression_type=zstd"],
        "one_bit": ["-o", "refcount_bits=1"],
        "wide": ["-o", "refcount_bits=64"],
        "v2": ["-o", "compat=0.10"],
    }.items():
        made[name] = folder / f"{name}.qcow2"
        assert qemu("convert", "-O", "qcow2", *options, raw, made[name]).returncode == 0
    return made


class Qcow2:
    """An image's bytes, to be bent; its tables are found by way of the header."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        self.l1 = self.number(40)
        self.l2 = self.number(self.l1) & 0x00FFFFFFFFFFFE00
        self.refcounts = self.number(self.number(48))

    def number(self, at: int) -> int:
        return struct.unpack_from(">Q", self.data, at)[0]

    def put(self, at: int, value: int) -> None:
        struct.pack_into(">Q", self.data, at, value)

    def entry(self, kind: int) -> int:
        """Return the place of the first L2 entry that has all bits of `kind`."""
        places = range(self.l2, self.l2 + CLUSTER, 8)
        return next(place for place in places if self.number(place) & kind)

    def save(self, path: Path) -> Path:
        path.write_bytes(self.data)
        return path


@pytest.fixture
def plain(sources) -> Qcow2:
    return Qcow2(sources["plain"])


@pytest.fixture
def zstd(sources) -> Qcow2:
    return Qcow2(sources["zstd"])


# --- good images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["plain", "zlib", "zstd", "extended", "small", "large", "one_bit", "wide", "v2"],
)
def test_what_qemu_writes_is_clean(name, sources):
    report = check_image(sources[name], deep=True)
    assert report.findings == () and report.exit_code == 0
    assert report.info.virtual_size == 9 * MiB
    assert 0 < report.info.allocated < 9 * MiB


def test_the_facts_are_those_of_qemu(sources):
    info = check_image(sources["zstd"]).info
    assert (info.format, info.variant, info.block_size) == ("qcow2", "v3 zstd", CLUSTER)
    # 1 + 1 MiB at the start, 200 KiB at the end which touch 4 clusters.
    assert info.allocated == 36 * CLUSTER


def test_a_backing_file_is_named_and_worth_a_warning(sources, tmp_path):
    path = tmp_path / "overlay.qcow2"
    qemu("create", "-f", "qcow2", "-F", "qcow2", "-b", sources["plain"], path)
    report = check_image(path)
    assert report.counts == {"backing": 1} and report.exit_code == 3
    assert report.info.parent == str(sources["plain"])


def test_snapshots_are_said_to_leave_refcounts_unchecked(sources, tmp_path):
    path = tmp_path / "s.qcow2"
    path.write_bytes(sources["plain"].read_bytes())
    qemu("snapshot", "-c", "one", path)
    assert check_image(path).counts == {"refcounts-unchecked": 1}


def test_persistent_bitmaps_are_said_to_leave_refcounts_unchecked(sources, tmp_path):
    path = tmp_path / "b.qcow2"
    path.write_bytes(sources["plain"].read_bytes())
    assert qemu("bitmap", "--add", path, "changes").returncode == 0
    assert check_image(path).counts == {"refcounts-unchecked": 1}


def test_preallocated_and_zeroed_clusters_are_clean(tmp_path):
    path = tmp_path / "p.qcow2"
    qemu("create", "-f", "qcow2", "-o", "preallocation=metadata", path, "5M")
    subprocess.run(["qemu-io", "-c", "write -z 0 1M", path], check=True, capture_output=True)
    assert check_image(path, deep=True).counts == {}


# --- seeded defects ------------------------------------------------------------------------------

DEFECTS = {}


def defect(*codes: str, qemu_finds: int):
    def register(seed):
        DEFECTS[seed.__name__] = (seed, set(codes), qemu_finds)
        return seed

    return register


@defect("copied-compressed", qemu_finds=2)
def copied_on_a_compressed_cluster(plain, zstd):
    place = zstd.entry(COMPRESSED)
    zstd.put(place, zstd.number(place) | COPIED)
    return zstd


@defect("refcount-low", qemu_finds=2)
def refcount_too_low(plain, zstd):
    cluster = (plain.number(plain.entry(COPIED)) & 0xFFFFFFFFFFFE00) // CLUSTER
    struct.pack_into(">H", plain.data, plain.refcounts + cluster * 2, 0)
    return plain


@defect("refcount-high", qemu_finds=3)
def refcount_too_high(plain, zstd):
    struct.pack_into(">H", plain.data, plain.refcounts + 2, 7)
    return plain


@defect("copied-missing", qemu_finds=2)
def l1_entry_without_copied(plain, zstd):
    plain.put(plain.l1, plain.number(plain.l1) & ~COPIED)
    return plain


@defect("copied-missing", qemu_finds=2)
def l2_entry_without_copied(plain, zstd):
    place = plain.entry(COPIED)
    plain.put(place, plain.number(place) & ~COPIED)
    return plain


@defect("header-length", qemu_finds=0)
def header_length_no_multiple_of_8(plain, zstd):
    struct.pack_into(">I", plain.data, 100, 108)
    plain.data[104:120] = bytes(16)
    return plain


@defect("compression-type", qemu_finds=1)
def compression_bit_without_a_type(plain, zstd):
    plain.put(72, 8)
    return plain


@defect("compression-type", qemu_finds=1)
def compression_type_without_its_bit(plain, zstd):
    zstd.put(72, 0)
    return zstd


@defect("compression-type", qemu_finds=1)
def header_too_short_for_the_compression_type(plain, zstd):
    struct.pack_into(">I", zstd.data, 100, 104)
    return zstd


@defect("l1-offset", qemu_finds=1)
def l1_not_aligned(plain, zstd):
    plain.put(40, plain.l1 + 512)
    return plain


@defect("l1-size", qemu_finds=1)
def l1_too_small(plain, zstd):
    struct.pack_into(">I", plain.data, 36, 0)
    return plain


@defect("cluster-shared", "refcount-low", "refcount-high", qemu_finds=2)
def two_guest_clusters_in_one(plain, zstd):
    place = plain.entry(COPIED)
    plain.put(place, plain.number(place + 8))
    return plain


@defect("cluster-shared", "refcount-low", "refcount-high", qemu_finds=2)
def data_over_the_header(plain, zstd):
    # Over the refcount table: QEMU reads offset 0 as no allocation.
    plain.put(plain.entry(COPIED), plain.number(48) | COPIED)
    return plain


@defect("cluster-beyond-end", "refcount-high", qemu_finds=2)
def cluster_beyond_the_end(plain, zstd):
    plain.put(plain.entry(COPIED), 1 << 40 | COPIED)
    return plain


@defect("cluster-offset", "cluster-shared", "refcount-low", qemu_finds=2)
def cluster_not_aligned(plain, zstd):
    place = plain.entry(COPIED)
    plain.put(place, plain.number(place + 8) + 512)
    plain.put(place + 16, 0)
    cluster = (plain.number(place) & 0xFFFFFFFFFFFE00) // CLUSTER
    struct.pack_into(">H", plain.data, plain.refcounts + cluster * 2 - 2, 0)
    struct.pack_into(">H", plain.data, plain.refcounts + cluster * 2 + 2, 0)
    return plain


@defect("l2-reserved", qemu_finds=2)
def reserved_bits_in_an_l2_entry(plain, zstd):
    place = plain.entry(COPIED)
    plain.put(place, plain.number(place) | 1 << 57)
    return plain


@defect("features", qemu_finds=1)
def unknown_incompatible_feature(plain, zstd):
    plain.put(72, 1 << 40)
    return plain


@defect("incomplete", qemu_finds=1)
def migration_not_finished(plain, zstd):
    plain.put(72, 1 << 63)
    return plain


@defect("marked-corrupt", qemu_finds=0)
def marked_corrupt(plain, zstd):
    plain.put(72, 2)
    return plain


@defect("bitmaps", qemu_finds=0)
def bitmaps_bit_without_bitmaps(plain, zstd):
    plain.put(88, 1)
    return plain


@defect("refcount-block", "refcount-low", qemu_finds=2)
def refcount_block_elsewhere(plain, zstd):
    plain.put(plain.number(48), 1 << 40)
    return plain


@defect("magic", qemu_finds=1)
def wrong_magic(plain, zstd):
    plain.data[0] = 0
    return plain


@defect("version", qemu_finds=1)
def unknown_version(plain, zstd):
    plain.data[7] = 4
    return plain


@defect("truncated", qemu_finds=1)
def cut_inside_the_header(plain, zstd):
    del plain.data[100:]
    return plain


@defect("cluster-size", qemu_finds=1)
def clusters_too_small(plain, zstd):
    plain.data[23] = 8
    return plain


@defect("refcount-order", qemu_finds=1)
def refcounts_too_wide(plain, zstd):
    plain.data[99] = 7
    return plain


@defect("refcount-table", qemu_finds=2)
def refcount_table_beyond_the_end(plain, zstd):
    plain.put(48, 1 << 40)
    return plain


@defect("odd-size", qemu_finds=0)
def disk_of_half_a_sector_more(plain, zstd):
    plain.put(24, 9 * MiB - 256)
    return plain


@defect("beyond-disk", qemu_finds=0)
def data_beyond_the_disk(plain, zstd):
    plain.put(24, 9 * MiB - CLUSTER)
    return plain


@defect("extension", qemu_finds=1)
def extension_that_does_not_end(plain, zstd):
    struct.pack_into(">II", plain.data, struct.unpack_from(">I", plain.data, 100)[0], 1, 1 << 20)
    return plain


@defect("backing-name", qemu_finds=1)
def backing_name_too_long(plain, zstd):
    struct.pack_into(">QI", plain.data, 8, 4096, 2000)
    return plain


@defect("l1-reserved", qemu_finds=2)
def reserved_bits_in_an_l1_entry(plain, zstd):
    plain.put(plain.l1, plain.number(plain.l1) | 1 << 58)
    return plain


@defect("l2-offset", "refcount-high", qemu_finds=2)
def l2_table_beyond_the_end(plain, zstd):
    plain.put(plain.l1, 1 << 40 | COPIED)
    return plain


@defect("copied-absent", qemu_finds=0)
def absent_cluster_copied(plain, zstd):
    places = range(plain.l2, plain.l2 + CLUSTER, 8)
    plain.put(next(place for place in places if not plain.number(place)), COPIED)
    return plain


WARNINGS = {"refcount-high", "odd-size", "beyond-disk"}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_is_found_and_nothing_else(name, plain, zstd, tmp_path):
    seed, expected, _ = DEFECTS[name]
    report = check_image(seed(plain, zstd).save(tmp_path / "a.qcow2"))
    assert set(report.counts) == expected
    assert report.exit_code == (3 if expected <= WARNINGS else 50)


@pytest.mark.parametrize("name", DEFECTS)
def test_qemu_sees_the_same_defect_or_less(name, plain, zstd, tmp_path):
    seed, _, status = DEFECTS[name]
    assert qemu_check(seed(plain, zstd).save(tmp_path / "a.qcow2")) == status


def test_subclusters_must_not_be_stored_and_zero_at_once(sources, tmp_path):
    image = Qcow2(sources["extended"])
    places = range(image.l2, image.l2 + CLUSTER, 16)
    place = next(place for place in places if image.number(place))
    image.put(place + 8, image.number(place + 8) | 1 << 32)
    path = image.save(tmp_path / "a.qcow2")
    assert check_image(path).counts == {"subclusters": 1}


def test_an_encrypted_image_is_said_to_be_one(tmp_path):
    path = tmp_path / "a.qcow2"
    secret = ["--object", "secret,id=s,data=secret"]
    options = ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"]
    # QEMU times its key derivation first, and gives up where the processor's time is too coarse.
    tries = (qemu("create", "-f", "qcow2", *secret, *options, path, "1M") for _ in range(20))
    assert any(made.returncode == 0 for made in tries)
    assert set(check_image(path, deep=True).counts) == {"encrypted", "refcounts-unchecked"}


def test_dirty_is_a_warning(plain, tmp_path):
    plain.put(72, 1)
    report = check_image(plain.save(tmp_path / "a.qcow2"))
    assert report.counts == {"dirty": 1} and report.exit_code == 3


def test_two_l1_entries_must_not_share_an_l2_table(sources, tmp_path):
    path = tmp_path / "a.qcow2"
    qemu("create", "-f", "qcow2", path, "2G")
    for place in ("0", "600M"):
        subprocess.run(["qemu-io", "-c", f"write {place} 64k", path], check=True)
    image = Qcow2(path)
    image.put(image.l1 + 8, image.number(image.l1))
    assert "l2-shared" in check_image(image.save(path)).counts


# --- what only decompression finds ---------------------------------------------------------------


def test_one_sector_too_few_is_found_where_qemu_finds_nothing(zstd, tmp_path):
    places = range(zstd.l2, zstd.l2 + CLUSTER, 8)
    one_sector = 1 << 54
    place = next(p for p in places if zstd.number(p) & COMPRESSED and zstd.number(p) & one_sector)
    zstd.put(place, zstd.number(place) - one_sector)
    path = zstd.save(tmp_path / "a.qcow2")
    assert qemu_check(path) == 0 and not readable_by_qemu(path)
    assert "cluster-damaged" in check_image(path, deep=True).counts


def test_a_file_cut_inside_its_last_sector_is_found(tmp_path):
    raw, path = tmp_path / "a.raw", tmp_path / "a.qcow2"
    raw.write_bytes(TEXT * 4)
    qemu("convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", raw, path)
    assert check_image(path).counts == {}
    os.truncate(path, path.stat().st_size - 100)
    assert qemu_check(path) == 0
    assert set(check_image(path).counts) == {"compressed-beyond-end"}


@pytest.mark.parametrize("name", ["zlib", "zstd"])
def test_a_flipped_byte_in_a_compressed_cluster_is_found(name, sources, tmp_path):
    image = Qcow2(sources[name])
    start = image.number(image.entry(COMPRESSED)) & (1 << 54) - 1
    image.data[start + 2] ^= 0x55
    path = image.save(tmp_path / "a.qcow2")
    assert not readable_by_qemu(path)
    assert check_image(path).counts == {}
    assert check_image(path, deep=True).counts == {"cluster-damaged": 1}


def frame(data: bytes, **options) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


def magicless(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


TEXT = (b"0123456789 some text " * 4000)[:CLUSTER]
NOISE = random.Random(2).randbytes(CLUSTER)


@pytest.mark.parametrize(
    "raw",
    [
        frame(TEXT),
        frame(TEXT, write_content_size=False),
        frame(TEXT, write_checksum=True),
        frame(NOISE, write_checksum=True),
        frame(TEXT[:1000]) + frame(TEXT[1000:]),
        b"\x50\x2a\x4d\x18\x04\0\0\0skip" + frame(TEXT),
        frame(TEXT) + bytes(300),
        frame(TEXT) + b"garbage",
        frame(bytes(CLUSTER)),
    ],
)
def test_every_frame_that_qemu_reads_is_good(raw):
    check_cluster(raw, CLUSTER, 1)


@pytest.mark.parametrize(
    "raw",
    [
        frame(TEXT + TEXT),
        frame(TEXT + TEXT, write_content_size=False),
        frame(TEXT[:60000]),
        frame(TEXT)[:-1],
        frame(NOISE, write_checksum=True)[:-1],
        magicless(TEXT),
        b"",
        bytes(512),
        zstandard.ZstdCompressor(
            dict_data=zstandard.ZstdCompressionDict(TEXT[:5000], zstandard.DICT_TYPE_RAWCONTENT)
        ).compress(TEXT)[:20],
    ],
)
def test_every_frame_that_qemu_does_not_read_is_damaged(raw):
    with pytest.raises(DamagedClusterError):
        check_cluster(raw, CLUSTER, 1)


def test_a_bomb_is_stopped_at_the_clusters_size():
    bomb = frame(bytes(1 << 30), write_content_size=False)
    assert len(bomb) < 100_000
    with pytest.raises(DamagedClusterError):
        check_cluster(bomb, CLUSTER, 1)


def test_deflate_is_read_with_qemus_window():
    def deflate(data, bits):
        packer = zlib.compressobj(wbits=bits)
        return packer.compress(data) + packer.flush()

    check_cluster(deflate(TEXT, -12) + bytes(99), CLUSTER, 0)
    for bad in (deflate(TEXT[:-1], -12), deflate(TEXT, 12), b""):
        with pytest.raises(DamagedClusterError):
            check_cluster(bad, CLUSTER, 0)


@given(
    st.binary(max_size=5000),
    st.booleans(),
    st.booleans(),
    st.integers(1, 19),
    st.binary(max_size=9),
)
def test_the_end_of_a_frame_is_where_libzstd_ends_it(data, checksum, stated, level, after):
    raw = frame(data, level=level, write_checksum=checksum, write_content_size=stated)
    assert frame_end(raw + after, 0) == len(raw)


@given(st.binary(max_size=200), st.integers(0, 1))
def test_no_bytes_make_decompression_fail_otherwise(raw, kind):
    with suppress(DamagedClusterError):
        check_cluster(b"\x28\xb5\x2f\xfd" * kind + raw, 512, kind)


# --- refcounts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("order", range(7))
def test_refcounts_of_every_width_are_unpacked(order):
    raw = random.Random(order).randbytes(256)
    bits = 1 << order
    if order < 3:
        number = int.from_bytes(raw, "little")
        expected = [number >> at & (1 << bits) - 1 for at in range(0, 2048, bits)]
    else:
        size = bits // 8
        expected = [int.from_bytes(raw[at : at + size], "big") for at in range(0, 256, size)]
    expected = [min(count, 0xFFFF) for count in expected]
    assert list(_unpack(raw, order, 0, len(expected))) == expected
    assert list(_unpack(raw, order, 2, len(expected) - 3)) == expected[2:-1]


def test_refcounts_are_right_across_windows(sources, monkeypatch):
    monkeypatch.setattr("p2v.images.check.qcow2_refcounts._WINDOW", 7)
    for name in ("plain", "zlib", "one_bit"):
        assert check_image(sources[name]).counts == {}


def test_defects_are_found_across_windows(plain, zstd, tmp_path, monkeypatch):
    monkeypatch.setattr("p2v.images.check.qcow2_refcounts._WINDOW", 7)
    path = two_guest_clusters_in_one(plain, zstd).save(tmp_path / "a.qcow2")
    expected = {"cluster-shared": 1, "refcount-low": 1, "refcount-high": 1}
    assert check_image(path).counts == expected


# --- hostile files -------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["plain", "zstd", "extended", "v2"]),
    changes=st.lists(
        st.tuples(
            st.sampled_from(["header", "l1", "l2", "refcounts"]),
            st.integers(0, 400),
            st.binary(min_size=1, max_size=8),
        ),
        max_size=6,
    ),
    cut=st.none() | st.integers(0, 3 * MiB),
)
def test_no_mutation_makes_the_check_fail(sources, tmp_path_factory, name, changes, cut):
    image = Qcow2(sources[name])
    starts = {"header": 0, "l1": image.l1, "l2": image.l2, "refcounts": image.refcounts}
    for table, at, data in changes:
        place = starts[table] + at
        image.data[place : place + len(data)] = data
    path = tmp_path_factory.getbasetemp() / "mutation.qcow2"
    path.write_bytes(image.data[:cut])
    try:
        report = check_image(path, deep=True)
    except P2VError:
        return
    assert len(report.findings) < 600


def test_an_l1_table_full_of_holes_is_checked_quickly(tmp_path):
    """4 million L2 tables in a sparse file of 8 TiB; none of them is stored."""
    path = tmp_path / "a.qcow2"
    qemu("create", "-f", "qcow2", "-o", "cluster_size=2M", path, "1M")
    image = Qcow2(path)
    entries = 1 << 16
    struct.pack_into(">I", image.data, 36, entries)
    start = len(image.data) // (2 * MiB) + 1
    image.put(40, start * 2 * MiB)
    l1 = [(start + 2 + index) * 2 * MiB | COPIED for index in range(entries)]
    image.save(path)
    with path.open("r+b") as file:
        file.seek(start * 2 * MiB)
        file.write(struct.pack(f">{entries}Q", *l1))
    os.truncate(path, (start + 2 + entries) * 2 * MiB)
    report = check_image(path)
    assert report.counts["refcount-low"] == entries + 1
