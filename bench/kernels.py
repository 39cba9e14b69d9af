# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the native core in detail beside its peers in one run: the figures of docs/native.md.

Usage: python -m bench.kernels
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import lzf
from blake3 import blake3

import native
from native import _core

MiB = 1 << 20
CACHED = 256 << 10
UNCACHED = 256 * MiB
CHUNK = MiB
SAMPLE = 8 * MiB
ROUNDS = 9


def main() -> None:
    """Print every table."""
    scans()
    compression()
    threads()


Work = Callable[[], object]


def seconds(*works: Work, clock: Callable[[], float] = time.thread_time) -> list[float]:
    """Return the best time of each, taken in turn so that all meet the same machine.

    The default clock counts this thread's CPU time, so that others on the machine disturb less.
    """
    best = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for at, work in enumerate(works):
            start = clock()
            work()
            best[at] = min(best[at], clock() - start)
    return best


def scans() -> None:
    """Print the rates of what only reads, beside libc's memchr, memcpy and a plain Python test."""
    print(f"{'GB/s':24}{'in cache':>12}{'in memory':>12}")
    rows: dict[str, list[float]] = {}
    for length in (CACHED, UNCACHED):
        # Written once: pages that were never written would all be the same one of the kernel.
        data, twin = bytearray(length), bytearray(length)
        for buffer in (data, twin):
            buffer[::4096] = b"\x01" * (length // 4096)
            buffer[::4096] = bytes(length // 4096)
        works: dict[str, Work] = {
            "is_zero": partial(native.is_zero, data),
            "zero_runs, 4 KiB": partial(native.zero_runs, data, 4096),
            "changed_pages, 4 KiB": partial(native.changed_pages, data, twin),
            "crc32c": partial(native.crc32c, data),
            "crc32c, portable": partial(_core.crc32c_portable, data),
            "BLAKE3 (library)": partial(blake3, data),
            "peer: memchr": partial(data.find, b"\x01"),
            "peer: memcpy": partial(memoryview(twin).__setitem__, slice(None), data),
        }
        for name, best in zip(works, seconds(*works.values()), strict=True):
            rows.setdefault(name, []).append(length / best / 1e9)
    for name, (cached, uncached) in rows.items():
        print(f"{name:24}{cached:12.1f}{uncached:12.1f}")


def samples() -> Iterator[tuple[str, list[bytes]]]:
    """Yield data of several kinds, in chunks."""
    text = b"".join(path.read_bytes() for path in sorted(Path("/usr/lib/python3.11").rglob("*.py")))
    program = Path(sys.executable).resolve().read_bytes()
    kinds = {
        "text": text,
        "program": program,
        "half zeros": b"".join(os.urandom(2048) + bytes(2048) for _ in range(SAMPLE // 4096)),
        "zeros": bytes(SAMPLE),
        "random": os.urandom(SAMPLE),
    }
    for name, data in kinds.items():
        yield name, [data[at : at + CHUNK] for at in range(0, min(len(data), SAMPLE), CHUNK)]


def compression() -> None:
    """Print rates and ratios of LZF beside python-lzf."""
    print(f"\n{'LZF, MB/s':12}{'compress':>10}{'peer':>8}{'unpack':>10}{'peer':>8}", end="")
    print(f"{'ratio':>10}{'peer':>8}")
    for name, chunks in samples():
        total = sum(map(len, chunks))
        ours = [(native.lzf_compress(chunk), chunk) for chunk in chunks]
        peers = [(lzf.compress(chunk), chunk) for chunk in chunks]
        times = seconds(
            partial(each, native.lzf_compress, chunks),
            partial(each, lzf.compress, chunks),
            partial(unpack, native.lzf_decompress, ours),
            partial(unpack, lzf.decompress, peers),
        )
        packed = [sum(len(small or plain) for small, plain in pairs) for pairs in (ours, peers)]
        rates = [total / best / 1e6 for best in times]
        shrinks = ours[0][0] is not None
        shown = [f"{rate:.0f}" if at < 2 or shrinks else "-" for at, rate in enumerate(rates)]
        print(f"{name:12}{shown[0]:>10}{shown[1]:>8}{shown[2]:>10}{shown[3]:>8}", end="")
        print(f"{total / packed[0]:10.2f}{total / packed[1]:8.2f}")


def each(function: Callable[[bytes], object], chunks: Sequence[bytes]) -> None:
    """Call `function` with every chunk."""
    for chunk in chunks:
        function(chunk)


def unpack(
    function: Callable[[bytes, int], object], pairs: Sequence[tuple[bytes | None, bytes]]
) -> None:
    """Decompress every chunk that was compressed."""
    for packed, plain in pairs:
        if packed is not None:
            function(packed, len(plain))


def threads() -> None:
    """Print what a second thread brings to compression; 2.0 is all of a second core."""
    text = next(chunks for name, chunks in samples() if name == "text")

    def two(function: Callable[[bytes], object]) -> None:
        pair = [threading.Thread(target=each, args=(function, text)) for _ in range(2)]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()

    ours, ours_two, peer, peer_two = seconds(
        partial(each, native.lzf_compress, text),
        partial(two, native.lzf_compress),
        partial(each, lzf.compress, text),
        partial(two, lzf.compress),
        clock=time.perf_counter,
    )
    print(f"\ntwo threads of LZF: x{2 * ours / ours_two:.2f}, peer x{2 * peer / peer_two:.2f}")


if __name__ == "__main__":
    main()
