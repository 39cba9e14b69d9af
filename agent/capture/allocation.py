# SPDX-License-Identifier: GPL-3.0-or-later
"""Which blocks of a file system are in use, by its own tool or partclone, where to be believed.

A file system that needs recovery keeps data in blocks that its own bitmap still calls free: an
fsynced file whose transaction is only in the journal is one. Its map is refused and every block
copied. The same goes for whatever partclone does not know or refuses; the reason is kept in words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent import tools
from agent.capture import freespace
from agent.capture.chunkset import ChunkSet
from agent.capture.loop import read_only_loop
from agent.device import drop_cache, is_block, partition_node
from agent.inventory.volume.state import volume_state
from agent.inventory.volume.window import VolumeDamagedError
from agent.mounts import device_number, mounts, mounts_of
from p2v.model.errors import ToolError
from p2v.model.extent import Extent
from p2v.wire.chunk import CHUNK_SIZE

# Only file systems whose cleanliness is checked: partclone maps more of them.
_PROGRAMS = {
    "ext2": "partclone.ext2",
    "ext3": "partclone.ext3",
    "ext4": "partclone.ext4",
    "xfs": "partclone.xfs",
    "btrfs": "partclone.btrfs",
    "vfat": "partclone.vfat",
    "exfat": "partclone.exfat",
    "ntfs": "partclone.ntfs",
}
_RANGE = re.compile(rb"0x([0-9A-Fa-f]{1,16})\s+0x([0-9A-Fa-f]{1,16})\s+([+?*/-])\s*\Z")


@dataclass(frozen=True, slots=True)
class Allocation:
    """The blocks in use of the `size` bytes at `offset` of a disk.

    Attributes:
        used: bytes in use by the map, `size` without one.
        chunks: the chunks that hold a block in use, a bit each; None where all must be copied.
        reason: why all must be copied, in words; empty where there is a map.
    """

    offset: int
    size: int
    used: int
    chunks: ChunkSet | None = None
    reason: str = ""

    def extents(self) -> Iterator[Extent]:
        """Yield what must be copied, in order: whole chunks, cut at the ends of the range."""
        if self.chunks is None:
            yield Extent(self.offset, self.size)
            return
        end = self.offset + self.size
        for first, count in self.chunks.runs():
            start = max(first * CHUNK_SIZE, self.offset)
            yield Extent(start, min((first + count) * CHUNK_SIZE, end) - start)


def mappable(content: str) -> bool:
    """Whether there can be a map of the file system `content`."""
    return content in _PROGRAMS


def used_extents(
    path: Path,
    offset: int,
    size: int,
    content: str,
    settled: Collection[tuple[int, int]] = (),
) -> Allocation:
    """Return the blocks in use of the file system `content` at `offset` of the disk `path`.

    One that is mounted read-write has a map only if its device is among `settled`: it was frozen
    and thawed since its changes are tracked. What the map calls free was then free at that freeze
    or later, so that whatever is put there afterwards is tracked.

    Never raises for a file system's sake: where there is no trustworthy map the answer is "all",
    with the reason. Memory is one bit a chunk.
    """
    try:
        return _map(path, offset, size, content, settled)
    except VolumeDamagedError as error:
        reason = str(error).rstrip(".")
    except ToolError as error:
        reason = f"{_PROGRAMS[content]} refuses: {error.fields['problem']}"
    except OSError as error:
        reason = f"it cannot be mapped: {error.strerror}"
    return _everything(offset, size, reason)


def _everything(offset: int, size: int, reason: str) -> Allocation:
    return Allocation(offset, size, size, None, reason)


def _map(
    path: Path, offset: int, size: int, content: str, settled: Collection[tuple[int, int]]
) -> Allocation:
    if content not in _PROGRAMS:
        reason = f"there is no allocation map for {content or 'unknown contents'}"
        return _everything(offset, size, reason)
    node = partition_node(path, offset, size)
    device = device_number(node or path)
    mounted = () if device is None else mounts_of(device, mounts())
    live = device in settled
    if any(mount.writable for mount in mounted) and not live:
        return _everything(offset, size, "it is mounted read-write")
    _drop(node or path)
    state = volume_state(node or path, 0 if node else offset, size, content)
    if state is not None and state.unclean and (state.damaged or not live):
        return _everything(offset, size, state.unclean)
    if state is not None and state.shared:
        return _everything(offset, size, "it spans several devices")
    with _device(path, node, offset, size) as volume:
        if content in (listers := freespace.listers()):
            with suppress(ToolError):  # partclone has the last word
                return _without_free(listers[content](volume), offset, size)
        return _by_partclone(content, volume, bool(mounted), offset, size)


def _without_free(free: freespace.Free, offset: int, size: int) -> Allocation:
    """Return as used all that is not listed as free."""
    chunks = ChunkSet(offset, size)
    chunks.fill()
    used = size
    for start, length in _joined(free):
        if start + length > size:
            raise ToolError(tool="the file system", problem="it is larger than its partition")
        chunks.drop(offset + start, length)
        used -= length
    return Allocation(offset, size, used, chunks)


def _joined(free: freespace.Free) -> freespace.Free:
    """Yield the ranges, with those joined that follow one another: groups end inside chunks."""
    start, length = next(free, (0, 0))
    for at, count in free:
        if at == start + length:
            length += count
            continue
        yield start, length
        start, length = at, count
    if length:
        yield start, length


def _by_partclone(content: str, device: Path, mounted: bool, offset: int, size: int) -> Allocation:
    argv = [_PROGRAMS[content], "-D", "-q", *(["-F"] if mounted else []), "-L", "/dev/null"]
    chunks = ChunkSet(offset, size)
    with tools.output([*argv, "-o", "-", "-s", str(device)]) as lines:
        used = read_map(lines, chunks, offset, size)
    return Allocation(offset, size, used, chunks)


def _drop(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        drop_cache(fd)
    finally:
        os.close(fd)


@contextmanager
def _device(path: Path, node: Path | None, offset: int, size: int) -> Iterator[Path]:
    """Give a device or file that begins with the file system and ends with its partition."""
    if node is not None:
        yield node
    elif offset == 0 and (is_block(path) or path.stat().st_size == size):
        yield path
    else:
        with read_only_loop(path, offset, size) as loop:
            yield loop


def read_map(lines: Iterable[bytes], chunks: ChunkSet, offset: int, size: int) -> int:
    """Put into `chunks` what the ddrescue map in `lines` calls in use; return those bytes.

    What lies beyond the map's end (NTFS keeps its second boot sector there) is in use. Addresses
    in the map are relative to `offset`; `size` bytes is what it may cover.

    Raises:
        ToolError: a line that is no part of such a map, gaps, ranges out of order or outside, or a
            map that calls nothing used.
    """
    position = used = 0
    for line in _ranges(lines):
        match = _RANGE.match(line)
        if match is None:
            raise _bad_map(f"the line {line[:80]!r} is no range")
        start, length = int(match[1], 16), int(match[2], 16)
        if start != position or start + length > size:
            raise _bad_map(f"{length} bytes at {start} do not fit in")
        position += length
        if match[3] == b"+" and length:
            chunks.add(offset + start, length)
            used += length
    if not used:
        raise _bad_map("it calls nothing used")
    if position < size:
        chunks.add(offset + position, size - position)
        used += size - position
    return used


def _ranges(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of ranges: without comments, and without the first, which is a status."""
    status = True
    for line in lines:
        if line.startswith(b"#") or not line.strip():
            continue
        if status:
            status = False
            continue
        yield line


def _bad_map(problem: str) -> ToolError:
    return ToolError(tool="partclone", problem=f"its map makes no sense: {problem}")
