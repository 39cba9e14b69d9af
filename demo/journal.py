#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service that must not stop: appends lines to a journal, each with a checksum and an fsync.

journal.py write FILE                appends until it is killed
journal.py check COPY [ORIGINAL]     says what a copy holds: all whole, and how far it goes
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from itertools import pairwise
from pathlib import Path


def write(path: Path) -> None:
    """Append lines: number, time in nanoseconds, checksum of both."""
    with path.open("ab", buffering=0) as file:
        for number in range(1, 1 << 60):
            line = f"{number} {time.time_ns()}"
            file.write(f"{line} {zlib.crc32(line.encode()):08x}\n".encode())
            os.fsync(file.fileno())
            time.sleep(0.002)


def times(path: Path) -> list[int]:
    """Return when each line was begun; a line that is torn or missing ends the program."""
    found = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        line, _, checksum = text.rpartition(" ")
        if f"{zlib.crc32(line.encode()):08x}" != checksum or int(line.split()[0]) != number:
            sys.exit(f"{path}: line {number} is torn or missing")
        found.append(int(line.split()[1]))
    return found


def check(copy: Path, original: Path) -> None:
    """Compare the journal in an image with that of the service, which went on."""
    ours, theirs = times(copy), times(original)
    if theirs[: len(ours)] != ours:
        sys.exit(f"{copy} is no beginning of {original}")
    longest = max(after - before for before, after in pairwise(theirs))
    print(
        f"   the image holds the first {len(ours)} lines of the journal, all whole; the service\n"
        f"   went on to line {len(theirs)}, and never waited longer than {longest // 1000000} ms"
    )


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    check(Path(sys.argv[2]), Path(sys.argv[3]))
