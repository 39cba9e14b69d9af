# SPDX-License-Identifier: GPL-3.0-or-later
import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.stream.chart import Chart, Mark
from p2v.model.extent import Extent

MiB = 1 << 20


def test_a_disk_fills_from_left_to_right():
    chart = Chart([1000], cells=10)
    assert chart.cells(0) == ".........." and chart.done(0) == 0
    chart.add(0, 0, 250, Mark.SENT)
    chart.add(0, 250, 450, Mark.ZERO)
    chart.add(0, 700, 100, Mark.SAME)
    assert chart.cells(0) == "###----=.."
    assert chart.done(0) == 800


def test_what_could_not_be_read_is_seen_whatever_else_is_there():
    chart = Chart([1000], cells=10)
    chart.add(0, 0, 1000, Mark.SENT)
    chart.add_bad(0, [Extent(399, 2)])
    assert chart.cells(0) == "###!!#####"


def test_what_was_sent_twice_counts_once():
    chart = Chart([1000], cells=10)
    chart.add(0, 0, 100, Mark.SENT)
    chart.add(0, 0, 100, Mark.SENT)
    assert chart.done(0) == 100


def test_an_empty_disk_of_64_tib_is_marked_at_once():
    chart = Chart([64 << 40])
    chart.add(0, 0, 64 << 40, Mark.ZERO)
    assert set(chart.cells(0)) == {"-"} and chart.done(0) == 64 << 40


@given(st.integers(1, 5 * MiB), st.lists(st.integers(0, 5 * MiB), max_size=20))
def test_any_cut_of_a_disk_into_pieces_fills_it(size, cuts):
    chart = Chart([size], cells=16)
    points = sorted({0, size, *(cut for cut in cuts if cut < size)})
    for start, end in itertools.pairwise(points):
        chart.add(0, start, end - start, Mark.SENT)
    assert chart.done(0) == size and set(chart.cells(0)) == {"#"} and len(chart.cells(0)) <= 16


def test_what_was_written_since_is_dirty_until_it_is_sent_again():
    chart = Chart([1000], cells=10)
    chart.add(0, 0, 500, Mark.SENT)
    chart.set_dirty(0, [True, False, False, False, False, True, False, False, False, False])
    assert chart.cells(0) == "*####....."
    chart.set_dirty(0, ())
    assert chart.cells(0) == "#####....."
