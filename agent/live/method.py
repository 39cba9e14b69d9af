# SPDX-License-Identifier: GPL-3.0-or-later
"""Which way the disks of a running machine are captured, and why.

A tracker first (agent.capture.tracker chooses among its kinds): it gives all disks at one instant.
Where the kernel has none, LVM snapshots, if they can stand for the disks. Comparing digests alone
is no third way: its last comparison would read all of the disks while they are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from agent.capture.lvm import open_snapshots
from agent.captured import Captured, Opened
from agent.live.capture import LiveSettings, open_live
from p2v.model.errors import NotLiveError
from p2v.model.plan import Capture, Plan

_ORDER: Mapping[Capture, Sequence[Capture]] = {
    Capture.AUTO: (Capture.TRACKER, Capture.LVM),
    Capture.TRACKER: (Capture.TRACKER,),
    Capture.LVM: (Capture.LVM,),
}
_NAMES = {Capture.TRACKER: "change tracker", Capture.LVM: "LVM snapshots"}


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
        Capture.LVM: lambda: open_snapshots(plan, refused),
    }
    with ExitStack() as stack:
        captured = None
        for way in _ORDER[plan.capture]:
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
