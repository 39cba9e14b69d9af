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


SYSTEM32 = "/Windows/System32"
CONFIG = f"{SYSTEM32}/config"
WINDOWS_10 = {
    "ProductName": "Windows 10 Pro",
    "CurrentVersion": "6.3",
    "CurrentMajorVersionNumber": 10,
    "CurrentMinorVersionNumber": 0,
    "CurrentBuildNumber": "17134",
    "EditionID": "Professional",
    "InstallationType": "Client",
}


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


def volume(path: Path, files: Mapping[str, bytes], *, size: int = 160 * MiB) -> None:
    """Write an NTFS volume that holds these files."""
    with path.open("wb") as out:
        out.truncate(size)
    sh("mkntfs", "-F", "-Q", "-q", "-p", "2048", "-H", "255", "-S", "63", path)
    point = path.with_suffix(".mount")
    point.mkdir()
    sh("ntfs-3g", path, point)
    try:
        for name, content in files.items():
            target = point / name.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    finally:
        sh("umount", point)


def system_partition(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an EFI system partition that holds these files."""
    with path.open("wb") as out:
        out.truncate(32 * MiB)
    sh("mkfs.vfat", path)
    content = path.with_suffix(".content")
    for name, data in files.items():
        target = content / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    sh("mcopy", "-i", path, "-s", *content.iterdir(), "::")


def disk(path: Path, windows: Path, efi: Path | None = None) -> None:
    """Put volumes on a disk: by MBR, or with a system partition by GPT."""
    parts = [windows] if efi is None else [efi, windows]
    types = ["7, *"] if efi is None else ["U", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"]
    at, lines = MiB, [f"label: {'dos' if efi is None else 'gpt'}"]
    with path.open("wb") as out:
        for part, kind in zip(parts, types, strict=True):
            size = part.stat().st_size
            lines.append(f"{at // 512}, {size // 512}, {kind}")
            out.seek(at)
            with part.open("rb") as source:
                while piece := source.read(MiB):
                    out.write(piece) if any(piece) else out.seek(len(piece), 1)
            at += size
        out.truncate(at + MiB)
    subprocess.run(
        ["sfdisk", "-q", path], input="\n".join(lines), text=True, check=True, timeout=60
    )


def system_files(
    folder: Path, version: Mapping[str, str | int], system: bytes, machine: int = 0x8664
) -> dict[str, bytes]:
    """Return the files that make a volume a Windows to those who look at it.

    Args:
        folder: for work.
        version: the values of CurrentVersion.
        system: the SYSTEM hive.
        machine: what the programs run on, as `program` has it.
    """
    software_hive(folder / "SOFTWARE", version)
    drivers = "vmbus storvsc vmstorfl intelide pciide atapi storahci disk partmgr stdcfltn"
    files = {f"{SYSTEM32}/drivers/{name}.sys": program(machine) for name in drivers.split()}
    return files | {
        f"{CONFIG}/SOFTWARE": (folder / "SOFTWARE").read_bytes(),
        f"{CONFIG}/SYSTEM": system,
        f"{SYSTEM32}/cmd.exe": program(machine),
        f"{SYSTEM32}/WindowsPowerShell/v1.0/powershell.exe": program(machine),
        "/Users/Administrator/notes.txt": b"keep me",
    }


def on_disk(
    folder: Path, files: Mapping[str, bytes], efi: Mapping[str, bytes] | None = None
) -> Path:
    """Return a disk of one Windows volume, and of a system partition if files are given for it."""
    image, windows = folder / "windows.raw", folder / "ntfs"
    volume(windows, files)
    part = None
    if efi is not None:
        part = folder / "esp"
        system_partition(part, efi)
    disk(image, windows, part)
    return image


def sh(*argv: object) -> str:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
