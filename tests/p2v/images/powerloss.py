# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated loss of power: what a crash can leave of a file that was not synced.

Every sync makes the file's content of that moment durable. Of what was written after the last one,
each page, or even each sector, may be on the disk in any version that it has had since, and the
file may have any length that it has had since.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

SECTOR, PAGE = 512, 4096


class Crash(BaseException):
    """The machine stops here."""


class PowerLoss:
    """Watches the files that this process syncs, and crashes at the sync it is told to.

    `note` remembers the file's present state as one that may partly reach the disk.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, rng: random.Random, unit: int = PAGE
    ) -> None:
        self.rng = rng
        self.unit = unit
        self.states: list[bytes] = []
        self.syncs_left: int | None = None
        real = {"fsync": os.fsync, "fdatasync": os.fdatasync}

        def watch(name: str) -> None:
            def sync(fd: int) -> None:
                if self.syncs_left is not None:
                    self.syncs_left -= 1
                    if self.syncs_left < 0:
                        raise Crash
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    self.states = [_content(fd)]
                else:
                    real[name](fd)

            monkeypatch.setattr(os, name, sync)

        for name in real:
            watch(name)

    def note(self, path: Path) -> None:
        with path.open("rb") as file:
            self.states.append(_content(file.fileno()))

    def crash(self, path: Path, choose: Callable[[int], int] | None = None) -> None:
        """Leave of the file what the loss of power at this moment may leave.

        `choose` gives the version, modulo their number, that each unit with several has in the
        end; without it chance does.
        """
        self.syncs_left = None
        self.note(path)
        versions = self.states
        length = len(versions[-1 if choose else self.rng.randrange(len(versions))])
        torn, differing = bytearray(versions[0][:length].ljust(length, b"\0")), 0
        for start in range(0, length, self.unit):
            span = slice(start, min(start + self.unit, length))
            if all(version[span] == versions[0][span] for version in versions):
                continue
            number = choose(differing) % len(versions) if choose else None
            page = versions[self.rng.randrange(len(versions)) if number is None else number][span]
            torn[span] = page.ljust(span.stop - start, b"\0")
            differing += 1
        path.write_bytes(torn)


def _content(fd: int) -> bytes:
    """The file's bytes, without moving its position."""
    parts, offset = [], 0
    while part := os.pread(fd, 1 << 24, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)
