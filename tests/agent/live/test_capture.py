# SPDX-License-Identifier: GPL-3.0-or-later
"""What a live capture does next, with a real disk that nobody writes to and a tracker made up."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from agent.capture.dirty import DirtySet
from agent.capture.source import Source
from agent.live import capture as capture_module
from agent.live.capture import LiveCapture
from agent.live.cutover import Cutover, When
from agent.live.hooks import Hooks
from agent.live.instant import Instant
from agent.live.settings import LiveSettings
from agent.live.writes import Writes
from agent.stream.lane import Counters
from p2v.model.errors import FreezeError, NotLiveError, ProtocolError, TooBusyError
from p2v.model.plan import Plan, PlannedDisk
from tests.agent.conftest import MiB, attached

pytestmark = pytest.mark.root
SIZE = 16 * MiB
GRANULE = 65536


class Tracker:
    """Says what the test wrote: a list of granules for each time that it is asked."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.doubts: list[str | None] = []
        self.restarts = 0

    def _next(self) -> DirtySet:
        found = DirtySet(SIZE, GRANULE)
        for granule in self.written[0] if self.written else ():
            found.add(granule * GRANULE, GRANULE)
        return found

    def swap(self, disk: str) -> DirtySet:
        found = self._next()
        if self.written:
            self.written.pop(0)
        return found

    def dirty_bytes(self, disk: str) -> int:
        return self._next().bytes

    def parts(self, disk: str, length: int) -> list[bool]:
        return self._next().parts(length)

    def marked(self, disk: str, offset: int, length: int) -> set[int]:
        return set()

    def doubt(self, disk: str) -> str | None:
        return self.doubts.pop(0) if self.doubts else None

    def restart(self, disk: str) -> None:
        self.restarts += 1

    def close(self) -> None:
        pass


