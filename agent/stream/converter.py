# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent asks of a converter, wherever that is: over TLS, or in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from p2v.model.migration import Migration
from p2v.model.plan import Plan
from p2v.wire.codec import Buffer
from p2v.wire.frame import Frame


class ConnectionLostError(OSError):
    """A data connection broke; what it had not acknowledged has to be sent again."""


class Connection(Protocol):
    """A data connection. Used by one thread."""

    def send(self, frames: Sequence[tuple[Frame, Buffer]]) -> None:
        """Send frames with their payloads.

        Raises:
            ConnectionLostError: it broke; a new one may be opened.
            P2VError: the converter ended the session for this reason.
        """

    def durable(self) -> int:
        """Return the sequence number up to which all is durable, as far as was heard yet."""

    def flush(self, sequence: int) -> None:
        """Send a FLUSH with this sequence number and wait until it is acknowledged."""

    def close(self) -> None:
        """Close it, whatever state it is in."""


class Connects(Protocol):
    """What opens data connections. Thread-safe."""

    def connect(self, id: str, lane: str = "") -> Connection:  # noqa: A002
        """Open one for the migration `id`, in place of the one that this `lane` had before."""


class Converter(Connects, Protocol):
    """A converter, as the agent sees it. Thread-safe."""

    address: str
    """Where it is, for messages."""

    def create(self, plan: Plan, id: str = "") -> Migration:  # noqa: A002
        """Start a migration, under an id of one's own if one is given; it may be repeated then."""

    def get(self, id: str) -> Migration:  # noqa: A002
        """Return a migration as it stands."""

    def lease(self, id: str) -> None:  # noqa: A002
        """Take or keep the right to send it; raises MigrationBusyError if another agent has it."""

    def heartbeat(self, id: str) -> None:  # noqa: A002
        """Keep the lease while no data connection does."""

    def digests(self, id: str, disk: int, group: int) -> bytes:  # noqa: A002
        """Return a group of a disk's digest map (p2v.wire.digestmap)."""

    def complete(self, id: str, report: dict[str, Any]) -> None:  # noqa: A002
        """Say that everything was sent; the converter verifies and commits.

        Repeating it is harmless, and makes a converter go on that was cut off in between.
        """

    def keep_evidence(self, id: str, bundle: bytes) -> None:  # noqa: A002
        """Keep an evidence bundle (tar.gz) with the migration, instead of an earlier one."""

    def cancel(self, id: str) -> None:  # noqa: A002
        """End it for good; its unfinished images are deleted."""

    def close(self) -> None:
        """Give the lease back and close."""
