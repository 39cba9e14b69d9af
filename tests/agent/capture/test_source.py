# SPDX-License-Identifier: GPL-3.0-or-later
import mmap
import os
import random
import shutil
import subprocess
import threading
import time

import pytest

from agent.capture.bad import MAX_RANGES, BadRanges
from agent.capture.source import Source
from p2v.model.errors import DiskInUseError, NoSuchDiskError, SourceChangedError
from p2v.model.extent import Extent

KiB, MiB = 1 << 10, 1 << 20


@pytest.fixture
def image(tmp_path):
    def make(size, name="disk.img"):
        path = tmp_path / name
        path.write_bytes(random.Random(size).randbytes(size))
        return path

    return make


def whole(source, step=256 * KiB):
    parts = []
    with mmap.mmap(-1, step) as buffer:
        for at in range(0, source.size, step):
            with memoryview(buffer) as view, view[: min(step, source.size - at)] as part:
                source.readinto(at, part)
                parts.append(bytes(part))
    return b"".join(parts)


@pytest.mark.parametrize("size", [512, 4096, MiB, MiB + 512, 3 * MiB - 512])
def test_reads_an_image_file(image, size):
    path = image(size)
    with Source(path) as source:
        assert (source.size, source.logical_sector) == (size, 512)
        assert whole(source) == path.read_bytes()


def test_an_image_that_ends_within_a_sector_ends_in_zeros(image):
    path = image(MiB + 100)
    with Source(path) as source:
        assert source.size == MiB + 512
        assert whole(source) == path.read_bytes() + bytes(412)


def test_any_offset_and_length_can_be_read_into_any_buffer(image):
    path = image(2 * MiB + 1000)
    data = path.read_bytes() + bytes(24)
    rng = random.Random(7)
    with Source(path) as source:
        for _ in range(200):
            at = rng.randrange(source.size)
            buffer = bytearray(rng.randrange(min(1_200_000, source.size - at) + 1))
            source.readinto(at, buffer)
            assert buffer == data[at : at + len(buffer)]


def test_threads_read_at_once(image):
    path = image(4 * MiB)
    data, wrong = path.read_bytes(), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(100):
            at = rng.randrange(len(data) - 5000)
            buffer = bytearray(rng.randrange(5000))
            source.readinto(at, buffer)
            if buffer != data[at : at + len(buffer)]:
                wrong.append(at)

    with Source(path) as source:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_range_beyond_the_disk_is_refused(image):
    with Source(image(MiB)) as source, pytest.raises(ValueError, match="leave the disk"):
        source.readinto(MiB - 1, bytearray(2))


def test_what_is_no_disk_is_named(tmp_path):
    for name in (str(tmp_path / "nope"), str(tmp_path), "/dev/null", "", "no-such-disk", "a\0b"):
        with pytest.raises(NoSuchDiskError):
            Source(name)


# --- block devices -------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("sector", [512, 4096])
def test_reads_a_block_device_past_the_page_cache(image, loop, sector):
    path = image(2 * MiB + 8192)
    with loop("-r", "-b", sector, path) as device, Source(device) as source:
        assert (source.size, source.logical_sector) == (2 * MiB + 8192, sector)
        assert source.direct
        assert whole(source) == path.read_bytes()
        buffer = bytearray(1000)
        source.readinto(777, buffer)
        assert buffer == path.read_bytes()[777:1777]


@pytest.mark.root
def test_a_bare_word_is_a_device(image, loop, tmp_path, monkeypatch):
    with loop(image(MiB)) as device:
        (tmp_path / device.name).write_bytes(bytes(512))
        monkeypatch.chdir(tmp_path)
        with Source(device.name) as source:
            assert source.path == device


@pytest.mark.root
def test_a_disk_mounted_read_write_is_refused(tmp_path, loop, mount, run):
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(16 * MiB)
    run("sh", "-c", f"echo 'label: gpt\nsize=8MiB' | sfdisk -q {path}")
    with loop(path, partitions=True) as device:
        part = f"{device}p1"
        run("mkfs.ext4", "-q", part)
        Source(device).close()
        with mount(part, tmp_path / "m"):
            for name in (device, part, path):
                with pytest.raises(DiskInUseError, match=r"is mounted read-write on .*/m"):
                    Source(name)
            Source(device, live=True).close()
            # A read-only bind mount does not make the file system read-only.
            run("mount", "-o", "remount,bind,ro", tmp_path / "m")
            with pytest.raises(DiskInUseError):
                Source(device)
            run("mount", "-o", "remount,ro", tmp_path / "m")
            Source(device).close()