class Sender:
    """Notes the passes: their names, and the chunks of those that are not whole."""

    def __init__(self) -> None:
        self.passes: list[str] = []
        self.chunks: list[list[int]] = []
        self.waits = 0
        self.commanded = True
        self.failures: dict[str, Exception] = {}

    def send(
        self, phase, queue, total, *, compare=False, announce=False, moved=None, watch=None
    ) -> Counters:
        if watch is not None:
            watch(total // 2)
        blocks = list(queue)
        self.passes.append(phase)
        if failure := self.failures.pop(phase, None):
            raise failure
        self.chunks.append([block.offset // (4 * GRANULE) for block in blocks])
        return Counters(handled=sum(block.length for block in blocks))

    def outlook(self, outlook) -> None:
        assert outlook.text and outlook.freeze_s >= 0

    def wait(self, phase, seconds) -> bool:
        self.waits += 1
        return self.commanded


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def sender():
    return Sender()


@pytest.fixture
def make(tmp_path, tracker):
    image = tmp_path / "disk.img"
    image.write_bytes(Random(1).randbytes(SIZE))
    with attached(image) as loop, Source(loop) as source, closing(Instant([source], SIZE)) as room:
        plan = Plan("web01", (PlannedDisk("disk", str(loop), SIZE),), live=True)

        def create(**settings) -> LiveCapture:
            chosen = LiveSettings(hooks=tmp_path / "none", **settings)
            writes = Writes(tracker, [Path(loop)])
            return LiveCapture(plan, chosen, [source], writes, Hooks(chosen.hooks), room)

        yield create


def test_a_disk_that_stays_quiet_takes_one_pass_and_a_freeze(make, sender):
    live = make()
    assert live.capture(sender, compare=False).handled == SIZE
    assert sender.passes == ["full"]
    assert live.report()["live"]["freezes"] == 1


def test_what_was_written_last_is_read_in_the_freeze_and_sent_after_it(make, sender, tracker):
    tracker.written = [[0, 1], [5], [9, 20]]
    make().capture(sender, compare=True)
    assert sender.passes == ["compare", "delta", "final"]
    assert sender.chunks[1:] == [[0], [1, 2, 5]]


def test_a_doubt_between_passes_and_one_in_the_freeze_lead_to_comparisons(make, sender, tracker):
    live = make()
    tracker.doubts = ["missed", None, "missed again"]
    live.capture(sender, compare=False)
    assert sender.passes == ["full", "compare", "compare"]
    assert tracker.restarts == 3
    assert live.report()["live"]["troubles"] == ["missed", "missed again"]
    assert live.report()["live"]["freezes"] == 2


def test_a_tracker_that_is_always_in_doubt_is_given_up(make, sender, tracker):
    live = make()
    tracker.doubts = ["missed"] * 999
    with pytest.raises(NotLiveError, match="missed"):
        live.capture(sender, compare=False)


def test_what_a_failed_freeze_took_is_sent_whole_in_the_next_pass(make, sender, tracker):
    live = make()
    restless = [[3]] * 8
    tracker.written = [[1], *restless, [], [], []]
    live.capture(sender, compare=False)
    assert sender.passes == ["full", "delta", "delta"]
    assert sender.chunks[1:] == [[0], [0]]
    assert "past the file systems" in live.report()["live"]["troubles"][0]


def test_a_disk_that_never_gets_quiet_is_not_captured(make, sender, tracker):
    tracker.written = [[3]] * 9999
    with pytest.raises(FreezeError, match="past the file systems"):
        make().capture(sender, compare=False)
    assert "final" not in sender.passes


@pytest.mark.parametrize("times", [2, 10])
def test_a_freeze_that_is_refused_is_tried_again_but_not_for_ever(make, sender, times, monkeypatch):
    live = make()
    real, refusals = live._freeze, [FreezeError(path="/", problem="frozen by a backup")] * times

    def freeze():
        if refusals:
            raise refusals.pop()
        return real()

    monkeypatch.setattr(live, "_freeze", freeze)
    if times == 2:
        live.capture(sender, compare=False)
        assert live.report()["live"]["freezes"] == 1
        assert len(live.report()["live"]["troubles"]) == sender.waits == 2
    else:
        with pytest.raises(FreezeError, match="by a backup"):
            live.capture(sender, compare=False)


def test_a_disk_that_is_too_busy_is_not_frozen(make, sender, tracker, monkeypatch):
    monkeypatch.setattr(capture_module, "MAX_TAKEN", 0)
    live = make(freeze_limit_s=0.000001)
    with pytest.raises(TooBusyError):
        live.capture(sender, compare=False)
    assert live.report()["live"]["freezes"] == 0


def test_a_converter_with_another_base_leads_to_a_comparison(make, sender, tracker):
    tracker.written = [[], [7]]
    sender.failures = {"final": ProtocolError(problem="the digest is wrong")}
    make().capture(sender, compare=False)
    assert sender.passes == ["full", "final", "compare"]


def test_it_waits_for_the_command_and_keeps_the_image_warm(make, sender, tracker, monkeypatch):
    monkeypatch.setattr(capture_module, "WARM_S", 0.0)
    live = make(cutover=Cutover(When.WAIT))
    warm = []

    def wait(phase, seconds) -> bool:
        raise AssertionError("there is no time to wait")

    monkeypatch.setattr(sender, "wait", wait)
    real = live._delta

    def delta(sender_, phase):
        warm.append(phase)
        if len(warm) == 3:
            monkeypatch.setattr(capture_module, "WARM_S", 60.0)
            monkeypatch.setattr(sender, "wait", lambda *_: True)
        return real(sender_, phase)

    monkeypatch.setattr(live, "_delta", delta)
    live.capture(sender, compare=False)
    assert warm == ["warm"] * 3 + ["delta"]


def test_what_is_left_for_later_is_not_frozen(make, sender, tracker):
    tracker.written = [[1]]
    live = make(cutover=Cutover(When.LATER))
    live.capture(sender, compare=False)
    assert live.report()["live"]["freezes"] == 0
