# SPDX-License-Identifier: GPL-3.0-or-later
import json

from p2v.cli.progress import tell_wait


def test_a_wait_is_told_to_people_and_so_is_its_end(capsys):
    tell_wait("none", "import", "No room left in /srv\x1b.")
    tell_wait("none", "import", "")
    said = "p2v: waiting: No room left in /srv\\x1b. It goes on by itself once that is over."
    assert capsys.readouterr().err == f"{said}\np2v: going on\n"


def test_among_lines_a_wait_is_one_of_them(capsys):
    for mode in ("json", "auto"):  # stderr is no terminal here
        tell_wait(mode, "import", "No room.")
        line = json.loads(capsys.readouterr().err)
        assert line == {"type": "waiting", "task": "import", "problem": "No room."}
