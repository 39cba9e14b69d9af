# SPDX-License-Identifier: GPL-3.0-or-later
"""The receiving end of a migration: frames become image bytes and digests, durably.

One `Receiver` a migration, shared by all its data sessions. The order of things is what makes it
safe to lose power at any moment (see p2v.wire.digestmap for the rule):

    apply       forget the chunk's digest durably, if it has one -> write the image -> remember the
                new digest as pending. An agent that is about to rewrite many chunks announces
                them (FORGET), and all are forgotten with one sync
    checkpoint  flush the image -> record the pending digests -> flush the map -> tell the sessions

A chunk whose digest was recorded while a newer frame for it arrives is taken out of the pending
set first, so that no digest ever describes bytes that another frame has replaced.
"""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from p2v.images.base import ImageWriter, StoresZstd
from p2v.images.open import create_writer, resume_writer
from p2v.model.errors import (
    ImageError,
    NoRoomError,
    NoSuchDiskError,
    ProtocolError,
    VerifyError,
)
from p2v.model.plan import Plan, PlannedDisk
from p2v.model.units import KiB, MiB
from p2v.service import verification
from p2v.service.pending import LONG_RUN, Pending
from p2v.service.room import Room
from p2v.wire import pages
from p2v.wire.chunk import CHUNK_SIZE, digest, group_count
from p2v.wire.codec import Buffer, Decoder
from p2v.wire.digestmap import DigestMap
from p2v.wire.frame import Frame, Kind, WireCodec

CHECKPOINT_BYTES = 512 * MiB
"""A checkpoint begins after so much was written, and senders wait once as much again was written
before it ended. So twice this is what a crash can cost, and what bounds the pending digests."""
CHECKPOINT_SECONDS = 5.0
ZERO_WEIGHT = 4 * KiB
"""What a zero chunk counts towards `CHECKPOINT_BYTES`: bounds the pending digests of zeros."""
_STRIPES = 64

Progress = Callable[[int, int], None]


@dataclass
class Stats:
    """Counters since the receiver was opened; bytes."""

    frames: int = 0
    wire: int = 0
    written: int = 0
    zero: int = 0
    checkpoints: int = 0


@dataclass
class _Disk:
    """One disk's image and map, and what is not yet recorded of them."""

    image: ImageWriter
    map: DigestMap
    locks: list[threading.Lock]
    pending: Pending = field(default_factory=Pending)
    flushing: Pending = field(default_factory=Pending)
    """Those that the checkpoint under way will record."""
    forgotten: int = 0
    """How often digests were taken out of the map."""
    synced: int = 0
    """Up to which of those times that is durable."""

    def close(self) -> None:
        """Close both files."""
        try:
            self.image.close()
        finally:
            self.map.close()


def image_name(plan: Plan, index: int) -> str:
    """Return the file name of a disk's image: the plan's name and the disk's, made harmless."""
    parts = (plan.name, plan.disks[index].name.rsplit("/", 1)[-1])
    safe = [re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("._-")[:64] or "disk" for part in parts]
    return f"{safe[0]}-{safe[1]}.{plan.format}"


