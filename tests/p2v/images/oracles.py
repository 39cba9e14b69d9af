# SPDX-License-Identifier: GPL-3.0-or-later
"""Other people's readers of disk images: what they say is the truth in these tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyvhdi

from p2v.images.check.image import check_image
from p2v.images.check.report import Severity


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"LC_ALL": "C"},
        check=False,
    )


def qemu_accepts(path: Path) -> None:
    result = run("qemu-img", "check", path)
    assert result.returncode == 0, result.stdout + result.stderr


def qemu_refuses(path: Path, fmt: str = "vhdx") -> None:
    result = run("qemu-img", "info", "-f", fmt, path)
    assert result.returncode != 0, result.stdout


def qemu_same(path: Path, raw: Path) -> None:
    """The image holds the same disk as the raw file."""
    result = run("qemu-img", "compare", "-F", "raw", path, raw)
    assert result.returncode == 0, result.stdout + result.stderr


def qemu_read(path: Path, offset: int, length: int, fmt: str = "vhdx") -> bytes:
    """The disk's bytes as QEMU reads them; in whole sectors."""
    out = path.with_name(path.name + ".dd")
    step = f"bs={512}", f"skip={offset // 512}", f"count={(offset + length) // 512}"
    result = run("qemu-img", "dd", "-f", fmt, "-O", "raw", f"if={path}", f"of={out}", *step)
    assert result.returncode == 0, result.stdout + result.stderr
    data = out.read_bytes()
    out.unlink()
    return data


def sevenzip_accepts(path: Path) -> None:
    result = run("7zz", "t", "-tvhdx", path)
    assert result.returncode == 0, result.stdout + result.stderr


def sevenzip_extract(path: Path, folder: Path) -> Path:
    """The raw disk that 7-Zip finds in the image."""
    result = run("7zz", "x", "-y", "-tvhdx", f"-o{folder}", path)
    assert result.returncode == 0, result.stdout + result.stderr
    (found,) = folder.iterdir()
    return found


def complaints(path: Path) -> list[str]:
    """What our own validator, which shares no code with readers and writers, has against it."""
    return [
        finding.message
        for finding in check_image(path).findings
        if finding.severity is not Severity.NOTE
    ]


class Vhdi:
    """The disk in an image, as libvhdi reads it."""

    def __init__(self, path: Path) -> None:
        self._file = pyvhdi.file()
        self._file.open(str(path))
        self.size = self._file.get_media_size()

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read_buffer_at_offset(length, offset)

    def close(self) -> None:
        self._file.close()


def is_sparse(path: Path) -> bool:
    """Whether the file has a hole, or preallocated room that was never written."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return os.lseek(fd, 0, os.SEEK_HOLE) < os.fstat(fd).st_size
    finally:
        os.close(fd)
