# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from tests.p2v.script.golden import FOLDER, scripts

SCRIPTS = scripts()


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_the_reviewed_one(name):
    """Look at the difference; if it is meant, `python -m tests.p2v.script.golden` writes it."""
    assert SCRIPTS[name] == (FOLDER / name).read_text(encoding="utf-8")


def test_no_golden_file_is_left_over():
    assert {path.name for path in FOLDER.iterdir()} == set(SCRIPTS)
