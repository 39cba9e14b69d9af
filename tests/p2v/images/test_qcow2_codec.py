# SPDX-License-Identifier: GPL-3.0-or-later
"""Compressed clusters: what QEMU decompresses does, the rest is refused within bounds."""

import os
import resource
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from p2v.images.c_qcow2 import ZLIB, ZSTD
from p2v.images.qcow2_codec import DamagedClusterError, decompress, frame_size

SIZE = 64 * 1024
CONTENT = (os.urandom(100) * 700)[:SIZE]
GOOD = zstandard.ZstdCompressor(level=3).compress(CONTENT)
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT)


def streamed(flush: bool) -> bytes:
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    data = stream.compress(CONTENT)
    if flush:
        data += stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    return data + stream.flush()


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -12)
    return packer.compress(content) + packer.flush()


def long_window() -> bytes:
    params = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    return zstandard.ZstdCompressor(compression_params=params).compress(CONTENT)


def with_dictionary() -> bytes:
    samples = [os.urandom(40) + CONTENT[:60] + str(n).encode() * 20 for n in range(400)]
    words = zstandard.train_dictionary(4096, samples)
    return zstandard.ZstdCompressor(dict_data=words).compress(CONTENT)


TAKEN = {
    "a sized frame": GOOD,
    "an unsized frame": UNSIZED,
    "a streamed frame": streamed(False),
    "a frame with an empty last block": streamed(True),
    "two frames": zstandard.compress(CONTENT[:1000]) + zstandard.compress(CONTENT[1000:]),
    "a skippable frame before": b"\x50\x2a\x4d\x18\x04\0\0\0skip" + GOOD,
    "a window of 128 MiB": long_window(),
}


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize(
    "rest", [b"", bytes(300), os.urandom(300), GOOD], ids=["none", "0", "?", "frame"]
)
def test_what_qemu_reads_is_read_whatever_follows_in_the_sector(data, rest):
    assert decompress(ZSTD, data + rest, SIZE) == CONTENT


@pytest.mark.parametrize("rest", [b"", bytes(300), os.urandom(300)])
def test_raw_deflate_is_read(rest):
    assert decompress(ZLIB, deflated(CONTENT) + rest, SIZE) == CONTENT


BAD = {
    "longer than the cluster": zstandard.compress(CONTENT * 2),
    "longer, unsized": zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT * 2),
    "shorter than the cluster": zstandard.compress(CONTENT[:60_000]),
    "torn": GOOD[:-20],
    "torn, unsized": UNSIZED[:-20],
    "no frame": os.urandom(1000),
    "nothing": b"",
    "a frame that needs a dictionary": with_dictionary(),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_is_no_cluster_is_refused(data):
    with pytest.raises(DamagedClusterError):
        decompress(ZSTD, data, SIZE)
    with pytest.raises(DamagedClusterError):
        decompress(ZLIB, deflated(CONTENT)[:-50], SIZE)


def test_a_bomb_takes_no_more_than_a_cluster():
    stream = zstandard.ZstdCompressor().compressobj()
    zeros = bytes(1 << 24)
    bomb = b"".join(stream.compress(zeros) for _ in range(64)) + stream.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DamagedClusterError):
        decompress(ZSTD, bomb, SIZE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert decompress(ZLIB, deflated(bytes(1 << 24)), SIZE) == bytes(SIZE)


@given(st.binary(max_size=300), st.sampled_from([ZLIB, ZSTD]), st.integers(0, 300))
def test_any_bytes_give_a_cluster_or_the_one_error(data, kind, cut):
    for candidate in (data, GOOD[:cut] + data):
        try:
            assert len(decompress(kind, candidate, SIZE)) == SIZE
        except DamagedClusterError:
            continue


def test_only_a_sized_frame_tells_its_size():
    assert frame_size(GOOD) == SIZE
    assert frame_size(memoryview(GOOD)) == SIZE
    assert frame_size(UNSIZED) == frame_size(b"") == frame_size(b"no frame") == 0
