# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/exit-codes.md and the error classes say the same."""

from __future__ import annotations

import re
from pathlib import Path

from p2v.images.check.report import EXIT_CLEAN, EXIT_WARNINGS
from p2v.model import command, errors

DOCUMENT = Path(__file__).parents[3] / "docs" / "exit-codes.md"
CLASSES = [
    one
    for one in vars(errors).values()
    if isinstance(one, type) and issubclass(one, errors.P2VError)
]


def rows() -> list[tuple[int, str]]:
    pattern = re.compile(r"^\| (\d+) \| (?:`([a-z-]+)`)? ?\| \S.*\|$", re.MULTILINE)
    return [(int(code), slug) for code, slug in pattern.findall(DOCUMENT.read_text())]


def test_the_table_lists_every_error_class_with_its_exit_code():
    documented = {(code, slug) for code, slug in rows() if slug}
    assert documented == {(one.exit_code, one.code) for one in CLASSES}


def test_the_table_lists_every_other_way_to_end():
    assert {code for code, slug in rows() if not slug} == {
        EXIT_CLEAN,
        EXIT_WARNINGS,
        command.EXIT_INTERRUPTED,
        command.EXIT_BROKEN_PIPE,
        command.EXIT_TERMINATED,
    }


def test_the_table_is_sorted():
    codes = [code for code, _ in rows()]
    assert codes == sorted(codes)


def test_no_two_classes_share_a_slug():
    slugs = [one.code for one in CLASSES]
    assert len(slugs) == len(set(slugs))
