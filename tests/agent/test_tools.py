# SPDX-License-Identifier: GPL-3.0-or-later
import time
from pathlib import Path

import pytest

from agent import tools
from p2v.model.errors import ToolError


def test_output_comes_back_untranslated(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert tools.run(["sh", "-c", "printf $LC_ALL"]) == b"C"
    assert tools.run(["cat"], stdin=b"\0\xff") == b"\0\xff"


def test_a_failure_keeps_the_programs_last_words():
    with pytest.raises(ToolError, match=r"sh: exit status 3: it is broken") as caught:
        tools.run(["sh", "-c", "echo it is broken >&2; exit 3"])
    assert caught.value.exit_code == 41
    assert tools.run(["sh", "-c", "exit 3"], accept=(0, 3)) == b""
    with pytest.raises(ToolError, match="killed by signal 9"):
        tools.run(["sh", "-c", "kill -9 $$"])


def test_a_missing_program_is_named():
    with pytest.raises(ToolError, match="no-such-tool: the program is not installed"):
        tools.run(["no-such-tool"])
    with (
        pytest.raises(ToolError, match="not installed"),
        tools.output(["no-such-tool"]),
    ):
        pass


def test_a_program_that_hangs_is_ended():
    start = time.monotonic()
    with pytest.raises(ToolError, match=r"no answer within 0\.2 s"):
        tools.run(["sleep", "60"], timeout_s=0.2)
    assert time.monotonic() - start < 10


def test_a_stream_is_read_line_by_line_and_fails_at_its_end():
    with tools.output(["seq", "100000"]) as lines:
        assert sum(int(line) for line in lines) == 5000050000
    seen = []
    with (
        pytest.raises(ToolError, match="exit status 1: late"),
        tools.output(["sh", "-c", "echo 1; echo late >&2; exit 1"]) as lines,
    ):
        seen += list(lines)
    assert seen == [b"1\n"]


def first_line_then_raise(found):
    with tools.output(["sh", "-c", "echo $$; exec yes"]) as lines:
        found.append(Path(f"/proc/{int(next(iter(lines)))}"))
        assert found[0].exists()
        raise KeyError


def test_an_error_in_the_block_ends_the_program():
    found = []
    with pytest.raises(KeyError):
        first_line_then_raise(found)
    assert not found[0].exists()


def test_a_stream_that_is_not_read_to_its_end_is_a_failure():
    with pytest.raises(ToolError, match="killed by signal 13"), tools.output(["yes"]) as lines:
        next(iter(lines))
