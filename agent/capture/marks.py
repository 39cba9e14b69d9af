# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks that programs in the kernel set, and when not to trust them.

`CoreMarks` needs the kernel's types (BTF, Linux 5.5); `agent.capture.classic` does without.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Protocol

from agent.capture.audit import audit
from agent.capture.leaves import SYSFS, Leaf
from native._tracker import MIN_GRANULE, CoreTracker, device_key, has_atomic_or, nvme_key
from p2v.model.units import MiB

# Kernel memory, and mapped by the agent. 64 Mi granules in bits: 64 KiB each up to 4 TiB of disks,
# then coarser: 256 KiB, the chunk of a migration, for 16 TiB. In bytes: up to 2 TiB.
_BITS_BUDGET = 8 * MiB
_BYTES_BUDGET = 32 * MiB


class Alarm(Enum):
    """Why marks may be missing; the value is for people."""

    PASSTHROUGH = "a program wrote to it with commands of its own, past the block layer"
    UNPLACED = "an operation changed it that does not tell all the places"
    BEYOND = "something was written beyond the end that it had when tracking began"
    SKIPPED = "the kernel skipped the tracker's program while another one ran"
    UNACCOUNTED = "the kernel counts more written sectors than the tracker saw"


class Marks(Protocol):
    """Marks of the leaves given when it was made; closing it leaves nothing in the kernel.

    Attributes:
        granule: bytes that one mark stands for.
    """

    granule: int

    def collect(self, into: Sequence[bytearray]) -> None:
        """Move all marks into one bitmap a leaf, beside what is set there.

        A mark that is set meanwhile is found now or by the next call, never lost.
        """

    def peek(self, leaf: int, first: int, count: int) -> bytearray:
        """Return a bitmap of `count` granules from `first` on, of what `collect` would find."""

    def alarms(self, leaf: int) -> Mapping[Alarm, int]:
        """Return how often each alarm concerned the leaf; the counts only grow."""

    def close(self) -> None:
        """Stop marking."""


def granule_for(sizes: Sequence[int], budget: int) -> int:
    """Return the smallest granule in bytes of which `budget` can cover disks of these sizes."""
    granule = int(MIN_GRANULE)
    while sum(-(-size // granule) for size in sizes) > budget:
        granule *= 2
    return granule


def core_program() -> bytes:
    """Return the object file of the kernel's programs.

    Raises:
        FileNotFoundError: this installation was built without it.
    """
    try:
        return resources.files("native").joinpath("tracker.bpf.o").read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            errno.ENOENT, "p2v was built without clang, which makes them"
        ) from None


class CoreMarks:
    """Marks by programs with types: they see the operation itself and all its ranges.

    Raises:
        OSError: the kernel refuses the programs.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        *,
        program: bytes | None = None,
        bytewise: bool | None = None,
        sysfs: Path = SYSFS,
    ) -> None:
        if bytewise is None:
            bytewise = not has_atomic_or()
        sizes = [leaf.size for leaf in leaves]
        self.granule = granule_for(sizes, _BYTES_BUDGET if bytewise else _BITS_BUDGET * 8)
        self._tracker = CoreTracker(
            core_program() if program is None else program,
            [(_key(leaf), leaf.size) for leaf in leaves],
            self.granule,
            bytewise,
        )
        self._audits = [
            audit(leaf, partial(self._completed, index), sysfs) for index, leaf in enumerate(leaves)
        ]

    def collect(self, into: Sequence[bytearray]) -> None:
        """Move all marks into one bitmap a leaf."""
        for index, bits in enumerate(into):
            self._tracker.take(index, bits)

    def peek(self, leaf: int, first: int, count: int) -> bytearray:
        """Return a bitmap of `count` granules from `first` on."""
        return self._tracker.peek(leaf, first, count)

    def alarms(self, leaf: int) -> Mapping[Alarm, int]:
        """Return how often each alarm concerned the leaf."""
        _, passthrough, unplaced, beyond = self._tracker.counts(leaf)
        account = self._audits[leaf]
        return {
            Alarm.PASSTHROUGH: passthrough,
            Alarm.UNPLACED: unplaced,
            Alarm.BEYOND: beyond,
            Alarm.SKIPPED: 0 if account else self._tracker.lost(),
            Alarm.UNACCOUNTED: account.missed() if account else 0,
        }

    def close(self) -> None:
        """Stop marking."""
        self._tracker.close()

    def _completed(self, leaf: int) -> int:
        return self._tracker.counts(leaf)[0]


def _key(leaf: Leaf) -> int:
    if (numbers := leaf.nvme) is not None:
        return nvme_key(*numbers)
    return device_key(*leaf.number)
