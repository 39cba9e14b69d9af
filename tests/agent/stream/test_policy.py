# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from agent.stream.policy import LADDER, MAX_HOLD_S, START, WINDOW_S, Climber, Policy, Sample
from p2v.model.plan import Codec
from p2v.wire.frame import WireCodec

Stream = Callable[[int], Sample]


def stream(costs: dict[int, tuple[float, float, float]]) -> Stream:
    """Return what a window measures on each rung.

    A byte of source costs (seconds to encode, seconds to send, bytes on the wire); one lane, so
    that the seconds add up.
    """

    def window(rung: int) -> Sample:
        encode, send, wire = costs[rung]
        count = WINDOW_S / (encode + send)
        return Sample(encode * count, send * count, int(count), int(wire * count))

    return window


def climb(found: Stream, windows: int = 200) -> tuple[Climber, list[int]]:
    climber, rungs = Climber(), []
    for number in range(windows):
        climber.step(number * WINDOW_S, found(climber.rung), WINDOW_S)
        rungs.append(climber.rung)
    return climber, rungs


SPEED = {0: 0.0, 1: 1 / 550e6, 2: 1 / 400e6, 3: 1 / 260e6, 4: 1 / 96e6, 5: 1 / 40e6}
RATIO = {0: 1.0, 1: 2.1, 2: 3.0, 3: 3.2, 4: 3.4, 5: 3.5}


def network(rate: float, ratio: dict[int, float] = RATIO) -> Stream:
    return stream(
        {
            rung: (SPEED[rung] + 1e-10, 1 / rate / ratio[rung], 1 / ratio[rung])
            for rung in range(len(LADDER))
        }
    )


def test_a_fast_network_is_not_compressed_for():
    _, rungs = climb(network(3e9))
    assert max(set(rungs), key=rungs.count) == 0


def test_a_slow_network_raises_the_level():
    _, rungs = climb(network(1e6))
    assert max(set(rungs), key=rungs.count) >= len(LADDER) - 2


def test_what_cannot_be_compressed_stops_costing_cpu():
    _, rungs = climb(network(400e6, dict.fromkeys(RATIO, 1.0)))
    assert max(set(rungs), key=rungs.count) == 0


def test_what_cannot_be_compressed_on_a_slow_network_costs_no_cpu_either():
    _, rungs = climb(network(10e6, dict.fromkeys(RATIO, 1.0)))
    assert max(set(rungs), key=rungs.count) == 0


def test_compression_comes_back_when_the_data_can_be_compressed_again():
    noise, text = network(10e6, dict.fromkeys(RATIO, 1.0)), network(10e6)
    climber = Climber()
    for number in range(600):
        found = noise if number < 100 else text
        climber.step(number * WINDOW_S, found(climber.rung), WINDOW_S)
    assert climber.rung >= START


def test_a_step_that_made_it_slower_is_tried_ever_more_rarely():
    best = network(3e6, dict.fromkeys(RATIO, 2.0))  # a higher rung never pays
    climber, rungs = climb(best, 2000)
    tries = [i for i, (a, b) in enumerate(pairwise(rungs)) if b > a]
    gaps = [b - a for a, b in pairwise(tries)]
    assert len(tries) < 60
    assert gaps[-1] * WINDOW_S >= MAX_HOLD_S / 2 > gaps[0] * WINDOW_S
    assert climber.rung <= START + 1


def test_balance_is_left_alone():
    _, rungs = climb(stream(dict.fromkeys(range(len(LADDER)), (1e-8, 1e-8, 0.5))))
    assert set(rungs) == {START}


def test_a_stretch_of_zeros_moves_nothing_out_of_the_ladder():
    climber = Climber()
    for number in range(100):
        climber.step(number * WINDOW_S, Sample(), WINDOW_S)
    assert climber.rung == START


@pytest.mark.parametrize(
    ("codec", "choice"),
    [
        (Codec.ZSTD, (WireCodec.ZSTD, 1)),
        (Codec.LZF, (WireCodec.LZF, 0)),
        (Codec.NONE, (WireCodec.NONE, 0)),
    ],
)
def test_a_codec_that_was_asked_for_stays(codec, choice):
    policy = Policy(codec)
    for _ in range(10):
        policy.observe(0.0, 100.0, 1, 1)
    assert policy.choice == choice


def test_auto_begins_in_the_middle():
    assert Policy(Codec.AUTO).choice == LADDER[START]
