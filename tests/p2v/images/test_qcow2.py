# SPDX-License-Identifier: GPL-3.0-or-later
"""qcow2 read and written, with qemu-img as the judge both ways."""

import json
import os
import random
import struct
import subprocess
import sys
import threading
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2v.images.base import StoresZstd
from p2v.images.c_qcow2 import INCOMPLETE, compressed_entry, compressed_extent
from p2v.images.qcow2 import Qcow2Reader
from p2v.images.qcow2_writer import Qcow2Writer
from p2v.model.errors import ImageError, ImageIncompleteError, P2VError
from p2v.model.extent import Extent
from p2v.model.units import GiB, KiB, MiB, TiB


def qemu_img(*words: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_flawless(image: Path, model: bytes, tmp_path: Path) -> None:
    """qemu-img finds no error and no leak, and reads the same disk as our reader."""
    qemu_img("check", image)
    raw = tmp_path / "model.raw"
    raw.write_bytes(model)
    qemu_img("compare", "-f", "qcow2", "-F", "raw", image, raw)
    assert content_of(image) == model


def content_of(image: Path) -> bytes:
    with closing(Qcow2Reader.open(image)) as reader:
        content = bytearray(reader.size)
        reader.readinto(0, content)
        return bytes(content)


def text(seed: int, length: int) -> bytes:
    """Bytes that compress about four times."""
    chance = random.Random(seed)
    return b"".join(chance.randbytes(16) * 4 for _ in range(-(-length // 64)))[:length]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "disk.qcow2"


@pytest.mark.parametrize("cluster", [512, 4 * KiB, 64 * KiB, 2 * MiB])
@pytest.mark.parametrize("compressed", [False, True])
def test_what_is_written_in_random_order_is_what_qemu_reads(path, tmp_path, cluster, compressed):
    size = 3 * MiB + 512
    chance = random.Random(cluster)
    writer = Qcow2Writer.create(path, size, cluster_size=cluster, compressed=compressed)
    model = bytearray(size)
    for _ in range(60):
        offset = chance.randrange(size)
        length = min(chance.choice((1, 4096, 70_000, 300_000)), size - offset)
        if chance.random() < 0.3:
            writer.zero(offset, length)
            model[offset : offset + length] = bytes(length)
            continue
        data = text(offset, length)
        if isinstance(writer, StoresZstd) and offset + cluster <= size:
            offset -= offset % cluster
            data = text(offset, cluster)
            frame = zstandard.ZstdCompressor(level=3).compress(data)
            if not writer.write_zstd(offset, cluster, frame):
                writer.write(offset, data)
        else:
            writer.write(offset, data)
        model[offset : offset + len(data)] = data
    writer.commit()
    writer.close()
    assert_flawless(path, model, tmp_path)


def test_an_empty_image_reads_as_zeros(path, tmp_path):
    writer = Qcow2Writer.create(path, 5 * MiB)
    writer.commit()
    writer.close()
    assert_flawless(path, bytes(5 * MiB), tmp_path)
    with closing(Qcow2Reader.open(path)) as reader:
        assert list(reader.extents()) == [Extent(0, 5 * MiB, zero=True)]


def test_extents_are_what_qemu_maps(path):
    writer = Qcow2Writer.create(path, 64 * MiB)
    for start in (0, 64 * KiB, 30 * MiB, 64 * MiB - 64 * KiB):
        writer.write(start, b"x" * 64 * KiB)
    writer.zero(64 * KiB, 64 * KiB)
    writer.commit()
    writer.close()
    told = json.loads(qemu_img("map", "--output=json", path))
    expected: list[Extent] = []
    for part in told:
        extent = Extent(part["start"], part["length"], part["zero"])
        if expected and expected[-1].zero == extent.zero:
            extent = Extent(expected[-1].offset, expected.pop().length + extent.length, extent.zero)
        expected.append(extent)
    with closing(Qcow2Reader.open(path)) as reader:
        assert list(reader.extents()) == expected
        inside = list(reader.extents(30 * MiB + 5, 100 * KiB))
    assert inside == [
        Extent(30 * MiB + 5, 64 * KiB - 5),
        Extent(30 * MiB + 64 * KiB, 36 * KiB + 5, zero=True),
    ]


FRAMES = {
    "level 1": {"level": 1},
    "level -5": {"level": -5},
    "level 6 with checksum": {"level": 6, "write_checksum": True},
}


@pytest.mark.parametrize("how", FRAMES.values(), ids=FRAMES)
def test_a_frame_is_kept_byte_for_byte_and_packed(path, tmp_path, how):
    cluster, count = 256 * KiB, 40
    writer = Qcow2Writer.create(path, count * cluster, compressed=True)
    frames = []
    model = b"".join(text(index, cluster) for index in range(count))
    for index in range(count):
        part = model[index * cluster : (index + 1) * cluster]
        frames.append(zstandard.ZstdCompressor(**how).compress(part))
        assert writer.write_zstd(index * cluster, cluster, frames[-1])
    writer.commit()
    writer.close()
    assert_flawless(path, model, tmp_path)
    stored = path.read_bytes()
    assert all(frame in stored for frame in frames)
    tables = 5 * cluster  # header, L1, L2, refcounts
    assert len(stored) < sum(map(len, frames)) + count * 64 + cluster + tables


def test_frames_that_the_format_cannot_hold_are_left_to_the_caller(path):
    cluster = 64 * KiB
    size = 3 * cluster + 512
    writer = Qcow2Writer.create(path, size, cluster_size=cluster, compressed=True)
    compress = zstandard.ZstdCompressor(level=1).compress
    good = compress(text(1, cluster))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(text(1, cluster))
    assert not writer.write_zstd(3 * cluster, 512, compress(bytes(512))), "the disk's tail"
    assert not writer.write_zstd(0, cluster, compress(text(1, 2 * cluster))), "of another length"
    assert not writer.write_zstd(0, 2 * cluster, compress(text(1, 2 * cluster))), "two clusters"
    assert not writer.write_zstd(512, cluster, good), "not aligned"
    assert not writer.write_zstd(0, cluster, compress(os.urandom(cluster))), "not smaller"
    assert not writer.write_zstd(0, cluster, unsized), "of unknown length"
    assert not writer.write_zstd(0, cluster, b"no frame at all"), "no frame"
    with pytest.raises(ImageError, match="leave the disk"):
        writer.write_zstd(4 * cluster, cluster, good)
    assert all(extent.zero for extent in writer.extents())
    assert writer.write_zstd(0, cluster, good)
    writer.close()


def test_only_a_compressed_image_takes_frames(path):
    with closing(Qcow2Writer.create(path, MiB)) as writer:
        assert not isinstance(writer, StoresZstd)


def test_many_tiny_frames_share_a_host_cluster(path, tmp_path):
    """The refcount of a shared cluster has 16 bits; a 64 KiB cluster could be named 4096 times."""
    cluster, count = 2 * MiB, 1200
    writer = Qcow2Writer.create(path, count * cluster, cluster_size=cluster, compressed=True)
    frame = zstandard.ZstdCompressor().compress(b"\7" * cluster)
    for index in range(count):
        assert writer.write_zstd(index * cluster, cluster, frame)
    writer.commit()
    writer.close()
    qemu_img("check", path)
    assert path.stat().st_size < 8 * cluster
    with closing(Qcow2Reader.open(path)) as reader:
        part = bytearray(4096)
        reader.readinto((count - 1) * cluster, part)
        assert part == b"\7" * 4096


def test_several_threads_write_interleaved_parts(path, tmp_path):
    """Neighbouring threads share clusters; compressed ones are unpacked under their feet."""
    size, piece, cluster = 8 * MiB, 3000, 64 * KiB
    writer = Qcow2Writer.create(path, size, cluster_size=cluster, compressed=True)
    compress = zstandard.ZstdCompressor(level=1).compress
    model = bytearray(text(0, size))
    for offset in range(0, size, cluster):
        assert writer.write_zstd(offset, cluster, compress(model[offset : offset + cluster]))
    failures = []

    def work(number: int) -> None:
        try:
            for offset in range(number * piece, size, 8 * piece):
                data = text(offset + 1, min(piece, size - offset))
                if number == 3:
                    writer.zero(offset, len(data))
                    data = bytes(len(data))
                else:
                    writer.write(offset, data)
                model[offset : offset + len(data)] = data
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(number,), name=f"w{number}") for number in (1, 2, 3, 4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        writer.checkpoint()
    for thread in threads:
        thread.join()
    assert not failures
    writer.commit()
    writer.close()
    assert_flawless(path, model, tmp_path)


def test_a_later_pass_changes_a_finished_image(path, tmp_path):
    writer = Qcow2Writer.create(path, 2 * MiB, compressed=True, cluster_size=64 * KiB)
    model = bytearray(text(5, 2 * MiB))
    compress = zstandard.ZstdCompressor().compress
    for offset in range(0, 2 * MiB, 64 * KiB):
        assert writer.write_zstd(offset, 64 * KiB, compress(model[offset : offset + 64 * KiB]))
    writer.commit()
    writer.close()
    for number in range(3):
        writer = Qcow2Writer.resume(path)
        assert writer.partial.exists() and not path.exists()
        writer.write(number * 100_000, b"delta" * 1000)
        model[number * 100_000 : number * 100_000 + 5000] = b"delta" * 1000
        writer.zero(MiB + number * 4096, 4096)
        model[MiB + number * 4096 : MiB + number * 4096 + 4096] = bytes(4096)
        writer.commit()
        writer.close()
        assert_flawless(path, model, tmp_path)


def test_zeroing_gives_room_back_and_rewriting_takes_the_same_place(path, tmp_path):
    writer = Qcow2Writer.create(path, 4 * MiB)
    writer.write(0, os.urandom(4 * MiB))
    writer.checkpoint()
    full, end = writer.partial.stat().st_blocks, writer.bound
    writer.zero(MiB + 100, 2 * MiB)
    writer.checkpoint()
    assert writer.partial.stat().st_blocks < full - (2 * MiB - 128 * KiB) // 512
    model = bytearray(4 * MiB)
    writer.readinto(0, model)
    assert not any(model[MiB + 100 : 3 * MiB + 100])
    writer.write(2 * MiB + 5, b"again")
    model[2 * MiB + 5 : 2 * MiB + 10] = b"again"
    assert writer.bound == end
    writer.commit()
    writer.close()
    assert_flawless(path, model, tmp_path)


def test_a_failed_sync_is_never_taken_for_a_later_success(path, monkeypatch):
    """The kernel reports lost writes once; the next fdatasync would succeed."""

    def fail(fd):
        raise OSError(5, "Input/output error")

    with closing(Qcow2Writer.create(path, MiB)) as writer:
        writer.write(0, b"lost")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(OSError, match="Input/output"):
                writer.checkpoint()
        with pytest.raises(ImageError, match="lost writes"):
            writer.checkpoint()
        with pytest.raises(ImageError, match="lost writes"):
            writer.commit()
    with closing(Qcow2Writer.resume(path)) as writer:
        writer.write(0, b"kept")
        writer.commit()


def test_a_finished_writer_takes_nothing_more(path):
    with closing(Qcow2Writer.create(path, MiB)) as writer:
        writer.commit()
        with pytest.raises(ImageError, match="resume it"):
            writer.write(0, b"x")


def test_more_entries_than_may_wait_make_a_checkpoint(path, tmp_path, monkeypatch):
    monkeypatch.setattr("p2v.images.qcow2_writer._MAX_PENDING", 5)
    cluster = 64 * KiB
    writer = Qcow2Writer.create(path, 20 * cluster, cluster_size=cluster, compressed=True)
    compress = zstandard.ZstdCompressor().compress
    model = text(9, 20 * cluster)
    for offset in range(0, len(model), cluster):
        assert writer.write_zstd(offset, cluster, compress(model[offset : offset + cluster]))
        assert len(writer._pending) < 5
    writer.commit()
    writer.close()
    assert_flawless(path, model, tmp_path)


_64_TIB = """
import resource, sys
from pathlib import Path
from p2v.images.qcow2_writer import Qcow2Writer
size = 64 << 40
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
writer = Qcow2Writer.create(Path(sys.argv[1]), size)
writer.zero(0, size)
for offset in (0, (5 << 40) + 12345, size - 10):
    writer.write(offset, b"0123456789")
writer.zero(1 << 40, 60 << 40)
writer.checkpoint()
writer.commit()
writer.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_64_tib_take_little_memory_and_time(path):
    done = subprocess.run(
        [sys.executable, "-c", _64_TIB, path], check=True, capture_output=True, timeout=60
    )
    assert int(done.stdout) < 16 * KiB, "KiB more than before"
    qemu_img("check", path)
    with closing(Qcow2Reader.open(path)) as reader:
        data = [extent for extent in reader.extents() if not extent.zero]
        tail = bytearray(10)
        reader.readinto(64 * TiB - 10, tail)
    assert tail == b"0123456789"
    assert data == [Extent(0, 64 * KiB), Extent(64 * TiB - 64 * KiB, 64 * KiB)]


def test_refcounts_reach_beyond_one_block_and_the_pieces_in_memory(path, monkeypatch):
    """Host clusters in an order that makes the counters come and go."""
    monkeypatch.setattr("p2v.images.qcow2_refcounts._KEPT", 1)
    monkeypatch.setattr("p2v.images.qcow2_refcounts._PIECE", 128)
    monkeypatch.setattr("p2v.images.qcow2_refcounts._PER_PIECE", 64)
    size = 4 * MiB
    writer = Qcow2Writer.create(path, size, cluster_size=512)
    offsets = list(range(0, size, 4096))
    random.Random(3).shuffle(offsets)
    for offset in offsets:
        writer.write(offset, text(offset, 3000))
    writer.commit()
    writer.close()
    qemu_img("check", path)


# --- images of others ----------------------------------------------------------------------------

MADE_BY_QEMU = {
    "version 2": ["-o", "compat=0.10"],
    "version 3": ["-o", "compat=1.1"],
    "lazy refcounts": ["-o", "compat=1.1,lazy_refcounts=on"],
    "zlib": ["-c"],
    "zlib, version 2": ["-c", "-o", "compat=0.10"],
    "zstd": ["-c", "-o", "compression_type=zstd"],
    "zstd, 4 KiB": ["-c", "-o", "compression_type=zstd,cluster_size=4096"],
    "zstd, 2 MiB": ["-c", "-o", "compression_type=zstd,cluster_size=2M"],
    "512-byte clusters": ["-o", "cluster_size=512"],
    "2 MiB clusters": ["-o", "cluster_size=2M"],
    "metadata preallocated": ["-o", "preallocation=metadata"],
    "fully preallocated": ["-o", "preallocation=full"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A raw disk of text, noise and zeros that ends inside a cluster."""
    raw = tmp_path_factory.mktemp("source") / "disk.raw"
    parts = [
        text(1, MiB),
        bytes(700_000),
        random.Random(2).randbytes(MiB),
        bytes(MiB),
        text(3, 512),
    ]
    content = b"".join(parts)
    raw.write_bytes(content + bytes(-len(content) % 512))
    return raw


@pytest.mark.parametrize("options", MADE_BY_QEMU.values(), ids=MADE_BY_QEMU)
def test_an_image_made_by_qemu_reads_the_same(path, source, options):
    qemu_img("convert", "-O", "qcow2", *options, source, path)
    expected = source.read_bytes()
    assert content_of(path) == expected
    with closing(Qcow2Reader.open(path)) as reader:
        part = bytearray(100_001)
        for offset in (0, 1, 4095, MiB - 7, 2 * MiB, len(expected) - len(part)):
            reader.readinto(offset, part)
            assert part == expected[offset : offset + len(part)]
        for extent in reader.extents():
            assert not extent.zero or not any(expected[extent.offset : extent.end])


def test_clusters_that_qemu_zeroed_read_as_zeros(path):
    qemu_img("create", "-f", "qcow2", path, "1M")
    for command in (
        "write -P 7 0 1M",
        "write -z 128k 128k",
        "write -z -u 512k 64k",
        "discard 0 64k",
    ):
        subprocess.run(["qemu-io", "-c", command, path], check=True, capture_output=True)
    content = content_of(path)
    assert content.count(7) == MiB - 256 * KiB
    assert not any(content[128 * KiB : 256 * KiB])


@pytest.mark.parametrize("name", ["version 3", "zlib", "zstd, 4 KiB", "512-byte clusters"])
def test_an_image_made_by_qemu_takes_another_pass(path, source, tmp_path, name):
    qemu_img("convert", "-O", "qcow2", *MADE_BY_QEMU[name], source, path)
    subprocess.run(["qemu-io", "-c", "write -z 0 64k", path], check=True, capture_output=True)
    model = bytearray(content_of(path))
    writer = Qcow2Writer.resume(path)
    for offset in (3, 64 * KiB, MiB, 3 * MiB):
        writer.write(offset, b"pass" * 999)
        model[offset : offset + 3996] = b"pass" * 999
    writer.zero(MiB + 4096, 200_000)
    model[MiB + 4096 : MiB + 204_096] = bytes(200_000)
    writer.commit()
    writer.close()
    assert_flawless(path, model, tmp_path)


def test_an_image_with_a_snapshot_reads_its_present_state(path, source):
    qemu_img("convert", "-O", "qcow2", source, path)
    expected = bytearray(source.read_bytes())
    qemu_img("snapshot", "-c", "before", path)
    subprocess.run(["qemu-io", "-c", "write -P 9 4096 8192", path], check=True, capture_output=True)
    expected[4096:12288] = b"\x09" * 8192
    assert content_of(path) == expected
    with pytest.raises(ImageError, match="internal snapshots"):
        Qcow2Writer.resume(path)
    assert path.exists()


REFUSED = {
    "an overlay": (
        lambda path: ["-b", path.with_name("base.raw"), "-F", "raw"],
        "overlay of .*base.raw",
    ),
    "a data file": (lambda path: ["-o", f"data_file={path}.data"], "external data file"),
    "extended L2": (lambda _: ["-o", "extended_l2=on"], "extended L2"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_in_the_file_alone_is_refused(path, options, message):
    path.with_name("base.raw").write_bytes(bytes(MiB))
    qemu_img("create", "-f", "qcow2", *options(path), path, "1M")
    with pytest.raises(ImageError, match=message):
        Qcow2Reader.open(path)
    with pytest.raises(ImageError, match=message):
        Qcow2Writer.resume(path)
    assert path.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: qemu_img("bitmap", "--add", path, "b"), "persistent bitmaps"),
        (lambda path: qemu_img("amend", "-o", "compat=0.10", path), "version 2"),
    ],
)
def test_what_another_pass_would_lose_is_refused(path, source, spoil, message):
    qemu_img("convert", "-O", "qcow2", source, path)
    spoil(path)
    with pytest.raises(ImageError, match=message):
        Qcow2Writer.resume(path)
    assert path.exists()
    assert content_of(path) == source.read_bytes()


# --- bad input -----------------------------------------------------------------------------------


def test_an_unfinished_image_is_refused_by_everybody(path):
    with closing(Qcow2Writer.create(path, MiB)) as writer:
        writer.write(0, b"half")
        writer.checkpoint()
        with pytest.raises(ImageIncompleteError):
            Qcow2Reader.open(writer.partial)
        done = subprocess.run(["qemu-img", "info", writer.partial], capture_output=True, text=True)
        assert done.returncode == 1
        assert "incomplete p2v migration" in done.stderr


def test_nothing_is_overwritten(path):
    path.write_bytes(b"precious")
    with pytest.raises(ImageError, match="already exists"):
        Qcow2Writer.create(path, MiB)
    path.unlink()
    with closing(Qcow2Writer.create(path, MiB)) as writer:
        with pytest.raises(ImageError, match="already exists"):
            Qcow2Writer.create(path, MiB)
        path.write_bytes(b"precious")
        with pytest.raises(ImageError, match="appeared meanwhile"):
            writer.commit()
        path.unlink()
        writer.commit()
    assert content_of(path) == bytes(MiB)


def test_one_process_at_a_time_writes(path):
    with closing(Qcow2Writer.create(path, MiB)), pytest.raises(ImageError, match="somebody else"):
        Qcow2Writer.resume(path)


@pytest.mark.parametrize(
    ("size", "options"),
    [(1000, {}), (0, {}), (MiB + 512, {"sector_size": 4096}), (MiB, {"cluster_size": 100_000}),
     (MiB, {"cluster_size": 4 * MiB}), (1 * TiB, {"cluster_size": 512})],
)  # fmt: skip
def test_a_disk_that_the_format_cannot_hold_is_refused(path, size, options):
    with pytest.raises(ImageError):
        Qcow2Writer.create(path, size, **options)
    assert list(path.parent.iterdir()) == []


def test_a_range_outside_of_the_disk_is_refused(path):
    with closing(Qcow2Writer.create(path, MiB)) as writer:
        for offset, length in ((MiB - 1, 2), (-1, 2), (TiB, 1)):
            with pytest.raises(ImageError, match="leave the disk"):
                writer.write(offset, bytes(length))
            with pytest.raises(ImageError, match="leave the disk"):
                writer.zero(offset, length)
            with pytest.raises(ImageError, match="leave the disk"):
                writer.readinto(offset, bytearray(length))


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (4, struct.pack(">I", 4), "version 4"),
        (20, struct.pack(">I", 30), "cluster size"),
        (24, struct.pack(">Q", 1 << 62), "L1 table"),
        (36, struct.pack(">I", 1 << 30), "L1 table"),
        (40, struct.pack(">Q", 1 << 40), "L1 table"),
        (40, struct.pack(">Q", 65537), "L1 table"),
        (32, struct.pack(">I", 2), "encrypted"),
        (72, struct.pack(">Q", 1 << 20), "unknown features"),
        (72, struct.pack(">Q", 1 << 1), "marked corrupt"),
        (72, struct.pack(">Q", 1 << 3), "compression type"),
        (100, struct.pack(">I", 7), "header of 7"),
    ],
)
def test_a_bad_header_field_is_named(path, offset, value, message):
    writer = Qcow2Writer.create(path, MiB)
    writer.commit()
    writer.close()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    with pytest.raises(ImageError, match=message):
        Qcow2Reader.open(path)


def test_a_shared_cluster_is_found_before_it_is_committed(path):
    writer = Qcow2Writer.create(path, MiB)
    writer.write(0, b"a" * 128 * KiB)
    writer.commit()
    writer.close()
    content = bytearray(path.read_bytes())
    table = 2 * 64 * KiB
    content[table : table + 8] = content[table + 8 : table + 16]
    path.write_bytes(content)
    with closing(Qcow2Writer.resume(path)) as writer, pytest.raises(ImageError, match="share"):
        writer.commit()


@pytest.fixture(scope="module")
def specimen(tmp_path_factory):
    """A small image with plain, zeroed and compressed clusters, and where its metadata is."""
    path = tmp_path_factory.mktemp("specimen") / "disk.qcow2"
    writer = Qcow2Writer.create(path, 256 * KiB, cluster_size=4096, compressed=True)
    compress = zstandard.ZstdCompressor().compress
    for index in range(20):
        assert writer.write_zstd(index * 4096, 4096, compress(text(index, 4096)))
    writer.write(25 * 4096, os.urandom(10 * 4096))
    writer.zero(30 * 4096, 4096)
    writer.commit()
    writer.close()
    return path.read_bytes()


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=100)
@given(
    spots=st.lists(
        st.tuples(st.integers(0, 5 * 4096 - 1), st.integers(0, 255)), min_size=1, max_size=8
    ),
    cut=st.one_of(st.none(), st.integers(0, 40 * 4096)),
    write=st.booleans(),
)
def test_a_hostile_image_gives_a_clear_error_or_some_data(tmp_path, specimen, spots, cut, write):
    spoiled = bytearray(specimen[:cut])
    for offset, value in spots:
        offset = offset % 200 if offset % 3 == 0 else offset  # every third into the header
        if offset < len(spoiled):
            spoiled[offset] = value
    path = tmp_path / "hostile.qcow2"
    for name in (path, path.with_name("hostile.qcow2.partial")):
        name.unlink(missing_ok=True)
    path.write_bytes(spoiled)
    with suppress(P2VError), closing(Qcow2Reader.open(path)) as reader:
        buffer = bytearray(64 * KiB)
        for offset in (0, 64 * KiB, 128 * KiB, reader.size - len(buffer)):
            with suppress(ImageError):
                reader.readinto(offset, buffer)
        for extent in islice(reader.extents(), 100):
            assert 0 < extent.length <= reader.size
    if write:
        with suppress(P2VError), closing(Qcow2Writer.resume(path)) as writer:
            writer.write(0, bytes(100))
            writer.commit()


@given(st.integers(9, 21), st.integers(0, 1 << 40), st.data())
def test_a_compressed_descriptor_says_where_the_cluster_is(bits, offset, data):
    length = data.draw(st.integers(1, 1 << bits))
    where, room = compressed_extent(compressed_entry(offset, length, bits), bits)
    assert where == offset
    assert length <= room < length + 512
    assert (where + room) % 512 == 0


def test_the_incomplete_bit_is_no_bit_of_qemu():
    assert INCOMPLETE == 1 << 63


def test_a_resumed_image_can_be_larger_than_4_gib(path):
    writer = Qcow2Writer.create(path, 6 * GiB)
    writer.write(5 * GiB, b"high")
    writer.checkpoint()
    writer.close()
    writer = Qcow2Writer.resume(path)
    part = bytearray(4)
    writer.readinto(5 * GiB, part)
    assert part == b"high"
    writer.commit()
    writer.close()
    qemu_img("check", path)
