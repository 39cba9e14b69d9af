# SPDX-License-Identifier: GPL-3.0-or-later
"""Real disks: tables, file systems, swap and LVM made by their own tools, on loop devices.

Every file system is filled with real files, and some are deleted again, so that blocks which it
calls free hold stale data: what comes out of an image shows which blocks were copied.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v.model.units import MiB
from tests.e2e.running import run, tool, wait_for

LVM = ("--driverloaded", "n", "--yes", "--config", "backup{backup=0 archive=0}")
"""There may be no device-mapper: nothing is activated, the volumes are reached by their offset."""
LV_SIZE = 64 * MiB
STALE = b"stale: this block was freed\n"
_PIECE = MiB
Manifest = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition, or the whole disk with number 0; `start` and `size` are bytes."""

    number: int
    kind: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What to build. `volumes` are kinds and sizes in MiB; without `table` there is one at most.

    `logical` is the place of the first logical partition in an MBR. The disk's size is what the
    volumes need plus `rest` bytes, so that it ends where nobody expects it.
    """

    name: str
    sector: int = 512
    table: str = ""
    volumes: tuple[tuple[str, int], ...] = ()
    logical: int = 0
    rest: int = 0

    @property
    def size(self) -> int:
        return (sum(size for _, size in self.volumes) + 8 * bool(self.table)) * MiB + self.rest


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that was built, not attached; `manifests` say what its file systems hold."""

    spec: Spec
    path: Path
    volumes: tuple[Volume, ...]
    manifests: dict[int, Manifest]


# --- loop devices --------------------------------------------------------------------------------


@contextmanager
def attached(
    path: Path, sector: int, *, offset: int = 0, size: int = 0, ro: bool = False
) -> Iterator[str]:
    """Give the file, or a range of it, as a loop device; with its partitions where it has some."""
    words = ["losetup", "--show", "-f", "-b", str(sector)]
    words += ["-r"] if ro else []
    words += ["-o", str(offset), "--sizelimit", str(size)] if size else []
    loop = tool(*words, path).strip()
    try:
        run(("partx", "-d", loop))  # left by what was attached before
        run(("partx", "-a", loop))
        yield loop
    finally:
        run(("partx", "-d", loop))
        tool("losetup", "-d", loop)
        wait_for(lambda: not _backs(path, loop))


def _backs(path: Path, loop: str) -> bool:
    """Whether the loop device still has the file: one that is held is let go of later."""
    node = Path("/sys/block", loop.removeprefix("/dev/"), "loop", "backing_file")
    try:
        return node.read_text().strip() == str(path)
    except OSError:
        return False


@contextmanager
def mounted(device: str, kind: str, folder: Path, *, ro: bool = True) -> Iterator[Path]:
    """Mount a file system that nobody else has mounted."""
    folder.mkdir(exist_ok=True)
    options = ["ro" if ro else "rw", "noatime"] + ["nouuid"] * (kind == "xfs")
    if kind == "btrfs":
        tool("btrfs", "device", "scan", "--forget")
    mount = ["mount.ntfs-3g"] if kind == "ntfs" else ["mount", "-t", kind]
    tool(*mount, "-o", ",".join(options), device, folder)
    try:
        yield folder
    finally:
        tool("umount", folder)
        folder.rmdir()


# --- what a file system holds --------------------------------------------------------------------


def manifest(folder: Path) -> Manifest:
    """Return every file below `folder` with its contents' digest and all that is kept of it."""
    found: Manifest = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = ""
        if stat.S_ISLNK(status.st_mode):
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.blake2b(path.read_bytes()).hexdigest()
        kept = (status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_mtime_ns)
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
        }
        found[str(path.relative_to(folder))] = (content, str(size), str(kept), str(attributes))
    return found


