# SPDX-License-Identifier: GPL-3.0-or-later
"""Decompress the clusters of a qcow2 image, with bounded memory whatever they claim.

A compressed cluster is one raw deflate stream or one or more zstd frames, followed by whatever is
left of the last sector. QEMU demands that the output is exactly one cluster; so does this.
"""

from __future__ import annotations

import threading
import zlib

import zstandard

from p2v.images.c_qcow2 import ZSTD

_local = threading.local()


class DamagedClusterError(Exception):
    """The bytes are no compressed cluster; the caller knows which and says so."""


def decompress(kind: int, data: bytes | bytearray, size: int) -> bytes:
    """Return the cluster of `size` bytes that `data` holds.

    Raises:
        DamagedClusterError: it is torn, or does not yield exactly `size` bytes.
    """
    try:
        cluster = _unzstd(data, size) if kind == ZSTD else _inflate(data, size)
    except (zlib.error, zstandard.ZstdError) as error:
        raise DamagedClusterError(str(error)) from error
    if len(cluster) != size:
        raise DamagedClusterError(f"it does not decompress to {size} bytes")
    return cluster


def frame_size(frame: bytes | bytearray | memoryview) -> int:
    """Return what a zstd frame says it decompresses to; 0 where it says nothing one can use."""
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError:
        return 0
    known = header.content_size not in (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)
    return header.content_size if known and header.dict_id == 0 else 0


def _inflate(data: bytes | bytearray, size: int) -> bytes:
    """Return at most `size` bytes of a raw deflate stream."""
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)


def _unzstd(data: bytes | bytearray, size: int) -> bytes:
    """Return at most `size + 1` bytes of the frames at the start of `data`."""
    decompressor = _decompressor()
    if frame_size(data) == size:
        return decompressor.decompress(data, max_output_size=size, allow_extra_data=True)
    with decompressor.stream_reader(data) as reader:
        cluster = reader.read(size + 1)
    if len(cluster) >= size:
        return cluster
    with decompressor.stream_reader(data, read_across_frames=True) as reader:
        return reader.read(size)


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor: they cost an allocation and are not thread-safe."""
    if not hasattr(_local, "zstd"):
        _local.zstd = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.zstd
    return decompressor