class Receiver:
    """Applies frames to a migration's images. Thread-safe."""

    def __init__(self, folder: Path, plan: Plan, disks: list[_Disk]) -> None:
        self.folder = folder
        self.plan = plan
        self.sizes = tuple(disk.map.size for disk in disks)
        self.stats = Stats()
        self._disks = disks
        self._room = Room(folder)
        self._lock = threading.Lock()
        self._checkpointing = threading.Lock()
        self._since = 0
        self._last = time.monotonic()
        self.epoch = 0
        """Checkpoints begun. What was applied while it was n is durable once `durable` > n."""
        self.durable = 0
        """The epoch that the last finished checkpoint began."""
        self.failed = False
        """Whether a checkpoint failed for good: only opening all anew shows what is durable."""

    @classmethod
    def create(cls, folder: Path, plan: Plan) -> Self:
        """Make empty images and maps for the plan's disks in `folder`.

        Raises:
            NoRoomError, ImageError: they can't be made there; what was made is removed.
        """
        disks: list[_Disk] = []
        made: list[Path] = []
        try:
            for index, planned in enumerate(plan.disks):
                path = folder / image_name(plan, index)
                image = create_writer(
                    plan.format,
                    path,
                    planned.size,
                    sector_size=planned.logical_sector,
                    physical_sector_size=_physical_sector(planned),
                    compressed=plan.compress_image,
                )
                made += [image.partial, _map_path(path)]
                with _closed_on_error(image), _failures_of(path):
                    disks.append(_disk(image, DigestMap.create(_map_path(path), planned.size)))
        except BaseException:
            for disk in disks:
                disk.close()
            for each in made:
                each.unlink(missing_ok=True)
            raise
        return cls(folder, plan, disks)

    @classmethod
    def resume(cls, folder: Path, plan: Plan) -> Self:
        """Open the images and maps that an earlier receiver left, after a crash or a commit.

        Raises:
            ImageError: one is missing, damaged or in use.
        """
        disks: list[_Disk] = []
        try:
            for index in range(len(plan.disks)):
                path = folder / image_name(plan, index)
                image = resume_writer(plan.format, path)
                with _closed_on_error(image), _failures_of(path):
                    disks.append(_disk(image, DigestMap.open(_map_path(path))))
        except BaseException:
            for disk in disks:
                disk.close()
            raise
        return cls(folder, plan, disks)

    @property
    def images(self) -> list[Path]:
        """The final names of the images."""
        return [self.folder / image_name(self.plan, index) for index in range(len(self._disks))]

    def digests(self, disk: int, group: int) -> bytes:
        """Return a group of a disk's digest map as it crosses the wire.

        Raises:
            NoSuchDiskError: the migration has no such disk or group.
        """
        if not 0 <= disk < len(self._disks) or not 0 <= group < group_count(self.sizes[disk]):
            raise NoSuchDiskError(disk=f"disk {disk}, group {group}")
        return self._disks[disk].map.group(group)

    def missing(self, disk: int) -> int:
        """Return how many chunks of a disk are not durable yet."""
        return self._disks[disk].map.missing()

    def apply(self, frame: Frame, payload: Buffer, decoder: Decoder) -> None:
        """Bring one frame into the image.

        Raises:
            ProtocolError: the payload is damaged or not what its digest says.
            NoRoomError: the store is full; the frame can be applied again later.
            ImageError: the store fails.
        """
        disk = self._disks[frame.disk]
        first = frame.offset // CHUNK_SIZE
        with _failures_of(disk.image.partial):
            if frame.kind is Kind.FORGET:
                self._forget(disk, first, -(-frame.length // CHUNK_SIZE))
            elif frame.kind is Kind.ZERO:
                self._zero(disk, frame)
            else:
                self._room.take(frame.length)
                with disk.locks[first % _STRIPES]:
                    self._write(disk, first, frame, payload, decoder)
        with self._lock:
            self.stats.frames += 1
            self.stats.wire += len(payload)

    def checkpoint_if_due(self) -> None:
        """Make a checkpoint if much was written or time went by.

        If one is under way there is nothing to do, unless much was written meanwhile too: then it
        is waited for, which holds the sender back.

        Raises:
            NoRoomError, ImageError: see `checkpoint`.
        """
        full = self._since >= CHECKPOINT_BYTES
        late = self._since > 0 and time.monotonic() - self._last >= CHECKPOINT_SECONDS
        if (full or late) and self._checkpointing.acquire(blocking=full):
            try:
                if self._since:  # else another sender has waited for the same
                    self._checkpoint()
            finally:
                self._checkpointing.release()

    def checkpoint(self) -> None:
        """Make durable, and record, all that was applied before the call.

        Senders that ask at once, as lanes do at the end of a pass, share one.

        Raises:
            NoRoomError, ImageError: the store is full, or fails. Nothing is forgotten; the next
                checkpoint makes up for it, unless an image or map refuses for good.
        """
        asked = self.epoch
        with self._checkpointing:
            if self.durable <= asked:  # else one that began after the call has just ended
                self._checkpoint()

    def _checkpoint(self) -> None:
        with self._lock:
            since, self._since = self._since, 0
            self.epoch += 1
            for disk in self._disks:
                disk.flushing, disk.pending = disk.pending, Pending()
        try:
            for disk in self._disks:
                if disk.flushing:
                    with _failures_of(disk.image.partial):
                        self._flush(disk)
        except BaseException as error:
            self.failed = isinstance(error, ImageError)
            with self._lock:
                self._since += since
                for disk in self._disks:  # what was not recorded stays pending
                    disk.pending.take_back(disk.flushing)
                    disk.flushing = Pending()
            raise
        self.durable = self.epoch
        self._last = time.monotonic()
        self.stats.checkpoints += 1

    def verify(self, progress: Progress | None = None) -> None:
        """Read every image back and compare each chunk with its digest.

        Raises:
            VerifyError: some differ; their digests are forgotten, so that a resume sends them.
        """
        total, done = sum(self.sizes), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for disk in self._disks:
            with _failures_of(disk.image.partial):
                damage = verification.verify(disk.image, disk.map, advance)
            if damage is not None:
                raise VerifyError(
                    path=disk.image.path, count=damage.count, offset=damage.first * CHUNK_SIZE
                )

    def commit(self) -> list[Path]:
        """Finish the images: durable, valid, under their final names; return those."""
        self.checkpoint()
        for disk in self._disks:
            with _failures_of(disk.image.partial):
                disk.image.commit()
        return self.images

    def close(self) -> None:
        """Close the files; what was not checkpointed is unknown and will be sent again."""
        for disk in self._disks:
            disk.close()

    def discard(self) -> None:
        """Close and delete the unfinished images and their maps."""
        self.close()
        for disk in self._disks:
            disk.image.partial.unlink(missing_ok=True)
            disk.map.path.unlink(missing_ok=True)

    def as_dict(self) -> dict[str, Any]:
        """Return the counters for the API."""
        return {
            "frames": self.stats.frames,
            "wire_bytes": self.stats.wire,
            "written_bytes": self.stats.written,
            "zero_bytes": self.stats.zero,
            "checkpoints": self.stats.checkpoints,
        }

    def _zero(self, disk: _Disk, frame: Frame) -> None:
        first, count = frame.offset // CHUNK_SIZE, -(-frame.length // CHUNK_SIZE)
        with _all(disk.locks):
            self._forget(disk, first, count)
            self._sync_forgotten(disk)
            disk.image.zero(frame.offset, frame.length)
            with self._lock:
                disk.pending.add_zeros(first, count, disk.map.size)
                self._since += min(count, LONG_RUN) * ZERO_WEIGHT
                self.stats.zero += frame.length

    def _write(
        self, disk: _Disk, index: int, frame: Frame, payload: Buffer, decoder: Decoder
    ) -> None:
        data, changed = _chunk(disk, frame, payload, decoder)
        if digest(data) != frame.digest:
            raise ProtocolError(problem=f"the digest of the chunk at {frame.offset} is wrong")
        self._forget(disk, index, 1)
        self._sync_forgotten(disk)
        if not (
            frame.codec is WireCodec.ZSTD
            and frame.kind is Kind.DATA
            and isinstance(disk.image, StoresZstd)
            and disk.image.write_zstd(frame.offset, frame.length, payload)
        ):
            view = memoryview(data)
            for start, stop in changed:
                disk.image.write(frame.offset + start, view[start:stop])
        with self._lock:
            disk.pending.add(index, frame.digest)
            self._since += frame.length
            self.stats.written += frame.length

    def _forget(self, disk: _Disk, first: int, count: int) -> None:
        """Take the chunks' digests back."""
        with self._lock:
            disk.pending.drop(first, count)
            disk.flushing.drop(first, count)
            if disk.map.forget(first, count):
                disk.forgotten += 1

    def _sync_forgotten(self, disk: _Disk) -> None:
        """Make durable that digests were taken back; bytes must not change before.

        What an agent announces with FORGET costs one sync for all, instead of one a chunk.
        """
        with self._lock:
            wanted, done = disk.forgotten, disk.synced
        if done < wanted:
            disk.map.sync()
            with self._lock:
                disk.synced = max(disk.synced, wanted)

    def _flush(self, disk: _Disk) -> None:
        disk.image.checkpoint()
        with self._lock:
            disk.flushing.record(disk.map)
        disk.map.sync()
        with self._lock:
            disk.flushing = Pending()


def _disk(image: ImageWriter, digests: DigestMap) -> _Disk:
    return _Disk(image, digests, [threading.Lock() for _ in range(_STRIPES)])


def _physical_sector(disk: PlannedDisk) -> int:
    """Return the disk's physical sector size as a VHDX can have it: 512 or 4096 (2.6.2.5)."""
    return max(disk.logical_sector, 4096 if disk.physical_sector >= 4096 else 512)


def _map_path(image: Path) -> Path:
    return image.with_name(image.name + ".digests")


@contextmanager
def _closed_on_error(image: ImageWriter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        image.close()
        raise


@contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    """Say of a failure of the converter's disk which image it hit.

    A broken connection is an `OSError` too, and must not be taken for one.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoRoomError(path=path.parent, needed=CHUNK_SIZE) from error
        raise ImageError(path=path, problem=f"its disk fails: {error.strerror}") from error


@contextmanager
def _all(locks: list[threading.Lock]) -> Iterator[None]:
    with ExitStack() as stack:
        for lock in locks:
            stack.enter_context(lock)
        yield


def _chunk(
    disk: _Disk, frame: Frame, payload: Buffer, decoder: Decoder
) -> tuple[Buffer, Sequence[tuple[int, int]]]:
    """Return the chunk's new bytes, and which of them may differ from the image's: from, to."""
    if frame.kind is Kind.DATA:
        return decoder.decode(frame.codec, payload, frame.length), [(0, frame.length)]
    current = bytearray(frame.length)
    disk.image.readinto(frame.offset, current)
    size = pages.PAGE_SIZE
    return current, [
        (first * size, min((first + count) * size, frame.length))
        for first, count in pages.apply(current, frame.codec, payload, decoder)
    ]
