# SPDX-License-Identifier: GPL-3.0-or-later
"""The central invariant: after a loss of power at any moment, a digest in the map describes bytes
that are in the image, and what was acknowledged as durable is known.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import native
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.service.receiver import Receiver
from p2v.wire import pages
from p2v.wire.chunk import (
    CHUNK_SIZE,
    GROUP_CHUNKS,
    GROUP_SIZE,
    UNKNOWN,
    chunk_count,
    chunk_length,
    digest,
    zero_digest,
)
from p2v.wire.codec import Decoder, Encoder
from p2v.wire.frame import Frame, Kind, WireCodec
from tests.p2v.service.powerloss import PowerLossError, Recorder

SIZE = GROUP_SIZE + 5 * CHUNK_SIZE + 3 * 4096
CHUNKS = chunk_count(SIZE)
PLACES = (0, 1, 2, 7, 8, 9, GROUP_CHUNKS - 1, GROUP_CHUNKS, GROUP_CHUNKS + 1, CHUNKS - 1)
"""Of the chunks, those that share blocks, clusters' tables and map groups, or do not."""
RANGES = ((0, 2), (0, 8), (0, GROUP_CHUNKS), (0, CHUNKS), (1, 1), (7, GROUP_CHUNKS), (8, 1))
ROUNDS = 3
FORMATS = {
    "vhdx": (ImageFormat.VHDX, False),
    "qcow2": (ImageFormat.QCOW2, False),
    "qcow2-compressed": (ImageFormat.QCOW2, True),
    "raw": (ImageFormat.RAW, False),
}


@dataclass(frozen=True)
class Data:
    """A chunk gets the contents number `seed`."""

    chunk: int
    seed: int


@dataclass(frozen=True)
class Pages:
    """Some pages of a chunk change."""

    chunk: int
    seed: int


@dataclass(frozen=True)
class Zero:
    """A range of chunks becomes zeros."""

    first: int
    count: int


