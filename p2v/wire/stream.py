# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams: a migration's frames in files, for machines that reach no converter (docs/wire.md).

A folder holds `stream.json` (id and plan), `frames-000001` and so on (frames as on the wire), a
digest map a disk, and `report.json` once all is there. A digest in a map describes the chunk that
the frames so far leave behind, durably; so a stream that was cut off is resumed like any migration,
and its reader can tell whether it has read it right.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from p2v.model.errors import ImageError, ProtocolError, UsageError
from p2v.model.plan import Plan
from p2v.model.planfile import from_json, to_json
from p2v.model.units import GiB, MiB
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.codec import Buffer
from p2v.wire.digestmap import DigestMap
from p2v.wire.frame import HEADER_SIZE, MAX_PAGES_HEAD, Frame, Kind, parse_frame

HEAD_NAME = "stream.json"
REPORT_NAME = "report.json"
EVIDENCE_NAME = "evidence.tar.gz"
SCHEMA = 1
SEGMENT_SIZE = 2 * GiB
"""FAT32, on which most sticks are, holds files of less than 4 GiB."""
SYNC_SIZE = 256 * MiB
SYNC_S = 5.0
_MAX_HEAD = 8 * MiB


class Stream:
    """A stream's folder: what is in it, read and bounded."""

    def __init__(self, folder: Path, id: str, plan: Plan) -> None:  # noqa: A002
        self.folder = folder
        self.id = id
        self.plan = plan
        self.sizes = tuple(disk.size for disk in plan.disks)

    @classmethod
    def create(cls, folder: Path, id: str, plan: Plan) -> Stream:  # noqa: A002
        """Make a stream's folder, durably.

        Raises:
            FileExistsError: it is there.
        """
        folder.mkdir(mode=0o700)
        for index, disk in enumerate(plan.disks):
            DigestMap.create(_map_path(folder, index), disk.size).close()
        head = {"schema": SCHEMA, "id": id, "plan": to_json(plan)}
        _write(folder / HEAD_NAME, json.dumps(head, indent=2).encode())
        return cls(folder, id, plan)

    @classmethod
    def open(cls, folder: Path) -> Stream:
        """Open a stream.

        Raises:
            UsageError: there is none, or it makes no sense.
        """
        if not (folder / HEAD_NAME).is_file():
            raise UsageError(problem=f"there is no stream in {folder}: it holds no {HEAD_NAME}")
        head = _read_json(folder / HEAD_NAME)
        if head.get("schema") != SCHEMA or not isinstance(head.get("id"), str):
            raise UsageError(problem=f"{folder} holds no stream of version {SCHEMA}")
        return cls(folder, head["id"], from_json(head.get("plan")))

    @property
    def complete(self) -> bool:
        """Whether all was written to it."""
        return (self.folder / REPORT_NAME).is_file()

    @property
    def report(self) -> dict[str, Any]:
        """What the agent said at the end."""
        return _read_json(self.folder / REPORT_NAME)

    def segments(self) -> list[Path]:
        """Return the files of frames in their order."""
        return sorted(self.folder.glob("frames-[0-9]*"))

    @contextlib.contextmanager
    def maps(self) -> Iterator[Sequence[DigestMap]]:
        """Open the digest maps for the block.

        Raises:
            ImageError: one is damaged, or not of its disk.
        """
        with contextlib.ExitStack() as stack:
            maps = []
            for index, size in enumerate(self.sizes):
                path = _map_path(self.folder, index)
                try:
                    opened = DigestMap.open(path)
                except FileNotFoundError:
                    raise ImageError(path=path, problem="the stream's digest map is lost") from None
                stack.callback(opened.close)
                if opened.size != size:
                    raise ImageError(path=path, problem=f"a map of {opened.size}, not {size} bytes")
                maps.append(opened)
            yield maps

    def frames(self) -> Iterator[tuple[Frame, memoryview]]:
        """Yield the frames in order; a payload is good until the next.

        A loss of power leaves a segment whose end makes no sense. What is there was written once
        more to a later segment, so reading goes on with that; whether it was, the maps tell.
        """
        for path in self.segments():
            with path.open("rb") as file:
                yield from self._segment(file)

    def _segment(self, file: BinaryIO) -> Iterator[tuple[Frame, memoryview]]:
        header = bytearray(HEADER_SIZE)
        space = memoryview(bytearray(CHUNK_SIZE + MAX_PAGES_HEAD))
        while file.readinto(header) == HEADER_SIZE:  # type: ignore[attr-defined]
            try:
                frame = parse_frame(header, self.sizes)
            except ProtocolError:
                return
            payload = space[: frame.payload]
            if file.readinto(payload) != frame.payload:  # type: ignore[attr-defined]
                return
            yield frame, payload


