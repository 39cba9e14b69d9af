# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard in a real terminal (tmux), driven by keys, against a real converter."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from random import Random

import pytest

from agent.job.folder import list_jobs
from p2v.images.compare import compare_images
from tests.e2e.running import P2V_AGENT, home, wait_for

CAPTURES = Path(__file__).parent / "captures"
MiB = 1 << 20


class Terminal:
    """A tmux session of 80x24."""

    def __init__(self, folder: Path, term: str, env: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._term, self._env = term, env

    def start(self, *words: object) -> None:
        kept = {k: self._env[k] for k in self._env if k.startswith(("P2V", "XDG", "HOME", "LANG"))}
        kept |= {"TERM": self._term, "PATH": os.environ["PATH"]}
        command = ["env", "-i", *(f"{k}={v}" for k, v in kept.items())]
        command += [*P2V_AGENT, "tui", *map(str, words)]
        line = f"stty -ixon; {shlex.join(command)}; echo ended with $?; sleep 600"
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-x", "80", "-y", "24", line],
            check=True,
            env=os.environ | {"TERM": "xterm"},
        )

    def keys(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def type(self, text: str) -> None:
        subprocess.run([*self._tmux, "send-keys", "-l", text], check=True)

    def screen(self) -> str:
        shown = [*self._tmux, "capture-pane", "-p"]
        return subprocess.run(shown, check=True, capture_output=True, text=True).stdout

    def wait(self, text: str, seconds: float = 90) -> str:
        try:
            wait_for(lambda: re.search(text, self.screen()), seconds, 0.2)
        except AssertionError:
            raise AssertionError(f"no {text!r} on\n{self.screen()}") from None
        return self.screen()

    def end(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setenv("P2V_JOBS", str(tmp_path / "jobs"))
    return home(tmp_path / "home", P2V_JOBS=str(tmp_path / "jobs"), LANG="C.UTF-8")


@pytest.fixture
def terminal(tmp_path, env):
    running = []

    def make(term: str) -> Terminal:
        running.append(Terminal(tmp_path, term, env))
        return running[-1]

    yield make
    for each in running:
        each.end()
    for job in list_jobs():
        state = job.state()
        if state is not None and job.alive():
            os.kill(state.pid, signal.SIGKILL)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "web01.img"
    path.write_bytes(Random(5).randbytes(48 * MiB) + bytes(16 * MiB))
    return path


def record(term: str, name: str, screen: str) -> None:
    """Keep a screen as evidence, with P2V_CAPTURES=1."""
    if term and os.environ.get("P2V_CAPTURES"):
        CAPTURES.mkdir(exist_ok=True)
        (CAPTURES / f"{term}-{name}.txt").write_text(screen.rstrip() + "\n")


def to_the_machine(terminal: Terminal, term: str, converter) -> None:
    """Go from the first screen to that of the virtual machine."""
    record(term, "1-converter", terminal.wait("space Change"))
    terminal.keys("Tab")
    terminal.type(f"127.0.0.1:{converter.port}")
    terminal.keys("Tab")
    terminal.type(converter.code())
    terminal.keys("C-n")
    record(term, "2-machine", terminal.wait("Findings: "))
    terminal.keys("C-n")
    record(term, "3-disks", terminal.wait("64.0 MiB to read: about"))
    terminal.keys("C-n")
    record(term, "4-vm", terminal.wait("Blink a card"))


def to_the_summary(terminal: Terminal, term: str, converter) -> None:
    to_the_machine(terminal, term, converter)
    terminal.keys("C-n")
    record(term, "5-host", terminal.wait("The converter knows no hosts"))
    terminal.keys("Escape")
    terminal.wait("Processors")
    terminal.keys("C-n")
    terminal.wait("The converter knows no hosts")
    terminal.keys("C-n")
    record(term, "6-summary", terminal.wait(r"\^N starts the migration"))


def start(screen: Terminal, term: str, converter, disk: Path, limit: str) -> None:
    screen.start("--disk", disk, "--bwlimit", limit)
    to_the_summary(screen, term, converter)
    screen.keys("C-n")


def is_whole(converter, disk: Path) -> bool:
    (migration,) = converter.migrations()
    assert migration["state"] == "finished"
    return compare_images(disk, Path(migration["images"][0])).same


@pytest.mark.parametrize("term", ["linux", pytest.param("vt220", marks=pytest.mark.slow)])
def test_from_the_first_key_to_an_image(term, terminal, converter, disk):
    screen = terminal(term)
    screen.start("--disk", disk, "--bwlimit", "16M")
    to_the_summary(screen, term, converter)
    assert screen.screen().isascii()
    screen.keys("C-n")
    record(term, "7-progress", screen.wait(r"\d+ %: .* of 64.0 MiB|reads it back"))
    done = screen.wait("DONE(?s:.*)Rehearsal: none yet")
    record(term, "8-result", done)
    assert done.isascii() and "Verified: " in done
    assert is_whole(converter, disk)
    screen.keys("C-x")
    screen.wait("ended with 0")


def test_a_killed_wizard_does_not_end_the_migration_and_a_new_one_shows_it(
    terminal, converter, disk
):
    screen = terminal("linux")
    start(screen, "", converter, disk, "1M")
    screen.wait("at most 1.0 MiB/s")
    screen.end()
    (job,) = list_jobs()
    assert job.alive()
    before = job.state()
    wait_for(lambda: job.state().done > before.done)
    again = terminal("vt220")
    again.start()
    again.wait(r"\d+ %: ")
    again.type("p")
    record("kill", "7-attached", again.wait("Paused. p goes on"))
    again.type("t")
    again.wait("At most so many bytes")
    again.type("0")
    again.keys("Enter")
    again.wait("Paused. p goes on")
    again.type("p")
    again.wait("DONE")
    assert is_whole(converter, disk)


@pytest.mark.slow
def test_a_stopped_migration_is_resumed_from_the_result(terminal, converter, disk):
    screen = terminal("linux")
    start(screen, "", converter, disk, "4M")
    screen.wait(r"\d+ %: ")
    screen.type("k")
    screen.wait("Stop this migration")
    screen.type("yes")
    screen.keys("Enter")
    screen.wait("Type 'stop' or 'discard'")
    screen.keys("C-u")
    screen.type("stop")
    screen.keys("Enter")
    screen.wait("STOPPED")
    screen.type("r")
    screen.wait("DONE")
    assert is_whole(converter, disk)


@pytest.mark.slow
def test_a_converter_that_dies_in_the_middle_is_waited_for(terminal, converter, disk):
    screen = terminal("linux")
    start(screen, "", converter, disk, "4M")
    screen.wait(r"[1-9]\d* %: ")
    converter.kill()
    record("dies", "7-waiting", screen.wait("Waiting: No converter answers"))
    converter.start()
    done = screen.wait("DONE")
    assert "Error" not in done
    assert is_whole(converter, disk)


@pytest.mark.slow
def test_a_disk_that_vanishes_before_the_start_is_named_with_a_way_out(terminal, converter, disk):
    screen = terminal("linux")
    screen.start("--disk", disk)
    to_the_summary(screen, "", converter)
    disk.unlink()
    screen.keys("C-n")
    said = screen.wait("NOT DONE")
    record("gone", "8-result", said)
    assert "web01.img" in said and "What to do: " in said and "Traceback" not in said
    assert converter.migrations() == []


HOSTS = """
[[hosts]]
name = "hv1"
hypervisor = "hyperv"
cpus = 512
memory = 1125899906842624
group = ["Berlin", "cluster-a"]
storages = [{ name = "D:\\\\VMs", free = 536870912000 }]
networks = [{ name = "LAN" }]

[[hosts]]
name = "hv2"
hypervisor = "hyperv"
cpus = 4
memory = 1073741824
maintenance = true
"""


@pytest.mark.slow
def test_a_host_that_refuses_is_said_before_and_after(terminal, converter, disk, tmp_path):
    """The host is known from a file only: it has stars, and making a machine on it fails."""
    file = tmp_path / "hosts.toml"
    file.write_text(HOSTS)
    converter.p2v("hosts", "add", "lab", "--kind", "static", "--address", file)
    screen = terminal("linux")
    screen.start("--disk", disk)
    to_the_machine(screen, "", converter)
    screen.keys("C-n")
    shown = screen.wait(r"hv1: \d")
    record("host", "5-host", shown)
    assert "Berlin / cluster-a" in shown and "-----  hv2" in shown
    screen.keys("End", "Space")
    record("host", "5-refused", screen.wait("Error: hv2 cannot take it"))
    screen.keys("Home", "Down", "Down", "Space")
    screen.wait(r"\(x\) .* hv1")
    screen.keys("C-n")
    screen.wait("Made on the host hv1")
    screen.keys("C-n")
    done = screen.wait("DONE, BUT NO MACHINE WAS MADE")
    record("host", "8-result", done)
    assert "Taken back: nothing was there" in done
    assert is_whole(converter, disk)


@pytest.mark.slow
def test_a_wrong_code_and_a_converter_that_is_not_there_are_sentences(terminal, converter, disk):
    screen = terminal("linux")
    screen.start("--disk", disk)
    screen.wait("space Change")
    screen.keys("Tab")
    screen.type("127.0.0.1:9")
    screen.keys("Tab")
    screen.type("7QK-3M9-X4T")
    screen.keys("C-n")
    record("wrong", "1-unreachable", screen.wait("No converter answers at https://127.0.0.1:9"))
    screen.keys("BTab", "C-u")
    screen.type(f"127.0.0.1:{converter.port}")
    screen.keys("C-n")
    said = screen.wait("Error: Pairing with")
    record("wrong", "1-code", said)
    assert "Run 'p2v pair'" in said and "Traceback" not in said
