# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows guests for tests: real registries, hives made from nothing, and disks that hold them."""

from __future__ import annotations

import lzma
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from p2v.guest import debian
from p2v.guest.windows.registry.base import PAGE, BaseBlock
from p2v.guest.windows.registry.recover import recover

HIVES = Path(__file__).parent / "hives"
MiB = 1 << 20
_SID = bytes.fromhex("010100000000000512000000")  # S-1-5-18, the system itself
_DESCRIPTOR = struct.pack("<BBHIIII", 1, 0, 0x8000, 20, 32, 0, 0) + _SID + _SID


@cache
def packed(name: str) -> bytes:
    """Return a file of tests/.../hives."""
    return lzma.decompress((HIVES / f"{name}.xz").read_bytes())


@cache
def real(name: str) -> bytes:
    """Return a real SYSTEM hive, clean: recovered, or called clean where its logs are lost."""
    hive = packed(name)
    if name == "SYSTEM_B":
        return recover(hive, logs()).data
    base = BaseBlock.parse(hive)
    if not base.dirty:
        return hive
    out = bytearray(hive)
    base.settled(base.primary).write_to(out)
    return bytes(out)


def logs() -> list[bytes]:
    """Return the logs of SYSTEM_B."""
    return [packed("SYSTEM_B.LOG1"), packed("SYSTEM_B.LOG2")]


def empty_hive() -> bytes:
    """Return a hive that holds nothing but its root, as small as one can be."""
    base = bytearray(PAGE)
    struct.pack_into("<4sIIQIIIIIII", base, 0, b"regf", 1, 1, 0, 1, 5, 0, 1, 32, PAGE, 1)
    none, security_at = 0xFFFFFFFF, 32 + 4 + 84
    fields = (0, 0, 0, 0, none, none, 0, none, security_at, none, 0, 0, 0, 0, 0)
    key = struct.pack("<2sHQ15IHH", b"nk", 0x2C, 0, *fields, 4, 0) + b"root"
    security = struct.pack("<2sHIIII", b"sk", 0, security_at, security_at, 1, len(_DESCRIPTOR))
    cells = _cell(key) + _cell(security + _DESCRIPTOR)
    free = PAGE - 32 - len(cells)
    page = struct.pack("<4sIIQQI", b"hbin", 0, PAGE, 0, 0, 0) + cells + struct.pack("<i", free)
    BaseBlock.parse(bytes(base)).settled(1).write_to(base)
    return bytes(base) + page + bytes(PAGE - len(page))


def _cell(content: bytes) -> bytes:
    size = -(-(len(content) + 4) // 8) * 8
    return struct.pack("<i", -size) + content + bytes(size - 4 - len(content))


@contextmanager
def hivex(path: Path, *, write: bool = False) -> Iterator[Any]:
    """Open a hive with hivex; what was written is kept when the block ends well."""
    handle = debian.load("hivex", "libhivexmod").Hivex(str(path), write=write)
    yield handle
    if write:
        handle.commit(None)


def software_hive(path: Path, values: Mapping[str, str | int]) -> None:
    """Write a SOFTWARE hive whose `CurrentVersion` has these values."""
    path.write_bytes(empty_hive())
    with hivex(path, write=True) as handle:
        node = handle.root()
        for name in ("Microsoft", "Windows NT", "CurrentVersion"):
            node = handle.node_add_child(node, name)
        for name, value in values.items():
            is_text = isinstance(value, str)
            data = f"{value}\0".encode("utf-16-le") if is_text else value.to_bytes(4, "little")
            handle.node_set_value(node, {"key": name, "t": 1 if is_text else 4, "value": data})


def program(machine: int = 0x8664) -> bytes:
    """Return what `file` takes for a Windows program of a processor: x86-64, or 0x14c for x86."""
    wide = machine == 0x8664
    header = struct.pack("<4sHHIIIHH", b"PE\0\0", machine, 1, 0, 0, 0, 240 if wide else 224, 0x22)
    optional = struct.pack("<H", 0x20B if wide else 0x10B).ljust(68, b"\0") + struct.pack("<H", 3)
    return b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + header + optional.ljust(400, b"\0")


def disk(path: Path, files: Mapping[str, bytes], *, size: int = 160 * MiB) -> None:
    """Write a disk with one partition (MBR) that holds an NTFS volume with these files."""
    volume = path.with_suffix(".ntfs")
    with volume.open("wb") as out:
        out.truncate(size)
    sh("mkntfs", "-F", "-Q", "-q", "-p", "2048", "-H", "255", "-S", "63", volume)
    point = path.with_suffix(".mount")
    point.mkdir()
    sh("ntfs-3g", volume, point)
    try:
        for name, content in files.items():
            target = point / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    finally:
        sh("umount", point)
    entry = struct.pack("<B3xB3xII", 0x80, 7, 2048, size // 512)
    with path.open("wb") as out, volume.open("rb") as source:
        out.write(bytes(440) + b"p2v!" + bytes(2) + entry.ljust(64, b"\0") + b"\x55\xaa")
        out.seek(MiB)
        while piece := source.read(MiB):
            out.seek(len(piece), 1) if not any(piece) else out.write(piece)
        out.truncate(MiB + size)
    volume.unlink()


def sh(*argv: object) -> str:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
