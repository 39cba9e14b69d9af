# SPDX-License-Identifier: GPL-3.0-or-later
"""Which codec a stream uses: fixed, or chosen by measurement as it runs.

`auto` climbs a ladder of zstd levels and looks at the rate of source bytes. Where the lanes spend
their time says which way to try: waiting for the network, a higher level sends less; compressing,
a lower one is faster. Where compression gains nothing a lower one is as good. A step up that did
not make the stream faster, or down that made it slower, is taken back and not tried again for a
while, longer each time. So a loopback or 10 Gbit/s line ends uncompressed or at a fast level, a
100 Mbit/s line at a high one, and neither needs to be told.

Measured with chunks of 256 KiB of ELF files, MB/s a core and ratio: zstd -5 552/2.1, -1 435/2.7,
1 402/3.0, 3 262/3.2, 6 96/3.4; LZF 250..420/2.1. LZF is beaten by zstd -5 on both counts, so `auto`
never picks it.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from p2v.model.plan import Codec
from p2v.wire.frame import WireCodec

LADDER: tuple[tuple[WireCodec, int], ...] = (
    (WireCodec.NONE, 0),
    (WireCodec.ZSTD, -5),
    (WireCodec.ZSTD, 1),
    (WireCodec.ZSTD, 3),
    (WireCodec.ZSTD, 6),
    (WireCodec.ZSTD, 9),
)
START = 2
WINDOW_S = 0.5
HOLD_S = 4.0
MAX_HOLD_S = 120.0
GAIN = 1.03
"""A step counts as faster or slower from 3 % on; below is noise."""
USELESS = 0.97
"""From this share of the source on the wire on, compression is not worth its time."""

_FIXED = {
    Codec.ZSTD: (WireCodec.ZSTD, 1),
    Codec.LZF: (WireCodec.LZF, 0),
    Codec.NONE: (WireCodec.NONE, 0),
}


@dataclass(slots=True)
class Sample:
    """What lanes measured: seconds spent encoding and sending; bytes of source, and on the wire."""

    encode_s: float = 0.0
    send_s: float = 0.0
    source: int = 0
    wire: int = 0


class Policy:
    """Chooses (codec, level) for all lanes of a stream. Thread-safe."""

    def __init__(self, codec: Codec) -> None:
        self._fixed = _FIXED.get(codec)
        self._climber = Climber()
        self._lock = threading.Lock()
        self._sample = Sample()
        self._since = time.monotonic()

    @property
    def choice(self) -> tuple[WireCodec, int]:
        """The codec and level to use now."""
        return self._fixed or LADDER[self._climber.rung]

    def observe(self, encode_s: float, send_s: float, source: int, wire: int) -> None:
        """Add what a lane has measured for one block; bytes of source and on the wire."""
        if self._fixed is not None:
            return
        with self._lock:
            sample = self._sample
            sample.encode_s += encode_s
            sample.send_s += send_s
            sample.source += source
            sample.wire += wire
            now = time.monotonic()
            if now - self._since >= WINDOW_S:
                self._climber.step(now, sample, now - self._since)
                self._sample, self._since = Sample(), now


class Climber:
    """The pure part of `auto`: one decision a window."""

    def __init__(self) -> None:
        self.rung = START
        self._before: tuple[int, float] | None = None
        self._holds: dict[int, float] = {}
        self._until: dict[int, float] = {}

    def step(self, now: float, sample: Sample, seconds: float) -> None:
        """Move on the ladder after a window of `seconds` in which `sample` was measured."""
        rate = sample.source / seconds
        if self._before is not None:
            rung, old_rate = self._before
            self._before = None
            if rate < (old_rate * GAIN if self.rung > rung else old_rate / GAIN):
                self._hold(self.rung, now)
                self.rung = rung
                return
        useless = self.rung > 0 and sample.wire > USELESS * sample.source
        direction = -1 if useless else _direction(sample)
        target = self.rung + direction
        if direction and 0 <= target < len(LADDER) and now >= self._until.get(target, 0.0):
            self._before = (self.rung, rate)
            self.rung = target

    def _hold(self, rung: int, now: float) -> None:
        seconds = self._holds.get(rung, HOLD_S)
        self._holds[rung] = min(MAX_HOLD_S, seconds * 2)
        self._until[rung] = now + seconds


def _direction(sample: Sample) -> int:
    if sample.send_s > 2 * sample.encode_s:
        return 1
    if sample.encode_s > 2 * sample.send_s:
        return -1
    return 0
