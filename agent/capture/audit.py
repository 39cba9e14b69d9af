# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's own account of a disk against what the tracker saw of it.

The kernel adds up the sectors that a disk has written and discarded, right after the completion
hook. Whatever it counts and the tracker does not was missed. Source:
Documentation/block/stat.rst, blk_account_io_completion in block/blk-mq.c.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.capture.leaves import SYSFS, Carrier, Leaf

_WRITTEN, _DISCARDED = 6, 13  # fields of the stat file; the second since Linux 4.18
_SAMPLES = 64


def audit(leaf: Leaf, seen: Callable[[], int], sysfs: Path = SYSFS) -> Audit | None:
    """Begin to compare, None where there is nothing to compare with."""
    return Audit(sysfs / "block" / leaf.name / "stat", seen) if audits(leaf, sysfs) else None


def account(stat: Path) -> int:
    """Return the sectors of 512 bytes that the disk has written and discarded since it came."""
    fields = stat.read_text().split()
    return sum(int(fields[at]) for at in (_WRITTEN, _DISCARDED) if at < len(fields))


def audits(leaf: Leaf, sysfs: Path = SYSFS) -> bool:
    """Whether the kernel keeps an account of the leaf: not of NVMe paths, nor without iostats."""
    folder = sysfs / "block" / leaf.name
    try:
        kept = (folder / "queue/iostats").read_text().strip() != "0"
        account(folder / "stat")
    except (OSError, IndexError):
        return False
    return kept and leaf.carrier is Carrier.REQUESTS


class Audit:
    """Compares the kernel's account of a disk with `seen`, the sectors that the tracker saw.

    Both go on growing while they are read, so that the difference is known to be at least so much.
    It is exact while nothing is written, as after a freeze.
    """

    def __init__(self, stat: Path, seen: Callable[[], int]) -> None:
        self._stat = stat
        self._seen = seen
        # A request is seen a moment before it is accounted, so that no lower bound exceeds the
        # difference there is. One that falls short of it costs a comparison, and hides nothing.
        self._start = max(self._lowest() for _ in range(_SAMPLES))
        self._missed = 0

    def missed(self) -> int:
        """Return how many sectors the tracker has missed at least; it only grows.

        On a busy disk a later reading shows less than an earlier one, which was right all the same.
        """
        self._missed = max(self._missed, self._lowest() - self._start)
        return self._missed

    def _lowest(self) -> int:
        """Return a lower bound of what is accounted and not seen; exact if nothing is written."""
        accounted = account(self._stat)
        return accounted - self._seen()
