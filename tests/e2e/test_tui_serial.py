# SPDX-License-Identifier: GPL-3.0-or-later
"""How much the wizard writes to a serial line: counted at the other end of a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
from time import monotonic

import pytest

from agent.job.folder import make_job
from agent.job.state import DiskState, JobState
from tests.e2e.running import P2V_AGENT, home

MiB, GiB = 1 << 20, 1 << 30
CAPACITY = 115_200 // 10
"""Bytes a second at 115200 baud, eight data bits, a start and a stop bit."""
SECONDS = 20


def drain(fd: int, seconds: float) -> int:
    count, end = 0, monotonic() + seconds
    while (left := end - monotonic()) > 0:
        if select.select([fd], [], [], left)[0]:
            count += len(os.read(fd, 65536))
    return count


def test_progress_takes_less_than_half_of_a_serial_line(tmp_path, monkeypatch):
    monkeypatch.setenv("P2V_JOBS", str(tmp_path / "jobs"))
    job = make_job("web01")
    rates = tuple(range(180))
    state = JobState("web01", "https://192.0.2.10:8443", 1, "web01-1", "full", 0, 100 * GiB)
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = home(
        tmp_path / "home", P2V_JOBS=str(tmp_path / "jobs"), P2V_SERIAL="1", TERM="vt220",
        LANG="C.UTF-8",
    )  # fmt: skip
    with job.running():
        job.write(state)
        process = subprocess.Popen(
            [*P2V_AGENT, "tui"], stdin=slave, stdout=slave, stderr=slave, env=env,
            start_new_session=True,
        )  # fmt: skip
        try:
            first = 0
            deadline = monotonic() + 90
            while first < 500 and monotonic() < deadline:
                first += drain(master, 1)
            first += drain(master, 3)
            total = 0
            for second in range(SECONDS):
                done = second * 5 * GiB
                cells = "#" * (256 * second // SECONDS)
                disks = tuple(
                    DiskState(f"sd{letter}", 25 * GiB, done // 4, cells.ljust(256, "."))
                    for letter in "abcd"
                )
                job.write(
                    JobState(
                        "web01", "https://192.0.2.10:8443", 1, "web01-1", "full", done,
                        100 * GiB, 1e8 + second * 1e6, 900.0 - second, float(second), done,
                        done // 3, 0, done, done // 2, done, second, "zstd 1",
                        disks=disks, rates=rates, churns=rates, dirty=second * MiB,
                        churn=3e5 + 1e4 * second, outlook=f"{300 + second} KiB/s are written, "
                        "100.0 MiB/s can be sent: a freeze of about 38 ms, after 1 more passes.",
                    )
                )  # fmt: skip
                total += drain(master, 1)
        finally:
            process.kill()
            process.wait()
            os.close(slave)
            os.close(master)
    rate = total / SECONDS
    print(f"first paint {first} bytes, then {rate:.0f} bytes a second")
    assert 0 < rate < CAPACITY / 2
    assert first < 3 * CAPACITY


BASE = {0, 1, 2, 4, 7, 39, 49, *range(30, 38), *range(40, 48)}
"""Of SGR: plain, bold, dim, underlined, reverse, and the eight colours of every console."""


@pytest.mark.parametrize(("term", "colours"), [("linux", BASE), ("vt220", {0, 1, 2, 4, 7, 39, 49})])
def test_a_console_is_sent_ascii_and_its_own_colours_only(term, colours, tmp_path):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = home(tmp_path / "home", P2V_JOBS=str(tmp_path / "jobs"), TERM=term, LANG="C.UTF-8")
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(MiB))
    sent = b""

    def until(text: bytes) -> None:
        nonlocal sent
        seen, deadline = len(sent), monotonic() + 60
        while text not in sent[seen:]:
            assert monotonic() < deadline, sent[seen:]
            if select.select([master], [], [], 1)[0]:
                sent += os.read(master, 65536)

    process = subprocess.Popen(
        [*P2V_AGENT, "tui", "--disk", disk], stdin=slave, stdout=slave, stderr=slave, env=env,
        start_new_session=True,
    )  # fmt: skip
    try:
        until(b"Change")
        os.write(master, b"x\t 9\x15 \t\t")  # into fields, out of them, with what is selected
        os.write(master, b"\x1b[Z" * 3 + b" \t" + str(tmp_path).encode() + b"\x0e")
        until(b"Findings")
        os.write(master, b"\x0e")
        until(b"to read")
        os.write(master, b"\x0e")
        until(b"Processors")
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)
    assert sent.isascii()
    numbers = {
        int(number or 0)
        for codes in re.findall(rb"\x1b\[([\d;]*)m", sent)
        for number in codes.split(b";")
    }
    assert numbers <= colours


@pytest.mark.parametrize("words", [["tui"], ["tui", "--attach", "--plain"]])
def test_without_a_terminal_or_a_migration_it_says_so(words, tmp_path):
    env = home(tmp_path / "home", P2V_JOBS=str(tmp_path / "jobs"))
    done = subprocess.run(
        [*P2V_AGENT, *words], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "needs a terminal" in done.stderr or "no migration ran here" in done.stderr
