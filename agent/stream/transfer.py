# SPDX-License-Identifier: GPL-3.0-or-later
"""A pass: lanes run over the work until every block is durable on the converter."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agent.stream.chart import Chart
from agent.stream.converter import Connects
from agent.stream.lane import Counters, Disk, Lane, Shared
from agent.stream.limiter import Limiter
from agent.stream.policy import Policy
from agent.stream.work import Block, Known, Work
from p2v.model.plan import Codec
from p2v.model.units import MiB

log = logging.getLogger(__name__)

PATIENCE_S = 900.0
"""A converter that is away for a quarter of an hour is probably gone: the agent then ends, and
`--resume` goes on from there."""


LANE_WORTH = 2 * MiB
"""A lane costs 7 ms of processor time (a TLS handshake, at both ends) in the first pass that has so
many. When each pass opened its own connections, those of 1, 4 and 16 chunks were over soonest with
one lane, of 40 with one as with four, of 160 (10 MiB of changes, 64 KiB in each) with four."""


def default_lanes() -> int:
    """Return the lanes to run: two a core, so that some wait for I/O while others compute."""
    return max(2, min(8, 2 * (os.cpu_count() or 2)))


def lanes_for(total: int, wanted: int = 0) -> int:
    """Return the lanes that `total` bytes are worth, at most those `wanted` (0: the default)."""
    return max(1, min(wanted or default_lanes(), -(-total // LANE_WORTH)))


@dataclass(frozen=True, slots=True)
class Options:
    """How a transfer runs. `bwlimit` is bytes a second, 0 for none."""

    codec: Codec = Codec.AUTO
    bwlimit: int = 0
    lanes: int = 0
    patience_s: float = PATIENCE_S


class Transfer:
    """A pass under way."""

    def __init__(
        self,
        converter: Connects,
        migration: str,
        disks: Sequence[Disk],
        queue: Iterable[Block],
        options: Options,
        known: Known | None = None,
        *,
        limiter: Limiter | None = None,
        chart: Chart | None = None,
        moved: Callable[[Block], bool] = lambda _: False,
        announce: bool = False,
    ) -> None:
        self.counters = Counters()
        self.policy = Policy(options.codec)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        shared = Shared(
            migration=migration,
            converter=converter,
            disks=disks,
            work=Work(queue, known),
            policy=self.policy,
            limiter=limiter or Limiter(options.bwlimit),
            counters=self.counters,
            chart=chart,
            moved=moved,
            announce=announce,
            stop=self._stop,
            patience_s=options.patience_s,
        )
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(Lane(shared, str(number)),),
                name=f"lane-{number}",
                daemon=True,
            )
            for number in range(options.lanes or default_lanes())
        ]

    def start(self) -> None:
        """Start the lanes."""
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, at most so long; return whether it has come."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def cancel(self) -> None:
        """Make the lanes end after the block that they are at."""
        self._stop.set()

    def result(self) -> Counters:
        """Return the counters of a finished transfer, or raise what ended it."""
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure
        return self.counters

    def _run(self, lane: Lane) -> None:
        try:
            lane.run()
        except BaseException as error:
            with self._lock:
                if self._failure is None:
                    self._failure = error
            self._stop.set()
