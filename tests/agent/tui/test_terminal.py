# SPDX-License-Identifier: GPL-3.0-or-later
import os
import pty

import pytest

from agent.tui.terminal import Terminal, look, prepare, size_unknown


@pytest.fixture
def tty():
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm-256color", "LANG": "C.UTF-8"}, Terminal()),
        ({"TERM": "xterm-256color", "LANG": "C"}, Terminal(ascii=True)),
        ({"TERM": "xterm", "LANG": "de_DE.utf8", "NO_COLOR": "1"}, Terminal(colours=0)),
        ({"TERM": "linux", "LANG": "C.UTF-8"}, Terminal(ascii=True, colours=8)),
        ({"TERM": "vt220", "LANG": "C.UTF-8"}, Terminal(ascii=True, colours=0)),
        ({"LANG": "C.UTF-8"}, Terminal(ascii=True, colours=8)),
        (
            {"TERM": "vt220", "P2V_SERIAL": "1"},
            Terminal(ascii=True, slow=True, colours=0),
        ),
    ],
)
def test_a_terminal_is_known_by_what_it_says(tty, environ, expected):
    assert look(tty, environ) == expected


def test_old_terminals_are_not_sent_what_they_would_print():
    environ: dict[str, str] = {}
    prepare(Terminal(ascii=True, slow=True, colours=0), environ)
    assert environ["TEXTUAL_DISABLE_KITTY_KEY"] == "1" and environ["NO_COLOR"] == "1"
    assert environ["TEXTUAL_FPS"] == "5"


def test_a_line_without_a_size_is_known(tty):
    assert size_unknown(tty)
