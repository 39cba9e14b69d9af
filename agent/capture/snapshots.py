# SPDX-License-Identifier: GPL-3.0-or-later
"""LVM snapshots for as long as a capture takes, removed afterwards whatever happens.

They carry a tag that names their capture. A process of its own removes what has the tag when the
agent is gone, however it went; should the machine go down with both, the next capture does.
Source: lvcreate(8), lvremove(8); dm-snapshot's status in Documentation/admin-guide/device-mapper.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from agent import tools
from agent.capture.volumes import Report, Wanted, read_report
from p2v.model.errors import SnapshotLostError, ToolError

log = logging.getLogger(__name__)

_TAG = "p2v_capture"
_OWNED = re.compile(rf"{_TAG}_(\d+)_(\d+)_[0-9a-f]+")
_TIMEOUT_S = 120.0
_ATTEMPTS = 20  # udev may be looking at a volume that is to go


class Snapshots:
    """Snapshots of volumes, by the volumes' paths (``vg/lv``)."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        """Make them, one after the other; LVM freezes each volume's file system for that.

        Raises:
            ToolError: LVM cannot; none is left then.
        """
        self._tag = f"{_TAG}_{os.getpid()}_{_started(os.getpid())}_{secrets.token_hex(4)}"
        self._names: dict[str, str] = {}
        self.spread_s = 0.0
        """How far apart in time the first and the last were made, at most."""
        self._reaper = _start_reaper(self._tag)
        try:
            begun = time.monotonic()
            for one in wanted:
                self._names[one.volume.path] = _create(one, self._tag)
            if len(wanted) > 1:
                self.spread_s = time.monotonic() - begun
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def device(self, volume: str) -> Path:
        """Return the device of a volume's snapshot."""
        return Path("/dev", volume.partition("/")[0], self._names[volume])

    def check(self, volume: str) -> None:
        """Make sure that a volume's snapshot still holds.

        Raises:
            SnapshotLostError: more was written to the volume than the snapshot has room for.
        """
        if not _valid(self.device(volume)):
            raise SnapshotLostError(volume=volume)

    def close(self) -> None:
        """Remove them."""
        try:
            remove_tagged(self._tag)
        finally:
            assert self._reaper.stdin is not None  # noqa: S101 - a pipe was asked for
            self._reaper.stdin.close()  # what could not be removed now it tries to
            self._reaper.wait()


def _create(wanted: Wanted, tag: str) -> str:
    volume = wanted.volume
    name = f"p2v_{secrets.token_hex(4)}"
    argv = ["lvcreate", "--yes", "--snapshot", "--permission", "r", "--addtag", tag]
    tools.run([*argv, "-l", str(wanted.extents), "-n", name, volume.path], _TIMEOUT_S)
    return name


def _valid(device: Path) -> bool:
    number = device.stat().st_rdev
    argv = ["dmsetup", "status", "-j", str(os.major(number)), "-m", str(os.minor(number))]
    status = tools.run(argv, _TIMEOUT_S).split()
    return len(status) > 3 and status[2] == b"snapshot" and b"/" in status[3]


def remove_tagged(tag: str) -> None:
    """Remove the snapshots that have the tag.

    Raises:
        ToolError: LVM cannot.
    """
    for attempt in range(_ATTEMPTS):
        names = [volume.path for volume in read_report().logicals if tag in volume.tags]
        if not names:
            return
        try:
            tools.run(["lvremove", "--force", *names], _TIMEOUT_S)
        except ToolError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.5)


def remove_abandoned() -> None:
    """Remove the snapshots of captures whose process is gone, with a reboot too."""
    report = read_report()
    for tag in abandoned(report):
        log.warning("removing the snapshots of a capture that was killed")
        remove_tagged(tag)


def abandoned(report: Report) -> set[str]:
    """Return the tags of captures that no longer run."""
    tags = {tag for volume in report.logicals for tag in volume.tags}
    return {tag for tag in tags if (found := _OWNED.fullmatch(tag)) and not _runs(*found.groups())}


def _runs(process: str, started: str) -> bool:
    return _started(int(process)) == started


def _started(process: int) -> str:
    """When a process was started, in ticks since the machine was; with its number it is unique.

    Empty if there is none. Source: proc(5), field 22 of stat.
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def _start_reaper(tag: str) -> subprocess.Popen[bytes]:
    """Start the process that removes what is tagged once its standard input ends."""
    return subprocess.Popen(
        [sys.executable, "-m", "agent.capture.snapshots", tag],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # whoever reads the agent's does not wait for this one
        env=tools.environment(),
        start_new_session=True,  # Ctrl-C is for the agent
    )


def reap(tag: str) -> None:
    """Wait until who holds the other end of standard input is gone, then remove what it made."""
    sys.stdin.buffer.read()
    remove_tagged(tag)


if __name__ == "__main__":
    reap(sys.argv[1])