class StreamWriter:
    """Appends frames to a stream. Thread-safe; a second writer of the same stream must not be."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._parts = contextlib.ExitStack()
        self.maps = self._parts.enter_context(stream.maps())
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._number = _last_number(stream.segments())
        self._pending: dict[tuple[int, int], Frame] = {}
        self._unsynced = 0
        self._synced_at = time.monotonic()
        self.epoch = 1
        self.durable = 0
        """All frames appended in this epoch and before survive a loss of power."""

    def append(self, frames: Sequence[tuple[Frame, Buffer]]) -> int:
        """Write frames behind those that are there; return the epoch that they belong to.

        Raises:
            OSError: the medium fails, or is full.
        """
        with self._lock:
            parts: list[Buffer] = []
            for frame, payload in frames:
                self._forget(frame)
                parts += [frame.pack(), payload]
                self._pending.pop((frame.disk, frame.offset), None)
                self._pending[frame.disk, frame.offset] = frame
            self._write(b"".join(parts))
            epoch = self.epoch
            if self._unsynced > SYNC_SIZE or time.monotonic() - self._synced_at > SYNC_S:
                self._sync()
            return epoch

    def sync(self) -> None:
        """Make all durable that was appended."""
        with self._lock:
            self._sync()

    def close(self) -> None:
        """Close the files; call `sync` before, or what is not durable yet is written again."""
        if self._file is not None:
            self._file.close()
        self._parts.close()

    def _write(self, data: bytes) -> None:
        """Write all of `data`: on a full file system the kernel writes a part, and says so."""
        file = self._segment()
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += file.write(view[done:])
        self._unsynced += len(data)

    def _forget(self, frame: Frame) -> None:
        count = -(-frame.length // CHUNK_SIZE)
        chart = self.maps[frame.disk]
        if chart.forget(frame.offset // CHUNK_SIZE, count):
            chart.sync()

    def _segment(self) -> FileIO:
        if self._file is not None and self._file.tell() < SEGMENT_SIZE:
            return self._file
        if self._file is not None:
            self._flush(self._file)
            self._file.close()
        self._number += 1
        self._file = (self._stream.folder / f"frames-{self._number:06}").open("xb", buffering=0)
        return self._file

    def _sync(self) -> None:
        if self._file is not None:
            self._flush(self._file)
        for index, chart in enumerate(self.maps):
            frames = [frame for (disk, _), frame in self._pending.items() if disk == index]
            _record(chart, frames)
            chart.sync()
        self._pending.clear()
        self._unsynced, self._synced_at = 0, time.monotonic()
        self.durable, self.epoch = self.epoch, self.epoch + 1

    def _flush(self, file: FileIO) -> None:
        os.fsync(file.fileno())
        _sync_folder(self._stream.folder)


def _record(chart: DigestMap, frames: list[Frame]) -> None:
    """Note what frames leave behind, in the order in which they were written."""
    run: dict[int, bytes] = {}
    for frame in frames:
        if frame.kind is Kind.ZERO:
            chart.record(sorted(run.items()))
            run.clear()
            chart.record_zero(frame.offset // CHUNK_SIZE, -(-frame.length // CHUNK_SIZE))
        else:
            run[frame.offset // CHUNK_SIZE] = frame.digest
    chart.record(sorted(run.items()))


def finish(stream: Stream, report: dict[str, Any]) -> None:
    """Mark a stream as complete."""
    _write(stream.folder / REPORT_NAME, json.dumps(report).encode())


def _map_path(folder: Path, index: int) -> Path:
    return folder / f"disk-{index}.digests"


def _last_number(segments: Sequence[Path]) -> int:
    return int(segments[-1].name.removeprefix("frames-")) if segments else 0


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_HEAD))
    except OSError as error:
        raise UsageError(problem=f"{path} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(problem=f"{path} is no JSON") from None
    if not isinstance(document, dict):
        raise UsageError(problem=f"{path} is no JSON object")
    return document


def _write(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
