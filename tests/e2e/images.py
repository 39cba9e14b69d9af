# SPDX-License-Identifier: GPL-3.0-or-later
"""Images as other people's tools see them: is the format sound, and which disk is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pyvhdi

from p2v.model.units import MiB
from tests.e2e.running import P2V, run, tool


def check(image: Path, sector: int, *, made_by_qemu: bool = False) -> None:
    """Let every checker there is find nothing wrong with the image's format.

    A VHDX that QEMU made is not quite as [MS-VHDX] demands, and so it stays: warnings only.
    """
    done = run([*P2V, "image", "check", "--deep", "--progress", "none", "--json", image])
    qemus_vhdx = made_by_qemu and image.suffix == ".vhdx"
    found = (done.code, done.json["images"][0]["verdict"])
    assert found == ((3, "warnings") if qemus_vhdx else (0, "clean")), done.out
    if image.suffix == ".raw":
        return
    if qemu_reads(image, sector):
        tool("qemu-img", "check", image)
    if not compressed(image) and size_of(image) % MiB == 0:  # 7-Zip refuses many an odd size
        tool("7zz", "t", image)


def qemu_reads(image: Path, sector: int) -> bool:
    """Whether QEMU can open the image: it knows no VHDX with sectors of 4096 bytes."""
    return image.suffix != ".vhdx" or sector == 512


def info(image: Path) -> dict:
    """Return what `p2v image info` says of an image."""
    done = run([*P2V, "image", "info", "--json", image])
    assert done.code == 0, done.out
    return done.json["images"][0]


def size_of(image: Path) -> int:
    """Return the size of the disk in the image."""
    return int(info(image)["virtual_size"])


def compressed(image: Path) -> bool:
    """Whether the image is a qcow2 whose clusters are zstd frames."""
    if image.suffix != ".qcow2":
        return False
    found = json.loads(tool("qemu-img", "info", "--output=json", image))
    return found["format-specific"]["data"]["compression-type"] == "zstd"


def compare(image: Path, disk: Path, sector: int, *ignored: tuple[int, int]) -> None:
    """Let the image hold the raw `disk` bit for bit, but for ranges `ignored`."""
    words = [word for offset, length in ignored for word in ("--ignore", f"{offset}:{length}")]
    argv = [*P2V, "image", "compare", "--progress", "none", "--json", *words, image, disk]
    done = run(argv)
    assert done.code == 0, done.out
    assert done.json["a"]["size"] == done.json["b"]["size"]
    if qemu_reads(image, sector) and not ignored:
        tool("qemu-img", "compare", "-F", "raw", image, disk)


def unpack(image: Path, sector: int, folder: Path) -> Path:
    """Return the raw disk in the image, as QEMU reads it, or else libvhdi."""
    out = folder / f"{image.name}.unpacked"
    if qemu_reads(image, sector):
        tool("qemu-img", "convert", "-O", "raw", image, out)
        return out
    reader = pyvhdi.file()
    reader.open(str(image))
    size = reader.get_media_size()
    with out.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 4 * MiB):
            piece = reader.read_buffer_at_offset(min(4 * MiB, size - offset), offset)
            if piece.strip(b"\0"):
                file.seek(offset)
                file.write(piece)
    reader.close()
    return out
