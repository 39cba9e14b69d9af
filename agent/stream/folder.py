# SPDX-License-Identifier: GPL-3.0-or-later
"""A stream on a disk in place of a converter, for machines that reach none (p2v.wire.stream).

`p2v import` gives it to a converter later.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p2v.images.durable import check_writable
from p2v.model.errors import (
    MigrationBusyError,
    MigrationStateError,
    NoRoomError,
    NoSuchMigrationError,
    UsageError,
)
from p2v.model.migration import Migration, MigrationState
from p2v.model.plan import Plan
from p2v.service.intake import check_id, check_plan, new_id
from p2v.wire import stream
from p2v.wire.codec import Buffer
from p2v.wire.frame import Frame
from p2v.wire.stream import Stream, StreamWriter


class FolderConverter:
    """Writes streams in the folders of `root`, one a migration. Sends no heartbeat anywhere."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UsageError(problem=f"{root} is no folder; make it first, on a disk with room")
        check_writable(root)
        self.address = str(root)
        self._root = root
        self._writers: dict[str, StreamWriter] = {}
        self._locks = contextlib.ExitStack()
        self._lock = threading.Lock()

    def create(self, plan: Plan, id: str = "") -> Migration:  # noqa: A002
        """Make a stream for `plan`."""
        check_plan(plan)
        name = check_id(id) if id else new_id(plan.name)
        with _room(self._root):
            Stream.create(self._root / name, name, plan)
        return self.get(name)

    def get(self, id: str) -> Migration:  # noqa: A002
        """Return the migration of a stream."""
        found = self._open(id)
        at = (found.folder / stream.HEAD_NAME).stat().st_mtime
        state = MigrationState.FINISHED if found.complete else MigrationState.RECEIVING
        report = found.report if found.complete else {}
        images = (str(found.folder),) if found.complete else ()
        return Migration(id, found.plan, state, at, time.time(), images=images, report=report)

    def lease(self, id: str) -> None:  # noqa: A002
        """Lock a stream: it has one writer."""
        with self._lock:
            if id in self._writers:
                return
            found = self._open(id)
            fd = os.open(found.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._locks.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MigrationBusyError(id=id, agent="another process", seconds=0) from None
            self._writers[id] = StreamWriter(found)

    def heartbeat(self, id: str) -> None:  # noqa: A002
        """Do nothing: the lock lasts as long as this process."""

    def digests(self, id: str, disk: int, group: int) -> bytes:  # noqa: A002
        """Return a group of a disk's digest map."""
        return self._writers[id].maps[disk].group(group)

    def connect(self, id: str, lane: str = "") -> _FolderConnection:  # noqa: A002
        """Open a connection, which is no more than a place among the writers."""
        return _FolderConnection(self._root, self._writers[id])

    def complete(self, id: str, report: dict[str, Any]) -> None:  # noqa: A002
        """Mark the stream as complete.

        Raises:
            MigrationStateError: chunks are missing.
        """
        writer = self._writers.get(id)
        if writer is None:
            return
        with _room(self._root):
            writer.sync()
            if missing := sum(chart.missing() for chart in writer.maps):
                raise MigrationStateError(
                    id=id, state="receiving", problem=f"{missing} chunks are not in the stream"
                )
            stream.finish(self._open(id), report)

    def keep_evidence(self, id: str, bundle: bytes) -> None:  # noqa: A002
        """Keep an evidence bundle beside the frames."""
        with _room(self._root):
            (self._root / id / stream.EVIDENCE_NAME).write_bytes(bundle)

    def cancel(self, id: str) -> None:  # noqa: A002
        """Delete a stream."""
        shutil.rmtree(self._open(id).folder)

    def close(self) -> None:
        """Close everything. What was not durable yet is written again by a resume."""
        with self._locks:
            for writer in self._writers.values():
                writer.close()

    def _open(self, name: str) -> Stream:
        if not (self._root / name / stream.HEAD_NAME).is_file():
            raise NoSuchMigrationError(id=name)
        return Stream.open(self._root / name)


class _FolderConnection:
    def __init__(self, root: Path, writer: StreamWriter) -> None:
        self._root = root
        self._writer = writer
        self._marks: dict[int, int] = {}
        self._durable = 0

    def send(self, frames: Sequence[tuple[Frame, Buffer]]) -> None:
        with _room(self._root):
            epoch = self._writer.append(frames)
        self._marks[epoch] = frames[-1][0].sequence

    def durable(self) -> int:
        for epoch in [epoch for epoch in self._marks if epoch <= self._writer.durable]:
            self._durable = max(self._durable, self._marks.pop(epoch))
        return self._durable

    def flush(self, sequence: int) -> None:
        with _room(self._root):
            self._writer.sync()
        self._marks.clear()
        self._durable = sequence

    def close(self) -> None:
        """Do nothing: the files are the writer's."""


@contextlib.contextmanager
def _room(root: Path) -> Iterator[None]:
    """Name a medium that is full: there is nobody who could make room meanwhile."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoRoomError(path=root, needed=1) from error
