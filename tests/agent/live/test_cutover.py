# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from agent.live.cutover import Cutover, When, parse_cutover
from p2v.model.errors import UsageError

NOW = datetime(2026, 11, 23, 22, 0, tzinfo=timezone(timedelta(hours=1)))


def at(words):
    return datetime.fromtimestamp(parse_cutover(["at", words], NOW).at, NOW.tzinfo)


@pytest.mark.parametrize("when", [When.NOW, When.WAIT, When.LATER])
def test_a_word_is_enough(when):
    assert parse_cutover([when.value]) == Cutover(when)


def test_a_time_of_the_day_is_the_next_one():
    assert at("23:30") == NOW.replace(hour=23, minute=30)
    assert at("06:00") == NOW.replace(day=24, hour=6)
    assert at("22:00") == NOW.replace(day=24)


def test_a_date_is_local_unless_it_says_where():
    assert at("2026-12-31T23:30") == datetime(2026, 12, 31, 23, 30, tzinfo=NOW.tzinfo)
    assert at("2026-12-31T23:30+00:00") == datetime(2027, 1, 1, 0, 30, tzinfo=NOW.tzinfo)


@pytest.mark.parametrize(
    "words", [[], ["now", "then"], ["soon"], ["at"], ["at", "25:61"], ["at", "2026-01-01T00:00"]]
)
def test_anything_else_is_refused(words):
    with pytest.raises(UsageError):
        parse_cutover(words, NOW)


def test_it_is_due_by_kind_by_command_and_by_time():
    assert Cutover(When.NOW).due(commanded=False)
    for when in (When.WAIT, When.AT, When.LATER):
        waiting = Cutover(when, NOW.timestamp() * 2)
        assert not waiting.due(commanded=False) and waiting.due(commanded=True)
    assert Cutover(When.AT, 1.0).due(commanded=False)


def test_nobody_waits_past_the_time():
    assert Cutover(When.WAIT).wait_s(60) == 60
    assert Cutover(When.AT, 1.0).wait_s(60) == 0
