# SPDX-License-Identifier: GPL-3.0-or-later
"""Raw images and block devices."""

import os
import subprocess
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from p2v.images.raw import RawReader, RawWriter
from p2v.model.errors import ImageError, ImageIncompleteError
from p2v.model.extent import Extent
from p2v.model.units import KiB, MiB, TiB


@contextmanager
def loop_device(path, *options):
    done = subprocess.run(
        ["losetup", "-f", "--show", *options, path], check=True, capture_output=True, text=True
    )
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_new_image_takes_no_room_and_reads_as_zeros(tmp_path):
    path = tmp_path / "disk.raw"
    with closing(RawWriter.create(path, 8 * TiB)) as writer:
        writer.zero(0, 8 * TiB)
        writer.commit()
    assert path.stat().st_size == 8 * TiB
    assert path.stat().st_blocks < 16
    with closing(RawReader.open(path)) as reader:
        assert list(reader.extents()) == [Extent(0, 8 * TiB, zero=True)]


def test_any_size_is_kept_to_the_byte(tmp_path):
    path = tmp_path / "disk.raw"
    with closing(RawWriter.create(path, 100_001)) as writer:
        writer.write(100_000, b"z")
        writer.write(7, b"seven")
        writer.commit()
    assert path.read_bytes() == bytes(7) + b"seven" + bytes(99_988) + b"z"


def test_zeroing_gives_room_back(tmp_path):
    path = tmp_path / "disk.raw"
    with closing(RawWriter.create(path, 4 * MiB)) as writer:
        writer.write(0, b"x" * 4 * MiB)
        writer.checkpoint()
        full = writer.partial.stat().st_blocks
        writer.zero(MiB - 3, 2 * MiB)
        writer.commit()
        assert path.stat().st_blocks <= full - (2 * MiB - 8 * KiB) // 512
        start, *_, end = writer.extents()
        assert not start.zero and start.length <= MiB and not end.zero
    content = path.read_bytes()
    assert content == b"x" * (MiB - 3) + bytes(2 * MiB) + b"x" * (MiB + 3)


def test_until_the_commit_only_the_partial_name_exists(tmp_path):
    path = tmp_path / "disk.raw"
    with closing(RawWriter.create(path, MiB)) as writer:
        assert [entry.name for entry in tmp_path.iterdir()] == ["disk.raw.partial"]
        with pytest.raises(ImageIncompleteError):
            RawReader.open(writer.partial)
        writer.commit()
        assert [entry.name for entry in tmp_path.iterdir()] == ["disk.raw"]
        with pytest.raises(ImageError, match="resume it"):
            writer.write(0, b"late")
    with closing(RawWriter.resume(path)) as writer:
        assert [entry.name for entry in tmp_path.iterdir()] == ["disk.raw.partial"]
        writer.write(5, b"again")
        writer.commit()
    assert path.read_bytes()[:10] == bytes(5) + b"again"


def test_ranges_outside_and_missing_files_are_named(tmp_path):
    path = tmp_path / "disk.raw"
    with pytest.raises(ImageError, match="no such image"):
        RawReader.open(path)
    with pytest.raises(ImageError, match="no such image"):
        RawWriter.resume(path)
    with pytest.raises(ImageError, match="0 bytes"):
        RawWriter.create(path, 0)
    with pytest.raises(ImageError, match="no folder"):
        RawWriter.create(tmp_path / "absent" / "disk.raw", MiB)
    with pytest.raises(ImageError, match="neither"):
        RawReader.open(tmp_path)
    with closing(RawWriter.create(path, MiB)) as writer:
        for call in (
            lambda: writer.write(MiB, b"x"),
            lambda: writer.zero(0, MiB + 1),
            lambda: writer.readinto(-1, bytearray(1)),
        ):
            with pytest.raises(ImageError, match="leave the disk"):
                call()


def test_a_file_that_shrank_is_an_error_not_zeros(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * MiB)
    with closing(RawReader.open(path)) as reader:
        os.truncate(path, 1000)
        with pytest.raises(ImageError, match="ends at byte 1000"):
            reader.readinto(0, bytearray(4096))


def test_a_size_beyond_the_file_system_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no file so large"):
        RawWriter.create(tmp_path / "disk.raw", 1 << 62)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("sector", [512, 4096])
def test_a_block_device_is_read_with_its_size_and_sectors(tmp_path, sector):
    path = tmp_path / "disk.raw"
    content = os.urandom(3 * MiB) + bytes(MiB)
    path.write_bytes(content)
    with (
        loop_device(path, "-b", str(sector)) as device,
        closing(RawReader.open(Path(device))) as reader,
    ):
        assert (reader.size, reader.sector_size) == (4 * MiB, sector)
        part = bytearray(MiB)
        reader.readinto(2 * MiB + 1, part)
        assert part == content[2 * MiB + 1 : 3 * MiB + 1]
        assert sum(extent.length for extent in reader.extents()) == 4 * MiB
