# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from agent.tui.terminal import ASCII, UNICODE
from agent.tui.text import bar, chart_line, curve, stars


@pytest.mark.parametrize("glyphs", [ASCII, UNICODE])
def test_bars_and_curves_have_the_width_they_are_given(glyphs):
    assert len(bar(3, 10, 20, glyphs)) == 20 and bar(3, 0, 4, glyphs) == glyphs.empty * 4
    assert bar(20, 10, 5, glyphs) == glyphs.full * 5
    assert curve([0, 5, 10], 8, glyphs) == glyphs.levels[0] + glyphs.levels[4] + glyphs.levels[8]
    assert curve([], 8, glyphs) == "" and curve([0, 0], 8, glyphs) == "  "


@pytest.mark.parametrize(
    ("count", "text"), [(0, "-----"), (0.5, "+----"), (3.5, "***+-"), (5, "*****")]
)
def test_stars_are_five_signs(count, text):
    assert stars(count, ASCII) == text


def test_one_unreadable_cell_shows_however_narrow_the_screen_is():
    assert chart_line("#" * 100 + "!" + "#" * 155, 10) == "###!######"
    assert chart_line("", 5) == "....." and chart_line("#.", 4) == "##.."
