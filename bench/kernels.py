# SPDX-License-Identifier: GPL-3.0-or-later
"""The native kernels and the libraries beside them, in MB/s: one thread, and two where it tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import lzf
import zstandard
from blake3 import blake3

import native
from bench.measure import median
from p2v.wire.chunk import CHUNK_SIZE

TEXT_FILES = "/usr/bin"
SECONDS = 0.4


def main() -> None:
    """Print the table."""
    data = _chunk()
    zeros = bytes(16 * CHUNK_SIZE)
    packed = native.lzf_compress(data)
    assert packed is not None
    rows: list[tuple[str, int, Callable[[], object]]] = [
        ("zero scan (native)", len(zeros), lambda: native.is_zero(zeros)),
        ("BLAKE3", len(data), lambda: blake3(data).digest()),
        ("CRC-32C (native)", len(data), lambda: native.crc32c(data)),
        ("LZF compress (native)", len(data), lambda: native.lzf_compress(data)),
        ("LZF compress (python-lzf)", len(data), lambda: lzf.compress(data)),
        ("LZF decompress (native)", len(data), lambda: native.lzf_decompress(packed, len(data))),
        ("zstd 1 (python-zstandard)", len(data),
         lambda: zstandard.ZstdCompressor(level=1).compress(data)),
    ]  # fmt: skip
    print("| kernel | MB/s | 2 threads | scaling |\n|---|---|---|---|")
    for name, size, work in rows:
        one, two = (median([_rate(work, size, n) for _ in range(3)]) for n in (1, 2))
        print(f"| {name} | {one / 1e6:.0f} | {two / 1e6:.0f} | {two / one:.2f} |")


def _chunk() -> bytes:
    """Return a chunk's worth of machine code, as disks hold it."""
    files = sorted(Path(TEXT_FILES).glob("[a-m]*"))
    data = b"".join(path.read_bytes()[:32768] for path in files[:64] if path.is_file())
    return data[:CHUNK_SIZE].ljust(CHUNK_SIZE, b"x")


def _rate(work: Callable[[], object], size: int, threads: int) -> float:
    counts = [0] * threads
    stop = time.monotonic() + SECONDS

    def loop(number: int) -> None:
        while time.monotonic() < stop:
            work()
            counts[number] += 1

    running = [threading.Thread(target=loop, args=(number,)) for number in range(threads)]
    start = time.monotonic()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) * size / (time.monotonic() - start)
