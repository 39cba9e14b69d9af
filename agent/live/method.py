# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way the disks of a running machine are captured, and why.

A tracker first (agent.capture.tracker chooses among its kinds): it gives all disks at one instant.
Where the kernel has none, LVM snapshots, if they can stand for the disks. Comparing digests comes
last: it cannot end a capture, as its last comparison would read all of the disks while they are
frozen, but it prepares one that ends elsewhere (agent.live.scan).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from agent.capture.lvm import open_snapshots
from agent.captured import Captured, Opened
from agent.live.capture import open_live
from agent.live.cutover import When
from agent.live.hooks import Hooks
from agent.live.scan import open_scan
from agent.live.settings import LiveSettings
from p2v.model.errors import NotLiveError
from p2v.model.plan import Capture, Plan

_NAMES: Mapping[Capture, str] = {
    Capture.TRACKER: "change tracker",
    Capture.LVM: "LVM snapshots",
    Capture.SCAN: "comparisons",
}
"""In the order in which they are tried."""


def _open_lvm(plan: Plan, settings: LiveSettings, refused: Sequence[str]) -> Opened:
    if settings.cutover.when in (When.WAIT, When.AT):
        names = ", ".join(disk.name for disk in plan.disks)
        problem = "they are made when a capture begins, and cannot wait for a cut-over"
        raise NotLiveError(disk=names, problem=problem)
    return open_snapshots(plan, Hooks(settings.hooks), refused)


@contextmanager
def open_running(plan: Plan, settings: LiveSettings) -> Iterator[Captured]:
    """Open the disks of a plan, which are written to, in the best way that there is.

    Raises:
        NotLiveError: there is none; it says what is wrong with each.
        P2VError: a disk cannot be read, or is not what the plan says.
    """
    refused: list[str] = []
    ways: dict[Capture, Callable[[], Opened]] = {
        Capture.TRACKER: lambda: open_live(plan, settings),
        Capture.LVM: lambda: _open_lvm(plan, settings, refused),
        Capture.SCAN: lambda: open_scan(plan, settings, refused),
    }
    with ExitStack() as stack:
        captured = None
        for way in _NAMES if plan.capture is Capture.AUTO else [plan.capture]:
            try:
                captured = stack.enter_context(ways[way]())
            except NotLiveError as error:
                refused.append(f"{_NAMES[way]}: {error.fields['problem']}")
                continue
            break
        if captured is None:
            names = ", ".join(disk.name for disk in plan.disks)
            raise NotLiveError(disk=names, problem="; ".join(refused))
        yield captured
