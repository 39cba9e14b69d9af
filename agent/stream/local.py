# SPDX-License-Identifier: GPL-3.0-or-later
"""A converter in the agent's own process, for `--to DIR`: one machine, no set-up, no network.

The folder is laid out like a converter's data folder, so `p2v serve --data DIR` can take it over.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.stream.converter import Connection
from p2v.images.durable import check_writable
from p2v.model.errors import UsageError
from p2v.model.migration import Migration
from p2v.model.plan import Plan
from p2v.service.applier import Applier
from p2v.service.auth import EMBEDDED
from p2v.service.engine import InlineEngine
from p2v.service.folderlock import FolderLock
from p2v.service.migrations import Migrations
from p2v.service.store import Store
from p2v.wire.codec import Buffer
from p2v.wire.frame import Frame, Kind


class LocalConverter:
    """The embedded converter. One process uses a folder at a time."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(problem=f"{folder} is no folder; make it first, on a disk with room")
        check_writable(folder)
        self.address = str(folder)
        self._lock = FolderLock(folder)
        self._store = Store(f"sqlite:///{folder / 'p2v.sqlite'}")
        self._migrations = Migrations(folder, self._store, InlineEngine())
        self._leases: dict[str, str] = {}
        self._stop = threading.Event()

    def create(self, plan: Plan, id: str = "") -> Migration:  # noqa: A002
        """Start a migration, under an id of one's own if one is given; it may be repeated then."""
        return self._migrations.create(plan, EMBEDDED.name, id or None)

    def get(self, id: str) -> Migration:  # noqa: A002
        """Return a migration as it stands."""
        return self._migrations.get(id)

    def lease(self, id: str) -> None:  # noqa: A002
        """Take the right to send a migration."""
        self._leases[id] = self._migrations.lease(id, f"pid {os.getpid()}")

    def heartbeat(self, id: str) -> None:  # noqa: A002
        """Keep the lease while no connection does."""
        self._migrations.heartbeat(id, self._leases[id])

    def digests(self, id: str, disk: int, group: int) -> bytes:  # noqa: A002
        """Return a group of a disk's digest map."""
        return self._migrations.digests(id, disk, group)

    def connect(self, id: str, lane: str = "") -> Connection:  # noqa: A002
        """Open a connection, which is no more than a place in the lease."""
        return _LocalConnection(self._migrations, id, self._leases[id], self._stop)

    def complete(self, id: str, report: dict[str, Any]) -> None:  # noqa: A002
        """Verify and commit; returns when that is done."""
        self._migrations.complete(id, self._leases.get(id, ""), report)

    def cancel(self, id: str) -> None:  # noqa: A002
        """End a migration for good; its unfinished images are deleted."""
        self._migrations.cancel(id)

    def keep_evidence(self, id: str, bundle: bytes) -> None:  # noqa: A002
        """Keep an evidence bundle in the migration's folder."""
        self._migrations.keep_evidence(id, bundle)

    def close(self) -> None:
        """Make durable what was received and close everything."""
        self._stop.set()
        self._migrations.close()
        self._store.close()
        self._lock.close()


class _LocalConnection:
    def __init__(
        self, migrations: Migrations, migration: str, lease: str, stop: threading.Event
    ) -> None:
        self._migrations = migrations
        self._key = (migration, lease)
        receiver = migrations.join(migration, lease)
        self._applier = Applier(migrations, migration, receiver, stop)
        self._durable = 0

    def send(self, frames: Sequence[tuple[Frame, Buffer]]) -> None:
        for frame, payload in frames:
            self._applier.apply(frame, payload)

    def durable(self) -> int:
        self._durable = self._applier.durable() or self._durable
        return self._durable

    def flush(self, sequence: int) -> None:
        self._applier.apply(Frame(Kind.FLUSH, sequence=sequence), b"")

    def close(self) -> None:
        self._migrations.leave(*self._key)
