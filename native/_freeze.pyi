# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps a freeze of file systems from outliving whoever made it."""

from collections.abc import Sequence
from pathlib import Path

def lock_memory() -> None:
    """Keep in memory what this process has there, and what it touches from now on in it.

    Raises:
        OSError: it may not.
    """

def unlock_memory() -> None:
    """Undo `lock_memory`."""

class Watchdog:
    """A process of its own that thaws file systems; locked in memory and deaf to signals.

    It thaws those that were noted when this process ends, in whatever way, or when `limit_s`
    seconds have passed since `begin`. In the former case it then runs those of `commands` that
    were begun with the word ``thaw``.
    """

    def __init__(
        self, fds: Sequence[int], limit_s: float, commands: Sequence[str | Path] = ()
    ) -> None:
        """Start it over open directories, one a file system; it is ready on return.

        Raises:
            OSError: it cannot be started.
            ValueError: more than 256 file systems.
        """

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def expired(self) -> bool:
        """Whether the limit has passed; true before the first file system is thawed for it."""

    def begin(self) -> None:
        """Say that the first freeze begins: the limit counts from now."""

    def note(self, index: int, frozen: bool) -> None:
        """Say that a file system is about to be frozen, or that it was not after all."""

    def command(self, begun: int, running: int = 0) -> None:
        """Say that the last `begun` commands may have to be thawed.

        `running` is the process group of the latest while it is at work: it is killed before.
        """

    def end(self, done: bool) -> None:
        """End it. Without `done` it thaws what is noted and runs the commands first."""
