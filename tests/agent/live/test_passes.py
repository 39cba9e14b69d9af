# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.live.passes import (
    MAX_PASSES,
    PASSES_IN_VAIN,
    Limits,
    Next,
    Pass,
    forecast,
    under_way,
)
from p2v.model.units import GiB, KiB, MiB

LIMITS = Limits(freeze_s=5.0, overhead_s=0.01, read_rate=200 * MiB)


def after(passes, dirty, limits=LIMITS):
    return forecast(passes, dirty, -(-dirty // (64 * KiB)), limits)


def shrinking(rate, churn, size, limits=LIMITS):
    """Carry out passes of a disk that is written to at `churn`, sent at `rate`; return them all."""
    passes, dirty = [], size
    while True:
        seconds = dirty / rate + 0.2
        left = min(size, int(churn * seconds))
        passes.append(Pass(dirty, seconds, left))
        expected = after(passes, left, limits)
        if expected.next is not Next.DELTA:
            return passes, expected
        dirty = left


def test_a_quiet_disk_is_frozen_after_one_pass():
    passes, expected = shrinking(100 * MiB, 0, 10 * GiB)
    assert len(passes) == 1 and expected.next is Next.FREEZE
    assert expected.freeze_s == pytest.approx(0.01)


def test_a_busy_disk_gets_passes_until_they_do_not_help():
    passes, expected = shrinking(100 * MiB, 10 * MiB, 100 * GiB)
    assert 3 <= len(passes) <= 8 and expected.next is Next.FREEZE
    assert passes[-1].written < 4 * MiB


def test_writes_that_outrun_the_passes_end_in_a_refusal_that_says_so():
    passes, expected = shrinking(50 * MiB, 80 * MiB, 100 * GiB)
    assert expected.next is Next.GIVE_UP and expected.outrun and expected.passes is None
    assert len(passes) <= PASSES_IN_VAIN + 2
    assert "outrun" in expected.describe()


def test_a_small_disk_may_be_written_to_as_fast_as_it_likes():
    _, expected = shrinking(50 * MiB, 80 * MiB, 20 * MiB)
    assert expected.next is Next.FREEZE and expected.outrun


def test_the_freeze_is_predicted_from_reading_and_from_freezing_itself():
    expected = after([Pass(GiB, 10, 0)], 16 * MiB)
    assert expected.freeze_s == pytest.approx(0.01 + 256 * 256 * KiB / (200 * MiB))


def test_a_disk_that_reads_slowly_is_not_frozen_for_longer_than_allowed():
    slow = Limits(freeze_s=1.0, read_rate=5 * MiB)
    assert shrinking(50 * MiB, 15 * MiB, 10 * GiB, slow)[1].next is Next.GIVE_UP


def test_passes_cannot_shorten_what_freezing_takes_by_itself():
    slow = Limits(freeze_s=5.0, overhead_s=0.2, read_rate=200 * MiB)
    assert after([Pass(GiB, 10, 0)], 0, slow).next is Next.FREEZE
    assert after([Pass(GiB, 10, MiB // 4)], MiB // 4, slow).next is Next.FREEZE
    assert after([Pass(GiB, 10, 30 * MiB)], 30 * MiB, slow).next is Next.DELTA


def test_a_pass_under_way_tells_how_many_more_and_how_long():
    quarter = Pass(25 * GiB, 256, 2560 * MiB)  # 100 MiB/s sent, 10 MiB/s written
    expected = under_way(quarter, 75 * GiB, LIMITS)
    assert expected.passes == 1 + 4  # 10 GiB left, then 1 GiB, 100 MiB, 10 MiB
    assert expected.finish_s == pytest.approx(768 + 102.4 + 10.24 + 1.024 + 0.1024)
    assert "5 more passes in about 15 min" in expected.describe()


def test_a_pass_under_way_whose_writes_outrun_it_says_so():
    expected = under_way(Pass(GiB, 100, 2 * GiB), 9 * GiB, LIMITS)
    assert expected.outrun and expected.passes is None and expected.finish_s is None
    assert "outrun" in expected.describe()


@given(
    st.lists(
        st.builds(Pass, st.integers(0, 1 << 44), st.floats(0, 1e6), st.integers(0, 1 << 44)),
        max_size=2 * MAX_PASSES,
    ),
    st.integers(0, 1 << 44),
    st.builds(Limits, st.floats(0.01, 100), st.floats(0, 10), st.floats(1, 1e10)),
)
def test_passes_end_and_a_freeze_is_never_longer_than_allowed(passes, dirty, limits):
    expected = after(passes, dirty, limits)
    assert expected.describe()
    if len(passes) >= MAX_PASSES:
        assert expected.next is not Next.DELTA
    if expected.next is Next.FREEZE:
        assert expected.freeze_s <= limits.freeze_s and dirty <= limits.memory
