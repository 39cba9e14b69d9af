# SPDX-License-Identifier: GPL-3.0-or-later
"""A full file system: a clear error, an image that stays consistent, and more room ends it."""

import random
import shutil
import subprocess
from contextlib import closing, contextmanager, suppress

import pytest
import zstandard

from p2v.images.base import StoresZstd
from p2v.images.open import create_writer, open_reader, resume_writer
from p2v.model.errors import NoRoomError
from p2v.model.plan import ImageFormat
from p2v.model.units import KiB, MiB

pytestmark = pytest.mark.root

ROOM, SIZE, CHUNK = 24 * MiB, 40 * MiB, 256 * KiB
KINDS = {
    "raw": (ImageFormat.RAW, False),
    "qcow2": (ImageFormat.QCOW2, False),
    "qcow2 zstd": (ImageFormat.QCOW2, True),
    "vhdx": (ImageFormat.VHDX, False),
}


@contextmanager
def full_soon(tmp_path, kind):
    """Yield a folder on a small file system, with a file in it whose removal makes room."""
    folder = tmp_path / "store"
    folder.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=80M", "none", folder]
    else:
        device = tmp_path / "store.ext4"
        with device.open("wb") as file:
            file.truncate(90 * MiB)
        subprocess.run(["mkfs.ext4", "-q", "-m0", device], check=True)
        mount = ["mount", "-o", "loop", device, folder]
    subprocess.run(mount, check=True)
    try:
        free = shutil.disk_usage(folder).free
        subprocess.run(["fallocate", "-l", str(free - ROOM), folder / "ballast"], check=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Take the rest of the room."""
    with (folder / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def write_all(writer, model, start):
    """Write the model in chunks from `start` on; return where there was no more room."""
    for offset in range(start, SIZE, CHUNK):
        try:
            write_chunk(writer, offset, model[offset : offset + CHUNK])
            if offset % (4 * MiB) == 0:
                writer.checkpoint()
        except NoRoomError:
            return offset
    return SIZE


def write_chunk(writer, offset, chunk):
    if isinstance(writer, StoresZstd):
        frame = zstandard.ZstdCompressor(level=1).compress(chunk)
        if writer.write_zstd(offset, len(chunk), frame):
            return
    writer.write(offset, chunk)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file_system", ["tmpfs", "ext4"])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_full_store_pauses_the_image(tmp_path, kind, file_system, reopened):
    noise = random.Random(4)
    model = b"".join(noise.randbytes(CHUNK - 30_000) + bytes(30_000) for _ in range(SIZE // CHUNK))
    form, compressed = KINDS[kind]
    with full_soon(tmp_path, file_system) as folder:
        path = folder / "disk"
        writer = create_writer(form, path, SIZE, compressed=compressed)
        reached = write_all(writer, model, 0)
        assert 0 < reached < SIZE
        assert write_all(writer, model, reached) == reached, "still full"
        if reopened:
            writer.close()
            writer = resume_writer(form, path)
            reached = 0
        else:
            kept = bytearray(reached)
            writer.readinto(0, kept)
            assert kept == model[:reached]
        (folder / "ballast").unlink()
        assert write_all(writer, model, reached) == SIZE
        writer.commit()
        writer.close()
        with closing(open_reader(path, form)) as reader:
            content = bytearray(SIZE)
            reader.readinto(0, content)
            assert content == model
        if form is ImageFormat.QCOW2:
            subprocess.run(["qemu-img", "check", "-q", path], check=True)


def test_no_room_for_the_refcounts_lets_the_writing_go_on(tmp_path):
    with full_soon(tmp_path, "tmpfs") as folder:
        path = folder / "disk.qcow2"
        writer = create_writer(ImageFormat.QCOW2, path, SIZE)
        writer.write(0, b"x" * MiB)
        writer.checkpoint()
        fill(folder)
        with pytest.raises(NoRoomError, match=r"disk\.qcow2\.partial"):
            writer.commit()
        assert not path.exists()
        (folder / "ballast").unlink()
        writer.write(8 * MiB, b"y" * MiB)
        writer.commit()
        writer.close()
        subprocess.run(["qemu-img", "check", "-q", path], check=True)
        with closing(open_reader(path)) as reader:
            content = bytearray(SIZE)
            reader.readinto(0, content)
        assert content == (b"x" * MiB + bytes(7 * MiB) + b"y" * MiB).ljust(SIZE, b"\0")


def test_no_room_to_create_leaves_nothing_behind(tmp_path):
    with full_soon(tmp_path, "tmpfs") as folder:
        fill(folder)
        with pytest.raises(NoRoomError):
            create_writer(ImageFormat.QCOW2, folder / "disk.qcow2", SIZE)
        assert sorted(entry.name for entry in folder.iterdir()) == ["ballast", "filler"]
