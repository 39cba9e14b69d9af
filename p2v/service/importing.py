# SPDX-License-Identifier: GPL-3.0-or-later
"""Streams come in: what an agent wrote to a disk for want of a network becomes a migration here.

Importing the same stream again is harmless: what is there already is not written again, and a
stream that was finished stays so.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path

from p2v.model.errors import MigrationStateError, P2VError, StoreError, UsageError, VerifyError
from p2v.model.migration import Migration, MigrationState
from p2v.service.applier import Applier
from p2v.service.migrations import Migrations
from p2v.wire.chunk import CHUNK_SIZE, DIGEST_SIZE, GROUP_CHUNKS, group_count
from p2v.wire.digestmap import expand_group
from p2v.wire.frame import Frame, Kind
from p2v.wire.stream import EVIDENCE_NAME, Stream

log = logging.getLogger(__name__)

OWNER = "import"
_MAX_EVIDENCE = 8 << 20


def start_import(migrations: Migrations, folder: Path) -> Migration:
    """Begin to import the stream in `folder`; return its migration, whose state tells more.

    It goes on in a thread of its own, until its end or until the migration's lease is ended.

    Raises:
        UsageError: there is no stream, or it is not complete.
        MigrationBusyError: it is being imported.
        MigrationStateError: its id belongs to another migration.
    """
    stream = Stream.open(folder)
    if not stream.complete:
        raise UsageError(
            problem=f"the stream in {folder} is not complete; "
            "go on with it on the machine that it comes from"
        )
    migration = migrations.create(stream.plan, OWNER, stream.id)
    if migration.state in (MigrationState.RECEIVING, MigrationState.PAUSED):
        work = _Import(migrations, stream)
        threading.Thread(target=work.run, name=f"import-{stream.id}").start()
    return migrations.get(stream.id)


class _Import:
    """One stream on its way in. It holds the migration's lease, as an agent's connection does."""

    def __init__(self, migrations: Migrations, stream: Stream) -> None:
        self._migrations = migrations
        self._stream = stream
        self._stop = threading.Event()
        self._hang_up = self._stop.set
        self._lease = migrations.lease(stream.id, OWNER)
        self._receiver = migrations.join(stream.id, self._lease, self._hang_up)

    def run(self) -> None:
        """Import to the end; what goes wrong is noted as the migration's problem."""
        migrations, stream = self._migrations, self._stream
        try:
            try:
                whole = self._apply()
            finally:
                migrations.leave(stream.id, self._lease, self._hang_up)
            if whole:
                self._keep_evidence()
                migrations.complete(stream.id, self._lease, stream.report)
        except (P2VError, OSError) as error:
            log.warning("import of %s: %s", stream.folder, error)
            with contextlib.suppress(StoreError):  # it shows all the same; this was logged
                migrations.paused(stream.id, error if isinstance(error, P2VError) else str(error))

    def _apply(self) -> bool:
        """Apply all frames; return False if it was stopped before their end."""
        applier = Applier(self._migrations, self._stream.id, self._receiver, self._stop)
        for frame, payload in self._stream.frames():
            if self._stop.is_set():
                return False
            applier.apply(frame, payload)
            applier.durable()
        applier.apply(Frame(Kind.FLUSH), b"")
        self._compare()
        return True

    def _compare(self) -> None:
        """Make sure that the images hold what the stream's own maps say.

        Raises:
            VerifyError: the medium has lost or changed something.
        """
        stream = self._stream
        with stream.maps() as maps:
            for disk, chart in enumerate(maps):
                for group in range(group_count(chart.size)):
                    said = expand_group(chart.group(group), group, chart.size)
                    got = expand_group(self._receiver.digests(disk, group), group, chart.size)
                    if said is None or said != got:
                        raise _difference(stream, disk, group, said, got)

    def _keep_evidence(self) -> None:
        path = self._stream.folder / EVIDENCE_NAME
        if path.is_file():
            with path.open("rb") as file:
                self._migrations.keep_evidence(self._stream.id, file.read(_MAX_EVIDENCE))


def _difference(
    stream: Stream, disk: int, group: int, said: bytes | None, got: bytes | None
) -> P2VError:
    if said is None:
        return MigrationStateError(
            id=stream.id, state="receiving", problem="the stream's digest map has gaps"
        )
    got = got or bytes(len(said))
    wrong = [
        at // DIGEST_SIZE
        for at in range(0, len(said), DIGEST_SIZE)
        if said[at : at + DIGEST_SIZE] != got[at : at + DIGEST_SIZE]
    ]
    first = (group * GROUP_CHUNKS + wrong[0]) * CHUNK_SIZE
    name = stream.plan.disks[disk].name
    return VerifyError(path=f"{stream.folder} ({name})", count=len(wrong), offset=first)
