# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes that write to a file system while it is migrated, and know what must be kept.

Run as a program this is the writer of records: it appends them to files, each after an fsync noted
in a log that lies elsewhere, with the time. Of what an image holds, `check_records` says whether
it is the state of one instant.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_HEAD = struct.Struct("<QII")  # sequence, length, checksum of sequence and body
_NOTE = struct.Struct("<Qdd")  # sequence, begun and fsynced, in seconds since the epoch
FILES = 4
PER_FILE = 400
"""Records, after which a file is begun anew beside it and renamed over it."""


def _checksum(sequence: int, body: bytes) -> int:
    return zlib.crc32(body, sequence & 0xFFFFFFFF)


def write_records(folder: Path, log: Path, seed: int) -> None:
    """Append records for ever; a failed write ends it with a traceback."""
    dice = random.Random(seed)
    notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fds = [_open(folder / f"records-{number}") for number in range(FILES)]
    for sequence in range(1, 1 << 60):
        number = sequence % FILES
        begun = time.time()
        if sequence // FILES % PER_FILE == PER_FILE - 1:
            os.close(fds[number])
            (folder / f"records-{number}").rename(folder / f"records-{number}-{sequence:012}")
            fds[number] = _open(folder / f"records-{number}")
            _sync(folder)
        body = dice.randbytes(dice.randrange(64, 6000))
        head = _HEAD.pack(sequence, len(body), _checksum(sequence, body))
        os.write(fds[number], head + body)
        os.fsync(fds[number])
        os.write(notes, _NOTE.pack(sequence, begun, time.time()))
        time.sleep(dice.random() * 0.01)


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


@dataclass
class Records:
    """A writer of records that runs, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def alive(self) -> bool:
        return self.process.poll() is None

    def notes(self) -> Iterator[tuple[int, float, float]]:
        data = self.log.read_bytes()
        yield from _NOTE.iter_unpack(data[: len(data) // _NOTE.size * _NOTE.size])


@contextmanager
def writing_records(folder: Path, log: Path, seed: int = 1) -> Iterator[Records]:
    """Run a writer of records in `folder` while the block runs; it must not have failed."""
    folder.mkdir(exist_ok=True)
    argv = [sys.executable, __file__, str(folder), str(log), str(seed)]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE)
    records = Records(process, log)
    try:
        while records.alive() and not log.exists():
            time.sleep(0.01)
        yield records
        assert records.alive(), "the writer of records failed"
    finally:
        process.kill()
        _, said = process.communicate()
        assert b"Error" not in said, said.decode()


@contextmanager
def fio(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run random writes with verification while the block runs; none may have failed."""
    folder.mkdir(exist_ok=True)
    argv = ["fio", "--name=load", f"--directory={folder}", "--rw=randwrite", "--size=48M"]
    argv += ["--verify_state_save=0"]  # else fio leaves a file where the tests run
    argv += [
        "--bs=4k",
        "--ioengine=psync",
        "--verify=crc32c",
        "--verify_backlog=256",
        "--loops=999",
    ]
    argv += ["--rate_iops=150", "--fdatasync=8", "--minimal", *options]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not any(folder.iterdir()):
            time.sleep(0.01)
        yield process
        assert process.poll() is None, "fio ended: " + "".join(process.communicate())
    finally:
        process.terminate()
        out, err = process.communicate()
        assert "verify" not in err and "error" not in err.lower(), out + err


def check_records(folder: Path, records: Records, frozen_at: float, thawed_at: float) -> int:
    """Make sure that `folder` holds what was fsynced before the freeze, and nothing of later.

    Returns how many records there are.
    """
    found = {}
    for path in sorted(folder.glob("records-*")):
        for sequence in _read(path):
            assert sequence not in found, f"record {sequence} is there twice"
            found[sequence] = path.name
    assert found, "there are no records"
    last = max(found)
    missing = set(range(1, last + 1)) - found.keys()
    assert not missing, f"records are missing before {last}: {sorted(missing)[:10]}"
    for sequence, begun, fsynced in records.notes():
        if fsynced < frozen_at:
            assert sequence in found, (
                f"record {sequence} was fsynced before the freeze, and is lost"
            )
        if begun > thawed_at:
            assert sequence not in found, f"record {sequence} is of after the freeze"
    return len(found)


def _read(path: Path) -> Iterator[int]:
    data = path.read_bytes()
    at = 0
    while at < len(data):
        assert at + _HEAD.size <= len(data), f"{path.name} ends within a record's head at {at}"
        sequence, length, checksum = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) < length or _checksum(sequence, body) != checksum:
            raise AssertionError(f"{path.name}: record {sequence} at {at} is torn")
        at += _HEAD.size + length
        yield sequence


if __name__ == "__main__":
    write_records(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