def _files(folder: Path, seed: int) -> None:
    """Fill `folder` with files of every sort; some of them are gone afterwards."""
    chance = random.Random(seed)
    real = [path for path in Path("/usr/share/doc").rglob("*") if path.is_file()]
    for index, path in enumerate(chance.sample(sorted(real), min(300, len(real)))):
        target = folder / f"dir{index % 7}" / f"{index}-{path.name}"[:80]
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "random").write_bytes(chance.randbytes(3 * MiB + 77))
    (folder / "empty").touch()
    for number in range(6):
        (folder / f"gone{number}").write_bytes(STALE * (MiB // len(STALE)))
    tool("sync", "-f", folder)
    for number in range(0, 6, 2):
        (folder / f"gone{number}").unlink()


def _unix_files(folder: Path) -> None:
    """Add what only a Unix file system keeps."""
    (folder / "link").symlink_to("random")
    os.link(folder / "random", folder / "dir0" / "hard")
    os.chown(folder / "empty", 1234, 4321)
    (folder / "empty").chmod(0o4711)
    os.setxattr(folder / "random", "user.p2v", b"kept")
    with (folder / "sparse").open("wb") as sparse:
        sparse.seek(40 * MiB)
        sparse.write(b"end")


# --- making them ---------------------------------------------------------------------------------

_MAKERS: dict[str, Callable[[int], list[str]]] = {
    "ext4": lambda _: ["mkfs.ext4", "-q", "-L", "data"],
    "xfs": lambda _: ["mkfs.xfs", "-q", "-f", "-L", "xdata"],
    "btrfs": lambda _: ["mkfs.btrfs", "-q", "-f", "-L", "bdata"],
    "ntfs": lambda sector: ["mkntfs", "-q", "-Q", "-F", "-s", str(sector), "-L", "ndata"],
    "vfat": lambda sector: ["mkfs.vfat", "-F", "32", "-s", "1", "-S", str(sector), "-n", "FDATA"],
    "swap": lambda _: ["mkswap", "-q", "-L", "swapped"],
}
_TYPES = {  # by table: what sfdisk is told, and what a real disk would say
    "gpt": {
        "vfat": "uefi",
        "swap": "swap",
        "lvm": "lvm",
        "ntfs": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    },
    "dos": {"vfat": "c", "swap": "82", "lvm": "8e", "ntfs": "7"},
}
_EXTENDED = ("5", "f", "85")
WITH_FILES = ("ext4", "xfs", "btrfs", "ntfs", "vfat", "lvm")


def build(spec: Spec, folder: Path) -> Disk:
    """Make the disk in `folder`."""
    path = folder / f"{spec.name}.img"
    with path.open("wb") as file:
        file.truncate(spec.size)
    if spec.table:
        with attached(path, spec.sector) as loop:
            _partition(spec, loop)
    with attached(path, spec.sector) as loop:
        volumes = volumes_of(spec, loop)
        for volume in volumes:
            _format(spec, volume, loop)
    for volume in volumes:
        _fill(path, spec, volume, folder)
    found = {
        v.number: files_of(path, spec.sector, v, folder) for v in volumes if v.kind in WITH_FILES
    }
    return Disk(spec, path, volumes, found)


def _partition(spec: Spec, loop: str) -> None:
    lines = [f"label: {spec.table}"]
    for index, (kind, size) in enumerate(spec.volumes, start=1):
        if index == spec.logical:
            lines.append("type=f")
        kinds = _TYPES[spec.table]
        start = "start=63, " if spec.table == "dos" and index == 1 else ""  # as of old
        lines.append(f"{start}size={size}MiB, type={kinds.get(kind, 'linux')}")
    script = "\n".join(lines)
    done = run(("sfdisk", "-q", loop), stdin=script)
    assert done.code == 0, f"{script}\n{done.err}"


def volumes_of(spec: Spec, loop: str) -> tuple[Volume, ...]:
    """Return the volumes of the disk `loop`, whose kinds `spec` says."""
    if not spec.table:
        return tuple(Volume(0, kind, 0, spec.size) for kind, _ in spec.volumes)
    table = json.loads(tool("sfdisk", "-J", loop))["partitiontable"]
    found = [
        (int(part["node"].removeprefix(f"{loop}p")), part["start"], part["size"])
        for part in table["partitions"]
        if part["type"] not in _EXTENDED
    ]
    return tuple(
        Volume(number, kind, start * spec.sector, size * spec.sector)
        for (number, start, size), (kind, _) in zip(found, spec.volumes, strict=True)
    )


def _format(spec: Spec, volume: Volume, loop: str) -> None:
    device = f"{loop}p{volume.number}" if volume.number else loop
    if volume.kind == "random":
        Path(device).write_bytes(random.Random(volume.size).randbytes(volume.size))
    elif volume.kind == "lvm":
        group = f"vg_{spec.name.replace('-', '_')}"
        tool("pvcreate", *LVM, "--devices", device, device)
        tool("vgcreate", *LVM, "--devices", device, group, device)
        tool(
            "lvcreate",
            *LVM,
            "--devices",
            device,
            "-an",
            "-Zn",
            "-n",
            "data",
            "-L",
            f"{LV_SIZE}b",
            group,
        )
    elif volume.kind != "blank":
        tool(*_MAKERS[volume.kind](spec.sector), device)


def _fill(path: Path, spec: Spec, volume: Volume, folder: Path) -> None:
    seed = volume.number
    if volume.kind == "vfat":
        with tempfile.TemporaryDirectory(dir=folder) as name:
            _files(Path(name), seed)
            fat = f"{path}@@{volume.start}"
            tool("mcopy", "-s", "-m", "-i", fat, *Path(name).iterdir(), "::")
            tool("mcopy", "-i", fat, Path(name) / "random", "::gone")
            tool("mdel", "-i", fat, "::gone")
    elif volume.kind == "lvm":
        with _volume(path, spec.sector, volume) as device:
            tool("mkfs.ext4", "-q", device)
    if volume.kind in WITH_FILES and volume.kind != "vfat":
        with (
            _volume(path, spec.sector, volume) as device,
            mounted(device, _kind(volume), folder / "fill", ro=False) as point,
        ):
            _files(point, seed)
            if volume.kind != "ntfs":
                _unix_files(point)


def _kind(volume: Volume) -> str:
    return "ext4" if volume.kind == "lvm" else volume.kind


@contextmanager
def _volume(path: Path, sector: int, volume: Volume, *, ro: bool = False) -> Iterator[str]:
    """Give a volume, or the logical volume in it, as a device of its own."""
    start, size = volume.start, volume.size
    if volume.kind == "lvm":
        with attached(path, sector, offset=start, size=size, ro=True) as device:
            start += int(
                tool(
                    "pvs",
                    *LVM,
                    "--devices",
                    device,
                    "--noheadings",
                    "--nosuffix",
                    "--units",
                    "b",
                    "-o",
                    "pe_start",
                    device,
                )
            )
        size = LV_SIZE
    with attached(path, sector, offset=start, size=size, ro=ro) as device:
        yield device


def files_of(path: Path, sector: int, volume: Volume, folder: Path) -> Manifest:
    """Return what the file system in `volume` of the raw disk `path` holds."""
    if volume.kind == "vfat":
        with tempfile.TemporaryDirectory(dir=folder) as name:
            tool("mcopy", "-s", "-m", "-n", "-i", f"{path}@@{volume.start}", "::*", name)
            return manifest(Path(name))
    with (
        _volume(path, sector, volume, ro=True) as device,
        mounted(device, _kind(volume), folder / "read") as point,
    ):
        return manifest(point)


# --- what must stay ------------------------------------------------------------------------------

_CHECKS = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
    "ntfs": ("ntfsfix", "-n"),
    "vfat": ("fsck.vfat", "-n"),
    "swap": ("swaplabel",),
}


def check_volume(path: Path, sector: int, volume: Volume) -> None:
    """Let the file system's own tool find nothing wrong with it."""
    if volume.kind == "lvm":
        with attached(path, sector, offset=volume.start, size=volume.size, ro=True) as device:
            tool("pvck", *LVM, "--devices", device, device)
            group = tool("vgs", *LVM, "--devices", device, "--noheadings", "-o", "vg_name").strip()
            tool("vgck", *LVM, "--devices", device, group)
        with _volume(path, sector, volume, ro=True) as device:
            tool(*_CHECKS["ext4"], device)
    elif volume.kind in _CHECKS:
        with _volume(path, sector, volume, ro=True) as device:
            tool(*_CHECKS[volume.kind], device)


def table_of(path: Path, sector: int) -> str:
    """Return the partition table as `sfdisk -d` has it, whatever the device is called."""
    with attached(path, sector, ro=True) as loop:
        done = run(("sfdisk", "-d", loop))
        return done.out.replace(loop, "disk")


def signature_of(path: Path, sector: int, volume: Volume) -> dict[str, str]:
    """Return what `blkid` knows of a volume: type, UUIDs, label."""
    with attached(path, sector, offset=volume.start, size=volume.size, ro=True) as device:
        done = run(("blkid", "-p", "-o", "export", device))
    pairs = (line.split("=", 1) for line in done.out.splitlines() if "=" in line)
    return {name: value for name, value in pairs if name != "DEVNAME"}


def digest_of(path: Path) -> str:
    """Return a digest of what a sparse file holds; its holes are not read."""
    known, done = hashlib.blake2b(str(path.stat().st_size).encode()), 0
    with path.open("rb") as file:
        for start, end in data_ranges(file.fileno()):
            # Whole pieces, each once: where the holes are must not count.
            for offset in range(max(done, start - start % _PIECE), end, _PIECE):
                piece = os.pread(file.fileno(), _PIECE, offset)
                done = offset + _PIECE
                if piece.strip(b"\0"):
                    known.update(offset.to_bytes(8, "big") + piece)
    return known.hexdigest()


def data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a sparse file that are no holes."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def assert_same_volumes(
    raw: Path, disk: Disk, room: Path, manifests: dict[int, Manifest] | None = None
) -> None:
    """Table, signatures and files of the raw disk are those of `disk`, and no fsck complains."""
    sector = disk.spec.sector
    assert table_of(raw, sector) == table_of(disk.path, sector)
    for volume in disk.volumes:
        assert signature_of(raw, sector, volume) == signature_of(disk.path, sector, volume)
        check_volume(raw, sector, volume)
        if volume.kind in WITH_FILES:
            found = files_of(raw, sector, volume, room)
            assert_same_files(found, (manifests or disk.manifests)[volume.number])


def assert_same_files(found: Manifest, expected: Manifest) -> None:
    assert len(expected) > 100
    assert {k: v for k, v in found.items() if expected.get(k) != v} == {}
    assert found.keys() == expected.keys()
