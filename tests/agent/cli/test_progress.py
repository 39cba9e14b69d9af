# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import pytest

from agent.cli import progress
from agent.cli.progress import Bar, JsonLines, Quiet, Rate, figures, format_time, make_display
from agent.migration import Outlook, Progress
from agent.stream.lane import Counters
from p2v.model.units import GiB, MiB, TiB


def state(done=0, elapsed=0.0, phase="full", total=GiB, problem="", **counters) -> Progress:
    return Progress("m-1", phase, done, total, Counters(**counters), "zstd 1", elapsed, problem)


def test_the_rate_is_that_of_the_last_seconds():
    rate = Rate()
    assert rate.add(state(0, 0)) == (0.0, None)
    assert rate.add(state(100 * MiB, 1)) == (100 * MiB, pytest.approx(9.24))
    for second in range(2, 40):
        last = rate.add(state(100 * MiB + second * MiB, second))
    assert last[0] == pytest.approx(MiB)


def test_work_that_was_given_back_is_no_negative_rate():
    rate = Rate()
    rate.add(state(500 * MiB, 0))
    assert rate.add(state(100 * MiB, 1)) == (0.0, None)


def test_nothing_left_takes_no_time():
    rate = Rate()
    rate.add(state(0, 0))
    assert rate.add(state(2 * GiB, 1))[1] == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-:--"), (0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")],
)
def test_times(seconds, text):
    assert format_time(seconds) == text


def test_figures_fit_beside_the_bar():
    busy = state(wire=3 * TiB, sent=9 * TiB, zero=900 * GiB, same=100 * GiB)
    text = figures(busy, 999.9 * MiB, 359999)
    assert len(text) <= 55
    assert "999.9 MiB/s" in text and "x3.0 zstd 1" in text and "skip 1000.0 GiB" in text
    assert figures(state(phase="verifying"), 5 * MiB, 61) == "5.0 MiB/s eta 1:01"
    assert figures(state(phase="committing"), 0.0, None) == "1.0 GiB received"


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_lines_come_once_a_second_and_with_every_phase(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with JsonLines() as display:
        for _ in range(12):
            display.show(state(elapsed=now[0] - 100))
            now[0] += 0.25
        display.show(state(phase="verifying"))
        display.show(state(phase="finished"))
    found = lines(capsys)
    assert [line["seq"] for line in found] == [1, 2, 3, 4, 5]
    assert [line["phase"] for line in found] == ["full"] * 3 + ["verifying", "finished"]
    assert list(found[0])[:3] == ["type", "schema", "seq"]


def test_json_lines_hold_the_figures(capsys):
    with JsonLines() as display:
        display.show(state(5, 1.0, problem="No room", read=1, zero=2, same=3, sent=4, wire=5))
    (line,) = lines(capsys)
    assert line["migration"] == "m-1" and line["problem"] == "No room"
    assert [line[name] for name in ("done", "read", "zero", "same", "sent", "wire")] == [
        *(5, 1, 2, 3, 4, 5)
    ]
    assert line["eta_s"] is None and line["codec"] == "zstd 1"


def test_the_bar_says_once_why_nothing_moves(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with Bar() as display:
        for _ in range(3):
            display.show(state(problem="No room left in /srv [bold]."))
        display.show(state())
        display.show(state(phase="finished", done=GiB))
    assert out.getvalue().count("waiting: No room left in /srv [bold].") == 1


@pytest.mark.parametrize(
    ("mode", "terminal", "wanted"),
    [
        ("none", True, Quiet),
        ("json", True, JsonLines),
        ("auto", True, Bar),
        ("auto", False, JsonLines),
    ],
)
def test_the_display_suits_who_looks(monkeypatch, mode, terminal, wanted):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert type(make_display(mode)) is wanted


def test_quiet_says_only_why_nothing_moves_and_when_it_goes_on(capsys):
    with Quiet() as display:
        display.show(state())
        assert capsys.readouterr() == ("", "")
        for _ in range(3):
            display.show(state(problem="No room left in /srv\x1b[2J."))
        display.show(state())
        display.show(state())
    out, said = capsys.readouterr()
    assert out == ""
    assert said == (
        "p2v-agent: waiting: No room left in /srv\\x1b[2J. "
        "It goes on by itself once that is over.\n"
        "p2v-agent: going on\n"
    )


OUTLOOK = Outlook("2.0 MiB/s are written.", 5 * MiB, 2.0 * MiB, 0.04321)


def test_json_lines_say_what_a_live_capture_expects(capsys):
    with JsonLines() as display:
        display.show(replace(state(phase="delta"), outlook=OUTLOOK))
    line = json.loads(capsys.readouterr().err)
    assert (line["dirty"], line["churn"], line["freeze_s"]) == (5 * MiB, 2 * MiB, 0.0432)
    assert line["outlook"] == OUTLOOK.text


def test_a_bar_says_once_what_a_live_capture_expects(capsys):
    with Bar() as display:
        for phase in ("delta", "delta", "waiting"):
            display.show(replace(state(phase=phase), outlook=OUTLOOK))
    assert capsys.readouterr().err.count(OUTLOOK.text) == 1


def test_each_pass_has_a_rate_of_its_own():
    rate = Rate()
    rate.add(state(done=0, elapsed=0.0))
    rate.add(state(done=1000 * MiB, elapsed=10.0))
    rate.add(state(done=0, elapsed=10.5, phase="delta", total=20 * MiB))
    found, _ = rate.add(state(done=10 * MiB, elapsed=11.5, phase="delta", total=20 * MiB))
    assert found == 10 * MiB
