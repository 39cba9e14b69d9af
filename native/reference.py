# SPDX-License-Identifier: GPL-3.0-or-later
"""The native core in plain Python: what its functions mean, and the oracle of their tests.

Slow and plain on purpose. Results are equal to the native ones, compressed bytes included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_LENGTH = 1 << 30
MAX_LZF_LENGTH = 1 << 24
MIN_PAGE = 512

_POLYNOMIAL = 0x82F63B78
_LITERALS = 32
_DISTANCE = 8192
_MATCH = 264
_EXPANSION = 88


def is_zero(buffer: Buffer) -> bool:
    """Return whether all bytes are zero; True for an empty buffer."""
    return not any(_view(buffer))


def zero_runs(buffer: Buffer, granule: int) -> list[tuple[int, int]]:
    """Return (offset, length) of the merged runs of granules that are not all zero."""
    data = _view(buffer)
    _check_page(granule)
    flags = (any(data[at : at + granule]) for at in range(0, len(data), granule))
    return [
        (first * granule, min(count * granule, len(data) - first * granule))
        for first, count in _merge(flags)
    ]


def changed_pages(old: Buffer, new: Buffer, page: int = 4096) -> list[tuple[int, int]]:
    """Return (first page, count) of the merged runs of pages that differ."""
    before, after = _view(old), _view(new)
    _check_page(page)
    if len(before) != len(after):
        raise ValueError(f"buffers of {len(before)} and {len(after)} bytes differ in length")
    return list(
        _merge(
            before[at : at + page] != after[at : at + page] for at in range(0, len(before), page)
        )
    )


def pack_pages(new: Buffer, runs: Iterable[tuple[int, int]], page: int = 4096) -> bytes:
    """Return the pages of `runs` one after the other."""
    data = _view(new)
    return b"".join(data[start:end] for start, end in _ranges(runs, len(data), page))


def apply_pages(
    target: Buffer, runs: Iterable[tuple[int, int]], payload: Buffer, page: int = 4096
) -> None:
    """Write `payload` over the pages of `runs` in `target`."""
    data, source = _view(target), _view(payload)
    if data.readonly:
        raise BufferError("the target is read-only")
    ranges = _ranges(runs, len(data), page)
    total = sum(end - start for start, end in ranges)
    if total != len(source):
        raise ValueError(f"the runs take {total} bytes, the payload has {len(source)}")
    at = 0
    for start, end in ranges:
        data[start:end] = source[at : at + end - start]
        at += end - start


def lzf_compress(buffer: Buffer) -> bytes | None:
    """Return the bytes in liblzf's format, or None when that is not smaller."""
    data = _view(buffer, MAX_LZF_LENGTH)
    packed = _compressed(bytes(data))
    return packed if len(packed) < len(data) else None


def lzf_compress_into(buffer: Buffer, out: Buffer) -> int:
    """Compress into `out` and return the bytes written; 0 when it does not fit."""
    packed = _compressed(bytes(_view(buffer, MAX_LZF_LENGTH)))
    target = _view(out)
    if len(packed) > len(target):
        return 0
    target[: len(packed)] = packed
    return len(packed)


def lzf_decompress(buffer: Buffer, length: int) -> bytes:
    """Return the `length` bytes that `buffer` holds."""
    data = _view(buffer)
    if not 0 <= length <= min(MAX_LZF_LENGTH, len(data) * _EXPANSION):
        raise ValueError(f"{len(data)} bytes of LZF data can't hold {length} bytes")
    plain = _decompressed(data, length)
    if len(plain) != length:
        raise ValueError(f"LZF data holds {len(plain)} bytes, not {length}")
    return plain


def lzf_decompress_into(buffer: Buffer, out: Buffer) -> int:
    """Decompress into `out` and return the bytes written."""
    target = _view(out)
    plain = _decompressed(_view(buffer), len(target))
    target[: len(plain)] = plain
    return len(plain)