@dataclass(frozen=True)
class Forget:
    """A range of chunks is announced to be sent anew."""

    first: int
    count: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and a frame that another session applies while the image is synced."""

    meanwhile: Data | Zero | None = None


Step = Data | Pages | Zero | Forget | Checkpoint
_seeds = st.integers(0, 5)
_data = st.builds(Data, st.sampled_from(PLACES), _seeds)
_zero = st.sampled_from(RANGES).map(lambda r: Zero(*r))
_steps = st.one_of(
    _data,
    _data,
    st.builds(Pages, st.sampled_from(PLACES), _seeds),
    _zero,
    st.sampled_from(RANGES).map(lambda r: Forget(*r)),
    st.builds(Checkpoint, st.one_of(st.none(), _data, _zero)),
)
_round = st.tuples(
    st.lists(_steps, min_size=2, max_size=14),
    st.one_of(st.none(), st.integers(1, 120)),
    st.integers(0, 1 << 30),
)


@cache
def content(seed: int, length: int) -> bytes:
    """Return contents: even ones can be compressed, odd ones can't."""
    random = Random(seed)
    if seed % 2:
        return random.randbytes(length)
    return (random.randbytes(512) * (length // 512 + 1))[:length]


class Sender:
    """Sends steps to a receiver, and knows what the receiver has promised."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        known = {chunk: receiver._disks[0].map.get(chunk) for chunk in PLACES}
        self.sent: dict[int, tuple[int, bytes]] = {}
        """What was sent and is not promised yet: a number of its own, and its digest."""
        self.promised = {chunk: claim for chunk, claim in known.items() if claim != UNKNOWN}
        self._decoder = Decoder()
        self._numbers = itertools.count()

    def run(self, step: Step, recorder: Recorder) -> None:
        match step:
            case Data(chunk, seed):
                self._send(chunk, content(seed, chunk_length(chunk, SIZE)))
            case Pages(chunk, seed):
                self._send_pages(chunk, seed)
            case Zero(first, count):
                self._zero(first, count)
            case Forget(first, count):
                self._forget(first, count)
            case Checkpoint(meanwhile):
                self._checkpoint(meanwhile, recorder)

    def _send(self, chunk: int, data: bytes) -> None:
        self._touch(chunk, 1)
        codec, payload = Encoder(WireCodec.ZSTD).encode(data)
        checksum = digest(data)
        offset = chunk * CHUNK_SIZE
        frame = Frame(Kind.DATA, 0, offset, len(data), 1, codec, len(payload), checksum)
        self.receiver.apply(frame, payload, self._decoder)
        self.sent[chunk] = next(self._numbers), checksum

    def _send_pages(self, chunk: int, seed: int) -> None:
        offset, length = chunk * CHUNK_SIZE, chunk_length(chunk, SIZE)
        old = bytearray(length)
        self.receiver._disks[0].image.readinto(offset, old)
        new = bytearray(old)
        new[4096:8192] = content(seed, 4096)
        runs = native.changed_pages(old, new)
        if not runs:
            return
        self._touch(chunk, 1)
        codec, payload = pages.pack(new, runs, Encoder(WireCodec.ZSTD))
        checksum = digest(new)
        frame = Frame(Kind.PAGES, 0, offset, length, 1, codec, len(payload), checksum)
        self.receiver.apply(frame, payload, self._decoder)
        self.sent[chunk] = next(self._numbers), checksum

    def _zero(self, first: int, count: int) -> None:
        self._touch(first, count)
        offset = first * CHUNK_SIZE
        length = min(count * CHUNK_SIZE, SIZE - offset)
        self.receiver.apply(Frame(Kind.ZERO, 0, offset, length, 1), b"", self._decoder)
        for chunk in PLACES:
            if first <= chunk < first + count:
                self.sent[chunk] = next(self._numbers), zero_digest(chunk_length(chunk, SIZE))

    def _forget(self, first: int, count: int) -> None:
        self._touch(first, count)
        offset = first * CHUNK_SIZE
        length = min(count * CHUNK_SIZE, SIZE - offset)
        self.receiver.apply(Frame(Kind.FORGET, 0, offset, length, 1), b"", self._decoder)

    def _checkpoint(self, meanwhile: Data | Zero | None, recorder: Recorder) -> None:
        before = dict(self.sent)
        if meanwhile is not None:
            recorder.during_sync = lambda _: self.run(meanwhile, recorder)
        self.receiver.checkpoint()
        recorder.during_sync = None
        for chunk, sent in before.items():
            if self.sent.get(chunk) == sent:
                del self.sent[chunk]
                self.promised[chunk] = sent[1]

    def _touch(self, first: int, count: int) -> None:
        for chunk in PLACES:
            if first <= chunk < first + count:
                self.sent.pop(chunk, None)
                self.promised.pop(chunk, None)


def check(receiver: Receiver, promised: dict[int, bytes]) -> None:
    """Read back every chunk of which the map claims something."""
    disk = receiver._disks[0]
    for chunk in PLACES:
        claimed = disk.map.get(chunk)
        if chunk in promised:
            assert claimed == promised[chunk], f"chunk {chunk} was acknowledged, and is not known"
        if claimed != UNKNOWN:
            read = bytearray(chunk_length(chunk, SIZE))
            disk.image.readinto(chunk * CHUNK_SIZE, read)
            assert digest(read) == claimed, f"chunk {chunk} is not what its digest says"


@pytest.fixture(scope="module")
def area():
    with tempfile.TemporaryDirectory(prefix="p2v-power-") as folder:
        yield Path(folder)


_names = itertools.count()


def plan_of(kind: str) -> Plan:
    image, compressed = FORMATS[kind]
    disk = PlannedDisk("sda", "/dev/sda", SIZE)
    return Plan("m", (disk,), image, compress_image=compressed)


def survive(area: Path, kind: str, rounds: list[tuple[list[Step], int | None, int]]) -> bool:
    """Run rounds of (steps, the call at which the power goes, how what is left is drawn).

    Returns whether the last round ended before its loss of power.
    """
    plan = plan_of(kind)
    folders = [area / f"{next(_names)}"]
    folders[0].mkdir()
    try:
        recorder = Recorder(folders[0])
        with recorder.active():
            receiver = Receiver.create(folders[0], plan)
        for steps, lose_at, seed in rounds:
            sender = Sender(receiver)
            recorder.lose_at = None if lose_at is None else recorder.calls + lose_at
            with closing(receiver), recorder.active(), suppress(PowerLossError):
                for step in steps:
                    sender.run(step, recorder)
            folders.append(area / f"{next(_names)}")
            recorder.crash(folders[-1], Random(seed))
            ended = not recorder.lost
            recorder = Recorder(folders[-1])
            with recorder.active():
                for path in folders[-1].iterdir():
                    recorder.adopt(path)
                receiver = Receiver.resume(folders[-1], plan)
            check(receiver, sender.promised)
        receiver.close()
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return ended


@pytest.mark.parametrize("kind", FORMATS)
@settings(
    max_examples=int(os.environ.get("P2V_POWER_LOSSES", "40")),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(rounds=st.lists(_round, min_size=1, max_size=ROUNDS))
def test_a_loss_of_power_leaves_every_known_chunk_as_its_digest_says(area, kind, rounds):
    survive(area, kind, rounds)


LIFE: list[Step] = [
    Data(0, 1),
    Data(GROUP_CHUNKS, 2),
    Checkpoint(),
    Zero(0, GROUP_CHUNKS),
    Checkpoint(meanwhile=Data(1, 2)),
    Data(0, 2),
    Pages(1, 4),
    Checkpoint(meanwhile=Zero(1, 1)),
    Zero(0, CHUNKS),
    Data(1, 3),
    Checkpoint(),
]
"""A chunk's and a group's every change of state: unknown, data, zeros, other data."""


@pytest.mark.parametrize("kind", FORMATS)
def test_there_is_no_unsafe_call_to_the_kernel_in_a_disks_life(area, kind):
    for lose_at in itertools.count(1):
        ended = [survive(area, kind, [(LIFE, lose_at, 3 * lose_at + seed)]) for seed in range(3)]
        if all(ended):
            break
    assert lose_at > len(LIFE), "nothing was written"
