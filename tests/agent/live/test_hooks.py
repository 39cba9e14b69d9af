# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.live import hooks
from agent.live.hooks import Hooks
from p2v.model.errors import HookError


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "freeze.d"
    folder.mkdir()
    return folder


@pytest.fixture
def add(folder, tmp_path):
    def make(name, script="", mode=0o700) -> None:
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $1" >> {tmp_path}/said\n{script}\n')
        path.chmod(mode)

    return make


@pytest.fixture
def said(tmp_path):
    def lines() -> list[str]:
        path = tmp_path / "said"
        return path.read_text().splitlines() if path.exists() else []

    return lines


def test_no_folder_has_no_hooks(tmp_path):
    with Hooks(tmp_path / "nothing").around():
        pass


def test_they_run_in_order_before_and_in_reverse_order_afterwards(folder, add, said):
    for name in ("20-b", "10-a"):
        add(name)
    with Hooks(folder).around():
        assert said() == ["10-a freeze", "20-b freeze"]
    assert said()[2:] == ["20-b thaw", "10-a thaw"]


def test_what_is_no_program_is_passed_over(folder, add, said):
    add("10-a", mode=0o600)
    (folder / "sub").mkdir()
    with Hooks(folder).around():
        pass
    assert said() == []


def test_after_a_failure_those_that_were_begun_are_thawed(folder, add, said):
    add("10-a")
    add("20-b", '[ "$1" = thaw ] || { echo "cannot flush" >&2; exit 3; }')
    add("30-c")
    says = r"20-b.*'freeze' ended with 3: cannot flush"
    with pytest.raises(HookError, match=says), Hooks(folder).around():
        pytest.fail("it went on")
    assert said() == ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"]


def test_one_that_takes_too_long_is_killed_with_all_that_it_started(folder, add, said):
    add("10-a", '[ "$1" = thaw ] || sleep 600 & [ "$1" = thaw ] || wait')
    with pytest.raises(HookError, match="longer than"), Hooks(folder, timeout_s=0.5).around():
        pytest.fail("it went on")
    assert said() == ["10-a freeze", "10-a thaw"]


def test_a_failing_block_is_what_is_raised_and_all_are_thawed(folder, add, said):
    add("10-a", '[ "$1" = freeze ]')
    with pytest.raises(KeyError), Hooks(folder).around():
        raise KeyError
    assert said() == ["10-a freeze", "10-a thaw"]


def test_a_thaw_that_fails_is_told_after_the_others_ran(folder, add, said):
    add("10-a")
    add("20-b", '[ "$1" = freeze ]')
    with pytest.raises(HookError, match="20-b"), Hooks(folder).around():
        pass
    assert said()[2:] == ["20-b thaw", "10-a thaw"]


@pytest.mark.parametrize("which", ["folder", "hook"])
def test_hooks_that_others_may_change_are_not_run(folder, add, which):
    add("10-a")
    (folder if which == "folder" else folder / "10-a").chmod(0o777)
    with pytest.raises(HookError, match="others than root"):
        Hooks(folder)


def test_what_interrupts_the_thaw_leaves_the_rest_to_the_watchdog(folder, add, said, monkeypatch):
    for name in ("10-a", "20-b"):
        add(name)
    run = hooks._run

    def interrupted(path, word, *more):
        if word == "thaw":
            raise KeyboardInterrupt
        run(path, word, *more)

    monkeypatch.setattr(hooks, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt), Hooks(folder).around():
        pass
    assert said()[2:] == ["20-b thaw", "10-a thaw"]


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from agent.live.hooks import Hooks
if len(sys.argv) > 2:
    threading.Timer(float(sys.argv[2]), os.kill, (os.getpid(), signal.SIGKILL)).start()
with Hooks(Path(sys.argv[1])).around():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(folder, *seconds: float) -> None:
    """Let an agent kill itself between its hooks, or so many seconds after their start."""
    words = [sys.executable, "-c", KILLED, str(folder), *map(str, seconds)]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL


def test_a_killed_agent_leaves_its_hooks_thawed(folder, add, said):
    for name in ("10-a", "20-b"):
        add(name)
    killed(folder)
    wait_for(lambda: len(said()) == 4)
    assert said() == ["10-a freeze", "20-b freeze", "20-b thaw", "10-a thaw"]


def test_a_hook_that_runs_when_its_agent_is_killed_ends_before_it_is_thawed(folder, add, said):
    add("10-a")
    add("20-slow", '[ "$1" = thaw ] || { sleep 8; echo "too late" >> "$0.late"; }')
    add("30-never")
    killed(folder, 2.0)
    wait_for(lambda: len(said()) == 4)
    assert said() == ["10-a freeze", "20-slow freeze", "20-slow thaw", "10-a thaw"]
    time.sleep(7)
    assert not list(folder.glob("*.late"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
