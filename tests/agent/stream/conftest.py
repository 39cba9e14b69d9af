# SPDX-License-Identifier: GPL-3.0-or-later
"""An embedded converter whose connections break, and disks in memory."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from agent.capture.layout import Kind, Piece
from agent.stream.converter import ConnectionLostError
from agent.stream.local import LocalConverter
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.wire.chunk import CHUNK_SIZE


class MemoryDisk:
    """A disk whose bytes are in memory; counts the reads."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.reads = 0

    @property
    def whole(self) -> list[Piece]:
        return [Piece(0, len(self.content), Kind.READ)]

    def readinto(self, offset, buffer) -> None:
        self.reads += 1
        buffer[:] = self.content[offset : offset + len(buffer)]


class Breaking:
    """A converter like another one, whose connections break after so many calls."""

    def __init__(self, converter, breaks) -> None:
        self._converter = converter
        self._breaks = iter(breaks)
        self._lock = threading.Lock()
        self.connects = 0

    def __getattr__(self, name):
        return getattr(self._converter, name)

    def connect(self, id, lane=""):  # noqa: A002
        with self._lock:
            self.connects += 1
            calls = next(self._breaks, None)
        if isinstance(calls, Exception):
            raise calls
        return _BreakingConnection(self._converter.connect(id, lane), calls)


class _BreakingConnection:
    def __init__(self, connection, calls) -> None:
        self._connection = connection
        self._left = calls

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise ConnectionLostError("cut")

    def send(self, frames) -> None:
        self._count()
        self._connection.send(frames)

    def durable(self) -> int:
        self._count()
        return self._connection.durable()

    def flush(self, sequence) -> None:
        self._count()
        self._connection.flush(sequence)

    def close(self) -> None:
        self._connection.close()


def content_of(chunks, seed=1) -> bytes:
    """Return noise, text and zeros in turn, and a cut last chunk."""
    random = Random(seed)
    kinds = (
        random.randbytes(CHUNK_SIZE),
        random.randbytes(512) * (CHUNK_SIZE // 512),
        bytes(CHUNK_SIZE),
    )
    return b"".join(kinds[random.randrange(3)] for _ in range(chunks)) + b"\x55\xaa" * 256


def plan_of(disk: MemoryDisk, image=ImageFormat.RAW) -> Plan:
    planned = PlannedDisk("sda", "/dev/sda", len(disk.content))
    return Plan("web01", (planned,), image)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def converter(folder):
    with closing(LocalConverter(folder)) as converter:
        yield converter


@pytest.fixture
def disk():
    return MemoryDisk(content_of(60))


@pytest.fixture
def migration(converter, disk):
    """A migration of `disk` that `converter` waits for."""
    migration = converter.create(plan_of(disk))
    converter.lease(migration.id)
    return migration