@pytest.mark.root
def test_every_member_of_a_mounted_btrfs_is_in_use(tmp_path, loop, mount, run):
    paths = [tmp_path / name for name in ("a.img", "b.img")]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(128 * MiB)
    with loop(paths[0]) as first, loop(paths[1]) as second:
        run("mkfs.btrfs", "-q", first, second)
        run("btrfs", "device", "scan", first, second)
        with mount(first, tmp_path / "m"):
            for device in (first, second):
                with pytest.raises(DiskInUseError, match="mounted read-write"):
                    Source(device)


@pytest.mark.root
def test_swap_in_use_is_refused(tmp_path, loop, run):
    path = tmp_path / "swap.img"
    path.write_bytes(bytes(4 * MiB))
    run("mkswap", path)
    with loop(path) as device:
        run("swapon", device)
        try:
            with pytest.raises(DiskInUseError, match="in use as swap"):
                Source(device)
        finally:
            run("swapoff", device)


# --- a disk that fails ---------------------------------------------------------------------------


@pytest.mark.root
def test_unreadable_sectors_become_zeros_and_are_recorded(image, loop):
    """The kernel fails reads of a loop device beyond the end of its file with EIO."""
    path = image(2 * MiB)
    data = path.read_bytes()
    cut = MiB + 5 * 512
    with loop("-r", path) as device:
        os.truncate(path, cut)
        with Source(device) as source:
            assert whole(source) == data[:cut] + bytes(2 * MiB - cut)
            # The kernel returns the rest of the last page of the file as zeros.
            (bad,) = source.bad.extents
            assert cut <= bad.offset < cut + 4096
            assert bad.end == 2 * MiB
            assert (source.bad.count, source.bad.bytes) == (1, bad.length)


@pytest.mark.root
@pytest.mark.skipif(not shutil.which("nbdfuse"), reason="needs libnbd's nbdfuse")
def test_a_few_bad_sectors_cost_only_themselves(image, tmp_path):
    """A real file system call that fails: nbdkit refuses any read that touches the bad sectors."""
    path, point = image(4 * MiB), tmp_path / "disk"
    point.touch()
    bad = [(MiB + 512, 512), (2 * MiB + 4096, 1024)]
    script = "; ".join(
        f"if [ $4 -lt {at + n} ] && [ $(( $4 + $3 )) -gt {at} ]; then echo EIO >&2; exit 1; fi"
        for at, n in bad
    )
    read = f"{script}; dd if={path} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none"
    server = subprocess.Popen(
        [
            *("nbdfuse", str(point), "--command", "nbdkit", "-s", "--exit-with-parent"),
            *("eval", f"get_size=echo {4 * MiB}", f"pread={read}"),
        ],
    )
    try:
        deadline = time.monotonic() + 20
        while point.stat().st_size != 4 * MiB:
            assert time.monotonic() < deadline, "nbdfuse did not start"
            time.sleep(0.1)
        with Source(point) as source:
            expected = bytearray(path.read_bytes())
            for at, n in bad:
                expected[at : at + n] = bytes(n)
            found = whole(source)
            assert source.bad.extents == tuple(Extent(at, n, zero=True) for at, n in bad)
            assert found == expected
            whole(source)
            assert source.bad.count == 2, "a second pass counts nothing twice"
    finally:
        subprocess.run(["fusermount3", "-u", str(point)], check=False)
        server.wait(timeout=20)


@pytest.mark.root
def test_a_source_that_shrinks_is_noticed(image, loop, run):
    path = image(2 * MiB)
    with loop("-r", path) as device, Source(device) as source:
        os.truncate(path, MiB)
        run("losetup", "-c", device)
        with pytest.raises(SourceChangedError, match="1048576 bytes, not 2097152"):
            source.check(2 * MiB)
        with pytest.raises(SourceChangedError):
            source.readinto(2 * MiB - 4096, bytearray(4096))


def test_an_image_file_that_shrinks_is_noticed(image):
    path = image(2 * MiB)
    with Source(path) as source:
        os.truncate(path, MiB)
        with pytest.raises(SourceChangedError, match="it ends at byte 1048576"):
            source.readinto(MiB - 4096, bytearray(8192))


def test_bad_ranges_merge_in_any_order_and_stay_bounded():
    bad, blocks = BadRanges(), list(range(0, 1000, 2)) + list(range(1, 1000, 4))
    random.Random(3).shuffle(blocks)
    for block in blocks * 2:
        bad.add(block * 512, 512)
    covered = {b for e in bad.extents for b in range(e.offset // 512, e.end // 512)}
    assert covered == set(blocks)
    assert (bad.bytes, bad.count) == (len(blocks) * 512, 250)
    for place in range(MAX_RANGES + 5):
        bad.add((place + 1000) * 4096, 512)
    assert len(bad.extents) == MAX_RANGES
    assert bad.count == 250 + MAX_RANGES + 5
