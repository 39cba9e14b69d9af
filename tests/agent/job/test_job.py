# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs: real `p2v-agent migrate` processes, watched and steered through their folders."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from random import Random

import pytest

from agent.job.controls import Controls
from agent.job.folder import Job, find_job, list_jobs, make_job
from agent.job.server import ask, serving
from agent.job.state import DiskState, JobState
from p2v.model.errors import MigrationBusyError, NoSuchMigrationError

MiB = 1 << 20


@pytest.fixture(autouse=True)
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("P2V_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


@pytest.fixture
def start(tmp_path):
    """Start a migration into a folder as a detached job."""
    disk, images = tmp_path / "disk.img", tmp_path / "images"
    disk.write_bytes(Random(3).randbytes(8 * MiB) + bytes(24 * MiB))
    images.mkdir()
    running = []

    def call(*more: object, job: Job | None = None) -> tuple[Job, subprocess.Popen[bytes]]:
        job = job or make_job("web 01")
        words = ["--to", images, "--job", job.path, "--json", "--progress", "none"]
        if "--resume" not in more:
            words += ["--disk", disk, "--name", "web01", "--format", "raw"]
        with job.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "agent.cli.main", "migrate", *map(str, [*words, *more])],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        running.append(process)
        return job, process

    yield call
    for process in running:
        process.kill()
        process.wait()


def until(job, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = job.state()
        if state is not None and condition(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"{job.state()}\n" + "\n".join(job.log_lines(20)))


def test_a_job_says_what_it_does_and_what_came_of_it(start):
    job, process = start()
    state = until(job, lambda state: state.over)
    assert process.wait(60) == 0 and state.exit_code == 0
    assert state.name == "web01" and state.phase == "finished" and state.migration
    assert state.images[0].endswith(".raw") and state.failure is None
    (disk,) = state.disks
    assert disk.done == disk.size == 32 * MiB and set(disk.cells) == {"#", "-"}
    assert disk.cells.index("-") == len(disk.cells) // 4


def test_a_job_is_paused_throttled_and_goes_on(start):
    job, process = start("--bwlimit", "200k")
    until(job, lambda state: state.phase == "full" and state.done)
    ask(job.socket, {"do": "pause"})
    until(job, lambda state: state.paused)
    ask(job.socket, {"do": "limit", "rate": 0})
    until(job, lambda state: state.paused and state.bwlimit == 0)
    ask(job.socket, {"do": "go-on"})
    assert until(job, lambda state: state.over).exit_code == 0
    assert process.wait(60) == 0


def test_a_stopped_job_can_be_resumed(start):
    job, process = start("--bwlimit", "200k")
    running = until(job, lambda state: state.phase == "full" and state.done)
    assert find_job(running.migration) == job
    ask(job.socket, {"do": "stop"})
    state = until(job, lambda state: state.over)
    assert process.wait(60) == state.exit_code == 128 + signal.SIGTERM
    assert state.failure is not None and state.failure.code == "stopped"
    assert not job.alive()
    again, process = start("--resume", running.migration)
    until(again, lambda state: state.phase == "full")
    ask(again.socket, {"do": "limit", "rate": 0})
    assert until(again, lambda state: state.over).exit_code == 0
    assert process.wait(60) == 0


def test_a_cancelled_job_leaves_nothing_behind(start, tmp_path):
    job, process = start("--bwlimit", "200k")
    until(job, lambda state: state.phase == "full" and state.done)
    assert list(tmp_path.glob("images/migrations/*/*.partial"))
    ask(job.socket, {"do": "stop", "discard": True})
    until(job, lambda state: state.over)
    process.wait(60)
    assert not list(tmp_path.glob("images/migrations/*/*.partial"))


def test_a_killed_job_is_known_to_be_dead(start):
    job, process = start("--bwlimit", "200k")
    running = until(job, lambda state: state.phase == "full" and state.done)
    assert job.alive()
    process.kill()
    process.wait()
    state = job.state()
    assert not job.alive() and state is not None and not state.over
    with pytest.raises(NoSuchMigrationError):
        find_job(running.migration)


def test_a_failure_is_kept_with_its_way_out(start):
    job, process = start("--exclude", "disk.img:7")
    state = until(job, lambda state: state.over)
    assert process.wait(60) == state.exit_code == 2
    assert state.failure is not None and "no partition 'disk.img:7'" in state.failure.message


def test_two_processes_cannot_carry_out_one_job(jobs):
    job = make_job("web01")
    with job.running(), pytest.raises(MigrationBusyError), job.running():
        pass


def test_old_jobs_are_swept_away_and_running_ones_are_not(jobs):
    running = make_job("running")
    with running.running():
        for number in range(30):
            os.utime(make_job(f"old {number}").path, (number, number))
        make_job("new")
        assert running in list_jobs() and len(list_jobs()) < 25


def test_a_folder_that_is_too_deep_for_a_socket_address_serves(tmp_path):
    deep = tmp_path / ("x" * 100) / ("y" * 100)
    deep.mkdir(parents=True)
    controls = Controls()
    with serving(deep / "control", controls):
        ask(deep / "control", {"do": "cutover"})
        assert controls.cutover.is_set()
    with pytest.raises(OSError, match="No such file"):
        ask(deep / "control", {"do": "cutover"})


@pytest.mark.parametrize(
    "request_",
    [{}, [], "pause", {"do": 3}, {"do": "limit"}, {"do": "limit", "rate": -1},
     {"do": "limit", "rate": "1M"}, {"do": "limit", "rate": True}],
)  # fmt: skip
def test_what_is_no_request_is_refused(tmp_path, request_):
    with serving(tmp_path / "control", Controls()), pytest.raises(ValueError, match="no such"):
        ask(tmp_path / "control", request_)


def test_a_caller_that_sends_rubbish_and_leaves_does_no_harm(tmp_path):
    controls = Controls()
    with serving(tmp_path / "control", controls):
        for data in (b"", b"\xff\xfe\n", b"{" * 5000):
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(str(tmp_path / "control"))
                stream.sendall(data)
        ask(tmp_path / "control", {"do": "pause"})
    assert controls.limiter.paused


def test_a_state_survives_its_file(jobs):
    state = JobState("web01", "https://c:8443", 12, disks=(DiskState("sda", 10, 5, "#."),))
    job = make_job("web01")
    job.write(state)
    assert job.state() == state
    (job.path / "state.json").write_text(json.dumps({"name": 3}))
    assert job.state() is None
