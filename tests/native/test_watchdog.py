# SPDX-License-Identifier: GPL-3.0-or-later
"""The watchdog over real file systems that are frozen, and agents that are killed meanwhile."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from native._freeze import Watchdog, lock_memory, unlock_memory

pytestmark = pytest.mark.root
locking = pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer locks no memory"
)
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878

FREEZER = """
import fcntl, os, sys, time
from native._freeze import Watchdog, lock_memory
points, limit, commands = sys.argv[1].split(":"), float(sys.argv[2]), sys.argv[3:]
fds = [os.open(point, os.O_RDONLY) for point in points]
dog = Watchdog(fds, limit, commands)
lock_memory()
dog.begin()
dog.command(len(commands))
for index, fd in enumerate(fds):
    dog.note(index, True)
    fcntl.ioctl(fd, 0xC0045877, 0)
print(dog.pid, flush=True)
time.sleep(600)
"""


def sh(*argv: object) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
    return done.stdout.decode().strip()


@contextmanager
def ext4(folder: Path, name: str) -> Iterator[Path]:
    image, point = folder / f"{name}.img", folder / name
    with image.open("wb") as file:
        file.truncate(16 << 20)
    sh("mkfs.ext4", "-q", image)
    point.mkdir()
    loop = sh("losetup", "--find", "--show", image)
    try:
        sh("mount", loop, point)
        try:
            yield point
        finally:
            thaw(point)
            sh("umount", point)
    finally:
        sh("losetup", "-d", loop)


@pytest.fixture
def points(tmp_path) -> Iterator[list[Path]]:
    with ext4(tmp_path, "one") as one, ext4(tmp_path, "two") as two:
        yield [one, two]


def ioctl(point: Path, request: int) -> int:
    fd = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, request, 0)
    except OSError as error:
        return int(error.errno or 0)
    finally:
        os.close(fd)
    return 0


def thaw(point: Path) -> None:
    assert ioctl(point, FITHAW) in (0, errno.EINVAL)


def frozen(point: Path) -> bool:
    if (found := ioctl(point, FIFREEZE)) == errno.EBUSY:
        return True
    assert found == 0
    thaw(point)
    return False


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextmanager
def freezer(points: list[Path], limit: float = 60, *commands: Path) -> Iterator[tuple]:
    """A process that freezes the file systems and sleeps; and its watchdog's number.

    At the end both are gone: the watchdog, which outlives the process for a moment, holds the
    file systems open.
    """
    words = [":".join(map(str, points)), str(limit), *map(str, commands)]
    process = subprocess.Popen([sys.executable, "-c", FREEZER, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    dog = int(process.stdout.readline())
    try:
        yield process, dog
    finally:
        process.kill()
        process.communicate()
        wait_for(lambda: gone(dog))


def gone(pid: int) -> bool:
    return not Path("/proc", str(pid)).exists()


def test_a_killed_process_leaves_nothing_frozen(points):
    with freezer(points) as (process, dog):
        assert all(frozen(point) for point in points)
        process.kill()
        wait_for(lambda: not any(frozen(point) for point in points))
        wait_for(lambda: gone(dog))


def test_a_stopped_process_loses_the_freeze_at_the_limit(points):
    with freezer(points, 0.5) as (process, _):
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: not any(frozen(point) for point in points))


def test_no_signal_that_can_be_caught_ends_it(points):
    with freezer(points) as (process, dog):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            os.kill(dog, number)
        time.sleep(0.2)
        process.kill()
        wait_for(lambda: not any(frozen(point) for point in points))


@locking
def test_it_is_small_locked_and_holds_nothing_of_the_process(points):
    with freezer(points) as (_, dog):
        status = Path(f"/proc/{dog}/status").read_text()
        locked = next(line for line in status.splitlines() if line.startswith("VmLck:"))
        assert int(locked.split()[1]) > 0
        assert len(list(Path(f"/proc/{dog}/fd").iterdir())) == len(points) + 1
        assert os.getsid(dog) == dog


def test_its_commands_run_only_when_the_process_died(points, tmp_path):
    command, said = tmp_path / "hook", tmp_path / "said"
    command.write_text(f'#!/bin/sh\necho "$1" >> {said}\n')
    command.chmod(0o700)
    fds = [os.open(point, os.O_RDONLY) for point in points]
    dog = Watchdog(fds, 60, [command])
    dog.end(done=True)
    for fd in fds:
        os.close(fd)
    assert not said.exists()
    with freezer(points, 60, command) as (process, dog_pid):
        process.kill()
        wait_for(lambda: gone(dog_pid))
    assert said.read_text() == "thaw\n"
    assert not any(frozen(point) for point in points)


def test_of_its_commands_the_last_that_were_begun_run_in_their_order(tmp_path):
    said = tmp_path / "said"
    commands = [tmp_path / name for name in ("one", "two", "three")]
    for command in commands:
        command.write_text(f'#!/bin/sh\necho "{command.name} $1" >> {said}\n')
        command.chmod(0o700)
    dog = Watchdog([], 60, commands)
    dog.command(2)
    dog.end(done=False)
    assert said.read_text().splitlines() == ["two thaw", "three thaw"]


def test_a_command_that_still_runs_is_ended_first_with_all_that_it_started(tmp_path):
    running = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    dog = Watchdog([], 60, [tmp_path / "thaws"])
    dog.command(1, running.pid)
    dog.end(done=False)
    assert running.wait(10) == -signal.SIGKILL


def test_what_was_not_noted_is_not_thawed(points):
    fds = [os.open(point, os.O_RDONLY) for point in points]
    dog = Watchdog(fds, 60)
    dog.begin()
    dog.note(0, True)
    for fd in fds:
        fcntl.ioctl(fd, FIFREEZE, 0)
    dog.end(done=False)
    for fd in fds:
        os.close(fd)
    assert [frozen(point) for point in points] == [False, True]


def test_the_limit_is_told_before_it_thaws(points):
    fd = os.open(points[0], os.O_RDONLY)
    dog = Watchdog([fd], 0.2)
    assert not dog.expired
    dog.begin()
    dog.note(0, True)
    fcntl.ioctl(fd, FIFREEZE, 0)
    wait_for(lambda: not frozen(points[0]))
    assert dog.expired
    dog.end(done=True)
    os.close(fd)


def test_it_is_misused_in_words(points):
    with pytest.raises(ValueError, match="at most 256"):
        Watchdog(list(range(257)), 1)
    dog = Watchdog([], 1)
    with pytest.raises(IndexError):
        dog.note(0, True)
    dog.end(done=True)
    with pytest.raises(ValueError, match="has ended"):
        dog.begin()


@locking
def test_memory_is_locked_and_unlocked():
    def locked() -> int:
        text = Path("/proc/self/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmLck:")).split()[1])

    lock_memory()
    assert locked() > 0
    unlock_memory()
    assert locked() == 0