def crc32c(buffer: Buffer, value: int = 0) -> int:
    """Return the CRC-32C, a bit at a time, continuing from `value`."""
    if not 0 <= value < 1 << 32:
        raise OverflowError("the value is no unsigned 32-bit number")
    value ^= 0xFFFFFFFF
    for byte in _view(buffer):
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _view(buffer: Buffer, limit: int = MAX_LENGTH) -> memoryview:
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise BufferError("the buffer is not contiguous")
    if view.nbytes > limit:
        raise ValueError(f"a buffer of {view.nbytes} bytes is too long, {limit} is the limit")
    return view.cast("B") if view.nbytes else view


def _check_page(page: int) -> None:
    if not MIN_PAGE <= page <= MAX_LENGTH:
        raise ValueError(f"a page or granule is {MIN_PAGE} to {MAX_LENGTH} bytes, not {page}")


def _merge(flags: Iterable[bool]) -> Iterator[tuple[int, int]]:
    first, last = 0, -1
    for at, flag in enumerate(flags):
        if not flag:
            continue
        if at != last + 1 or last < 0:
            if last >= 0:
                yield first, last + 1 - first
            first = at
        last = at
    if last >= 0:
        yield first, last + 1 - first


def _ranges(runs: Iterable[tuple[int, int]], length: int, page: int) -> list[tuple[int, int]]:
    _check_page(page)
    pages = -(-length // page)
    ranges = []
    free = 0
    for first, count in runs:
        if first < free or count <= 0 or first + count > pages:
            raise ValueError(f"pages {first} + {count} do not ascend within {pages} pages")
        free = first + count
        ranges.append((first * page, min(free * page, length)))
    return ranges


def _compressed(data: bytes) -> bytes:
    """Compress as native/kernels/lzf.c does, which says how."""
    table = [0] * (1 << 14)
    out = bytearray()
    done = at = misses = 0

    def slot(sequence: bytes) -> int:
        return int.from_bytes(sequence, "little") * 2654435761 % (1 << 32) >> 18

    while at + 4 <= len(data):
        sequence = data[at : at + 4]
        key = slot(sequence)
        distance = (at - table[key]) % (1 << 16)
        table[key] = at
        if not 0 < distance <= min(at, _DISTANCE) or data[at - distance :][:4] != sequence:
            at += min(1 + misses // 32, 64)
            misses += 1
            continue
        while at > done and at > distance and data[at - 1] == data[at - 1 - distance]:
            at -= 1
        end = at
        while end < len(data) and data[end] == data[end - distance]:
            end += 1
        out += _literals(data[done:at])
        while end - at >= 3:
            count = min(end - at, _MATCH)
            out += _match(distance, count)
            at += count
        done, misses = at, 0
        for place in (at - 2, at - 1):
            if place + 4 <= len(data):
                table[slot(data[place : place + 4])] = place
    return bytes(out + _literals(data[done:]))


def _literals(data: bytes) -> bytes:
    pieces = (data[at : at + _LITERALS] for at in range(0, len(data), _LITERALS))
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


def _match(distance: int, length: int) -> bytes:
    high, low = divmod(distance - 1, 256)
    if length <= 8:
        return bytes([(length - 2) << 5 | high, low])
    return bytes([7 << 5 | high, length - 9, low])


def _decompressed(data: memoryview, room: int) -> bytes:
    out = bytearray()
    source = iter(data)
    try:
        for control in source:
            if control < _LITERALS:
                piece = [next(source) for _ in range(control + 1)]
                _make_room(out, len(piece), room)
                out += bytes(piece)
                continue
            count = (control >> 5) + 2
            if count == 9:
                count += next(source)
            distance = ((control & 31) << 8 | next(source)) + 1
            start = len(out) - distance
            if start < 0:
                raise ValueError("LZF data is corrupt")
            _make_room(out, count, room)
            for at in range(start, start + count):
                out.append(out[at])
    except StopIteration:
        raise ValueError("LZF data is corrupt") from None
    return bytes(out)


def _make_room(out: bytearray, count: int, room: int) -> None:
    if len(out) + count > room:
        raise ValueError(f"LZF data holds more than {room} bytes")
