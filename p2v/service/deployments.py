# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the virtual machines that were to be made, in the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from p2v.model.document import decode, encode
from p2v.model.vm import VmSettings
from p2v.service.store import Store
from p2v.service.tables import deployments, events


class DeploymentState(StrEnum):
    """Where the making of a virtual machine stands. The last three are final."""

    WANTED = "wanted"
    MAKING = "making"
    MADE = "made"
    FAILED = "failed"
    REMOVED = "removed"
    """It was made, and taken away again."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A virtual machine that is, was or could not be made of a migration's images.

    Attributes:
        host: empty until one is chosen.
        machine: its id there.
        problem: why it failed, in a sentence.
        undone: what was taken back then.
    """

    migration: str
    state: DeploymentState
    vm: VmSettings
    host: str = ""
    machine: str = ""
    problem: str = ""
    undone: tuple[str, ...] = ()
    updated: float = 0.0


class DeploymentStore:
    """The deployments of one converter. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, migration: str) -> Deployment | None:
        """Return the last deployment of a migration, None if there is none."""
        query = sa.select(deployments).where(deployments.c.migration == migration)
        with self._store.query() as db:
            row = db.execute(query).mappings().one_or_none()
        if row is None:
            return None
        document = dict(row) | {"undone": list(row["undone"])}
        return decode(Deployment, document, "deployment")

    def want(self, migration: str, vm: VmSettings) -> None:
        """Note that a machine is to be made; what became of an earlier one is forgotten."""
        row = encode(Deployment(migration, DeploymentState.WANTED, vm, updated=time.time()))
        with self._store.change() as db:
            db.execute(deployments.delete().where(deployments.c.migration == migration))
            db.execute(deployments.insert().values(row))

    def note(self, migration: str, state: DeploymentState, text: str, **changes: Any) -> None:
        """Change a deployment, and tell of it among the migration's events."""
        now = time.time()
        with self._store.change() as db:
            db.execute(
                sa.update(deployments)
                .where(deployments.c.migration == migration)
                .values(state=state.value, updated=now, **changes)
            )
            row = {"migration": migration, "at": now, "kind": f"machine-{state}", "text": text}
            db.execute(events.insert().values(row))

    def failed(self, migration: str, problem: str, undone: Sequence[str]) -> None:
        """Note that no machine was made, why, and what was taken back."""
        text = f"{problem} Taken back: {', '.join(undone) or 'nothing was there'}."
        self.note(migration, DeploymentState.FAILED, text, problem=problem, undone=list(undone))
