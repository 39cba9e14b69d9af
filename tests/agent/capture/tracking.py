# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are tracked, written to, and copied as a migration does it."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.capture.classic import ClassicMarks
from agent.capture.leaves import SYSFS, Leaf, leaves_of, read_leaf
from agent.capture.marks import Alarm, CoreMarks, Marks
from agent.capture.tracker import LiveTracker, Tracked
from native._tracker import has_atomic_or

KiB, MiB = 1 << 10, 1 << 20
GRANULE = 64 * KiB
BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F

Make = Callable[[Sequence[Leaf]], Marks]


def bits(leaves: Sequence[Leaf], **options: object) -> CoreMarks:
    return CoreMarks(leaves, bytewise=False, **options)


def in_bytes(leaves: Sequence[Leaf], **options: object) -> CoreMarks:
    return CoreMarks(leaves, bytewise=True, **options)


needs_bits = pytest.mark.skipif(not has_atomic_or(), reason="needs Linux 5.12")
WAYS = [
    pytest.param(bits, id="bits", marks=needs_bits),
    pytest.param(in_bytes, id="bytes"),
    pytest.param(ClassicMarks, id="classic"),
]


@contextmanager
def tracked(make: Make, *devices: Path) -> Iterator[LiveTracker]:
    """Track loop devices; a tracker knows them by name."""
    disks = [read_leaf(device.name) for device in devices]
    with LiveTracker([Tracked(disk, leaves_of(disk)) for disk in disks], make) as tracker:
        yield tracker


def mirror_like(folder: Path, *members: Path, offset: int) -> tuple[Path, str]:
    """Return a sysfs in which there is a mirror of loop devices, at `offset`, and its name.

    Nothing writes through it: a test writes to the members, as its driver would.
    """
    made = folder / "block/md9"
    for part in (made / "slaves", made / "md", folder / "class/block"):
        part.mkdir(parents=True)
    size = min(read_leaf(member.name).size for member in members) - offset
    (made / "dev").write_text("9:9\n")
    (made / "size").write_text(f"{size // 512}\n")
    (made / "md/level").write_text("raid1\n")
    for member in members:
        real = (SYSFS / "block" / member.name).resolve()
        for place in ("block", "class/block", "block/md9/slaves"):
            (folder / place / member.name).symlink_to(real)
        (made / f"md/dev-{member.name}").mkdir()
        (made / f"md/dev-{member.name}/offset").write_text(f"{offset // 512}\n")
    return folder, "md9"


def sound(doubt: str | None) -> bool:
    """Whether there is no doubt, or one that a healthy tracker may have too.

    A kernel may keep programs from running, now and then and without saying so: that is found.
    """
    missed = (Alarm.UNACCOUNTED.value, Alarm.SKIPPED.value)
    return doubt is None or all(part in missed for part in doubt.partition(": ")[2].split("; "))


TRIES = 6


def keeps_its_promise(tracker: LiveTracker, *names: str, check: Callable[[], None]) -> None:
    """Run `check`; where it fails the tracker must be in doubt, and then it is run again.

    That is all that is promised: a kernel that is busy with programs of other processes, or that
    has the fault told of in docs/tracker.md, may keep one from running.
    """
    for left in reversed(range(TRIES)):
        for name in names:
            tracker.restart(name)
        try:
            check()
        except AssertionError:
            doubts = [doubt for name in names if (doubt := tracker.doubt(name))]
            if not left or not doubts or not all(map(sound, doubts)):
                raise
        else:
            break


def granules(extents: object) -> set[int]:
    """The granules of extents, which must ascend and be merged."""
    found: set[int] = set()
    end = -1
    for extent in extents:  # type: ignore[attr-defined]
        assert extent.offset > end, "extents are neither in order nor merged"
        end = extent.end
        found |= set(range(extent.offset // GRANULE, -(-extent.end // GRANULE)))
    return found


def differing(before: Path, after: Path) -> set[int]:
    """The granules in which two files of equal size differ."""
    found = set()
    with before.open("rb") as one, after.open("rb") as other:
        number = 0
        while left := one.read(GRANULE):
            if left != other.read(GRANULE):
                found.add(number)
            number += 1
    return found


class Disk:
    """An open block device that is written to past the page cache."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def write(self, offset: int, length: int = 4 * KiB) -> None:
        with mmap.mmap(-1, length) as block:
            block.write(random.randbytes(length))
            os.pwrite(self.fd, block, offset)

    def read(self, offset: int, length: int) -> bytes:
        with mmap.mmap(-1, length) as block:
            assert os.preadv(self.fd, [block], offset) == length
            return block[:]

    def discard(self, offset: int, length: int) -> None:
        fcntl.ioctl(self.fd, BLKDISCARD, struct.pack("QQ", offset, length))

    def zero(self, offset: int, length: int) -> None:
        fcntl.ioctl(self.fd, BLKZEROOUT, struct.pack("QQ", offset, length))


class Load:
    """Threads that write and discard at random places until told to stop."""

    def __init__(self, disk: Disk, threads: int = 4) -> None:
        self.disk = disk
        self.writes = 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed),), name=f"load {seed}")
            for seed in range(threads)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors, self.errors

    def _run(self, dice: random.Random) -> None:
        try:
            while not self._stop.is_set():
                at = dice.randrange(self.disk.size // (4 * KiB)) * 4 * KiB
                length = min(dice.choice((4, 4, 4, 64, 256)) * KiB, self.disk.size - at)
                action = self.disk.write
                if not dice.randrange(20):
                    action = dice.choice((self.disk.discard, self.disk.zero))
                action(at, length)
                self.writes += 1
        except BaseException as error:  # reported by stop()
            self.errors.append(error)


def wait_for(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def sysfs_like(folder: Path, **replaced: str) -> Path:
    """A sysfs that is the real one but for these files; a path's slashes are written `__`."""
    for name in ("block", "class", "dev", "devices"):
        (folder / name).symlink_to(SYSFS / name)
    for name, text in replaced.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
