# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk that can lose its power: notes every write, and what each sync has made durable.

While a `Recorder` is active it stands between p2v and the kernel, in `os` and in the one function
that calls fallocate(2). The files themselves are written as always, so that reads see what a page
cache would show; the recorder keeps beside them, by pages, what the medium is sure to have and all
that it may have. From that `crash` makes the files as a loss of power could leave them: of every
page any version since the last sync, each page by itself, and of the file any size since then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from stat import S_ISREG

import pytest

from p2v.images import _file

PAGE = 4096
_ZERO = bytes(PAGE)
_PUNCH_HOLE, _ZERO_RANGE, _KEEP_SIZE = 0x02, 0x10, 0x01


class PowerLossError(BaseException):
    """The power is gone. No `Exception`: nothing may handle it."""


class File:
    """What became of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.durable: dict[int, bytes] = {}
        self.later: dict[int, list[bytes]] = {}
        self.sizes = [0]

    @property
    def size(self) -> int:
        return self.sizes[-1]

    def page(self, number: int) -> bytes:
        versions = self.later.get(number)
        return versions[-1] if versions else self.durable.get(number, _ZERO)

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        for number in range(offset // PAGE, -(-end // PAGE)):
            start, stop = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
            page = bytearray(self.page(number))
            page[start - number * PAGE : stop - number * PAGE] = data[
                start - offset : stop - offset
            ]
            self.later.setdefault(number, []).append(bytes(page))
        self.grow(end)

    def clear(self, offset: int, end: int) -> None:
        """Make a range zeros; only pages that ever held something are gone through."""
        for number in sorted(self.durable.keys() | self.later.keys()):
            start, stop = max(offset, number * PAGE), min(end, (number + 1) * PAGE)
            if start < stop:
                page = bytearray(self.page(number))
                page[start - number * PAGE : stop - number * PAGE] = bytes(stop - start)
                self.later.setdefault(number, []).append(bytes(page))

    def grow(self, size: int) -> None:
        if size > self.size:
            self.sizes.append(size)

    def truncate(self, size: int) -> None:
        self.clear(size, max(size, self.size) + PAGE)
        self.sizes.append(size)

    def mark(self) -> tuple[dict[int, int], int]:
        """Return what a sync that begins now will cover."""
        return {number: len(versions) for number, versions in self.later.items()}, len(self.sizes)

    def settle(self, mark: tuple[dict[int, int], int]) -> None:
        """Count as durable what was written before `mark`."""
        pages, sizes = mark
        for number, count in pages.items():
            versions = self.later[number]
            self.durable[number] = versions[count - 1]
            del versions[:count]
            if not versions:
                del self.later[number]
        del self.sizes[: sizes - 1]

    def leave(self, target: Path, random: Random) -> None:
        """Write the file as a crash could leave it."""
        keen = random.choice((0.0, 0.0, 0.1, 0.5, 0.9, 1.0, 1.0))
        content = dict(self.durable)
        for number, versions in self.later.items():
            if random.random() < keen:
                content[number] = versions[-1] if keen == 1.0 else random.choice(versions)
        size = self.size if keen == 1.0 else random.choice(self.sizes)
        with target.open("wb") as file:
            for number, page in content.items():
                if page != _ZERO and number * PAGE < size:
                    file.seek(number * PAGE)
                    file.write(page)
            file.truncate(size)


class Recorder:
    """All files of a folder, and the moment at which the power goes."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[int, File] = {}
        self.calls = 0
        self.lost = False
        self.lose_at: int | None = None
        """The call that does not come any more."""
        self.during_sync: Callable[[Path], None] | None = None
        """Called once, while the next sync is under way: what other threads do meanwhile."""
        self._folder = folder

    @contextmanager
    def active(self) -> Iterator[Recorder]:
        """Record until the block ends, however it ends."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("pwrite", "fdatasync", "fsync", "truncate", "ftruncate"):
                patch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))
            patch.setattr(_file, "_fallocate", self._fallocate(_file._fallocate))
            yield self

    def adopt(self, path: Path) -> None:
        """Count a file that exists as durable."""
        file = File(path)
        with path.open("rb") as content:
            for start, stop in _file.stored(content.fileno(), 0, path.stat().st_size):
                for number in range(start // PAGE, -(-stop // PAGE)):
                    page = os.pread(content.fileno(), PAGE, number * PAGE).ljust(PAGE, b"\0")
                    if page != _ZERO:
                        file.durable[number] = page
        file.sizes = [path.stat().st_size]
        self.files[path.stat().st_ino] = file

    def crash(self, target: Path, random: Random) -> None:
        """Write into `target` what is on the medium after the power went."""
        target.mkdir()
        for file in self.files.values():
            file.leave(target / file.path.name, random)

    def _find(self, fd: int) -> File | None:
        """Return the file behind a descriptor; loses the power if it is time."""
        if self.lost or not isinstance(fd, int):
            return None
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.parent != self._folder or not S_ISREG(os.fstat(fd).st_mode):
            return None
        self.calls += 1
        if self.lose_at is not None and self.calls >= self.lose_at:
            self.lost = True
            raise PowerLossError
        return self.files.setdefault(os.fstat(fd).st_ino, File(path))

    def _pwrite(self, real: Callable[..., int]) -> Callable[..., int]:
        def pwrite(fd: int, data: bytes, offset: int) -> int:
            file = self._find(fd)
            count = real(fd, data, offset)
            if file is not None:
                file.write(offset, bytes(memoryview(data).cast("B")[:count]))
            return count

        return pwrite

    def _fdatasync(self, _real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            file = self._find(fd)
            if file is None:
                return
            mark = file.mark()
            if self.during_sync is not None and file.path.suffix == ".partial":
                meanwhile, self.during_sync = self.during_sync, None
                meanwhile(file.path)
            file.settle(mark)

        return sync

    _fsync = _fdatasync

    def _truncate(self, real: Callable[..., None]) -> Callable[..., None]:
        def truncate(fd: int, size: int) -> None:
            file = self._find(fd)
            real(fd, size)
            if file is not None:
                file.truncate(size)

        return truncate

    _ftruncate = _truncate

    def _fallocate(self, real: Callable[..., bool]) -> Callable[..., bool]:
        def fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
            file = self._find(fd)
            done = real(fd, mode, offset, length)
            if file is not None and done:
                if mode & (_PUNCH_HOLE | _ZERO_RANGE):
                    file.clear(offset, offset + length)
                if not mode & _KEEP_SIZE:
                    file.grow(offset + length)
            return done

        return fallocate
