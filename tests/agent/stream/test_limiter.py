# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading
from time import monotonic

import pytest

from agent.stream import limiter as limiter_module
from agent.stream.limiter import Limiter


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return False


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limiter_module.time, "monotonic", clock.monotonic)
    return clock


def test_no_rate_is_no_limit(clock):
    Limiter(0).take(1 << 40, clock)
    assert clock.waits == []


def test_bytes_take_their_time(clock):
    limiter = Limiter(1000)
    begun = clock.now
    for _ in range(10):
        limiter.take(500, clock)
    assert clock.now - begun == pytest.approx(5.0)


def test_an_idle_second_is_made_up_for_but_no_more(clock):
    limiter = Limiter(1000)
    clock.now += 60
    limiter.take(1000, clock)
    assert clock.waits == []
    limiter.take(1000, clock)
    assert sum(clock.waits) == pytest.approx(1.0)


def test_one_take_may_be_larger_than_a_second(clock):
    Limiter(1000).take(5000, clock)
    assert sum(clock.waits) == pytest.approx(5.0)


def test_a_new_rate_counts_for_those_who_wait_already(clock):
    limiter = Limiter(1000)
    limiter.take(1000, clock)

    def wait(seconds: float) -> bool:
        clock.now += seconds
        limiter.rate = 0
        return False

    clock.wait = wait
    begun = clock.now
    limiter.take(100_000, clock)
    assert clock.now - begun < 1


def test_a_pause_lasts_until_it_is_ended_or_the_transfer_is():
    limiter, stop, passed = Limiter(), threading.Event(), threading.Event()

    def lane() -> None:
        limiter.wait(stop)
        passed.set()

    for end in (limiter.go_on, stop.set):
        passed.clear()
        limiter.pause()
        thread = threading.Thread(target=lane)
        thread.start()
        assert limiter.paused and not passed.wait(0.05)
        end()
        thread.join(20)
        assert passed.is_set()


def test_lanes_share_the_rate():
    limiter, stop = Limiter(1_000_000), threading.Event()

    def lane() -> None:
        for _ in range(5):
            limiter.take(20_000, stop)

    lanes = [threading.Thread(target=lane) for _ in range(4)]
    begun = monotonic()
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(20)
    assert 0.3 <= monotonic() - begun < 10


def test_a_wait_ends_when_the_transfer_does():
    stop = threading.Event()
    stop.set()
    begun = monotonic()
    Limiter(1).take(1 << 30, stop)
    assert monotonic() - begun < 5
