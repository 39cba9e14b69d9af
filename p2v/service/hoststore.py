# SPDX-License-Identifier: GPL-3.0-or-later
"""What the store knows of hosts: connections, their newest facts, and samples of their load."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import sqlalchemy as sa

from p2v.hosts.connection import Connection
from p2v.model.document import decode, encode
from p2v.model.host import HostFacts, HostLoad
from p2v.service.secretbox import SecretBox
from p2v.service.store import Store
from p2v.service.tables import host_facts, host_samples, hosts

AVERAGED_S = 24 * 3600.0
"""Samples older than this don't count, and are dropped."""


@dataclass(frozen=True, slots=True)
class KnownHost:
    """A host as it was last seen; its load is the average of `samples` measurements.

    `at` is when it was last seen, seconds since the epoch; `problem` why it was not seen since.
    """

    connection: str
    facts: HostFacts
    at: float
    samples: int
    problem: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Its connection and its name there: never another host's."""
        return self.connection, self.facts.name


class HostStore:
    """The hosts of one converter. Thread-safe."""

    def __init__(self, store: Store, box: SecretBox) -> None:
        self._store = store
        self._box = box

    def put(self, connection: Connection) -> None:
        """Add a connection, or replace the one of its name with all that is known through it."""
        document = cast(dict[str, Any], encode(replace(connection, secret="")))
        row = {
            "converter": self._store.converter,
            "name": connection.name,
            "connection": document,
            "secret": self._box.seal(connection.secret),
            "problem": "",
            "added": time.time(),
        }
        with self._store.change() as db:
            self._delete(db, connection.name)
            db.execute(hosts.insert().values(row))

    def remove(self, name: str) -> bool:
        """Forget a connection; return False if there is none of that name."""
        with self._store.change() as db:
            return self._delete(db, name)

    def connections(self) -> list[Connection]:
        """Return all connections with their secrets, by name."""
        query = sa.select(hosts).where(hosts.c.converter == self._store.converter)
        with self._store.query() as db:
            rows = db.execute(query.order_by(hosts.c.name)).mappings().all()
        return [self._connection(row) for row in rows]

    def seen(self, connection: str, found: Sequence[HostFacts]) -> None:
        """Keep the facts of the connection's hosts and add a sample of each.

        Of a host that does not answer, though its cluster does, the old facts stay.
        """
        now = time.time()
        with self._store.change() as db:
            query = sa.select(host_facts).where(*self._of(host_facts, connection))
            known = {row["host"]: row for row in db.execute(query).mappings().all()}
            db.execute(host_facts.delete().where(*self._of(host_facts, connection)))
            db.execute(
                host_samples.delete().where(
                    *self._of(host_samples, connection), host_samples.c.at < now - AVERAGED_S
                )
            )
            for facts in found:
                key = {
                    "converter": self._store.converter,
                    "connection": connection,
                    "host": facts.name,
                }
                old = known.get(facts.name)
                if facts.problem and old is not None:
                    kept = dict(old["facts"]) | {"problem": facts.problem}
                    db.execute(host_facts.insert().values(dict(old) | {"facts": kept}))
                    continue
                reset = old["reset"] if old is not None else 0.0
                row = key | {"at": now, "reset": reset, "facts": encode(facts)}
                db.execute(host_facts.insert().values(row))
                if not facts.problem:
                    sample = key | {"at": now} | cast(dict[str, Any], encode(facts.load))
                    db.execute(host_samples.insert().values(sample))
            self._problem(db, connection, "")

    def unseen(self, connection: str, problem: str) -> None:
        """Note that a connection gave no facts, and why."""
        with self._store.change() as db:
            self._problem(db, connection, problem)

    def reset(self, connection: str, host: str) -> None:
        """Average a host's load anew from now on: a machine was made on it or removed."""
        with self._store.change() as db:
            db.execute(
                sa.update(host_facts)
                .where(*self._of(host_facts, connection), host_facts.c.host == host)
                .values(reset=time.time())
            )

    def known(self) -> list[KnownHost]:
        """Return all hosts as they were last seen, by connection and name."""
        query = (
            sa.select(host_facts, hosts.c.problem)
            .join(
                hosts,
                (hosts.c.converter == host_facts.c.converter)
                & (hosts.c.name == host_facts.c.connection),
            )
            .where(host_facts.c.converter == self._store.converter)
            .order_by(host_facts.c.connection, host_facts.c.host)
        )
        with self._store.query() as db:
            return [self._known(db, row) for row in db.execute(query).mappings().all()]

    def problems(self) -> dict[str, str]:
        """Return why each connection that gave no facts last time did not."""
        query = sa.select(hosts.c.name, hosts.c.problem).where(
            hosts.c.converter == self._store.converter, hosts.c.problem != ""
        )
        with self._store.query() as db:
            return {row.name: row.problem for row in db.execute(query)}

    # --- inside

    def _known(self, db: sa.Connection, row: Mapping[Any, Any]) -> KnownHost:
        facts = decode(HostFacts, row["facts"], "host")
        table = host_samples
        since = max(row["reset"], time.time() - AVERAGED_S)
        query = sa.select(
            sa.func.count(),
            *(sa.func.avg(column) for column in (
                table.c.cpu_percent, table.c.memory_used, table.c.iops, table.c.network_bytes
            )),
        ).where(
            *self._of(table, row["connection"]), table.c.host == facts.name, table.c.at >= since
        )  # fmt: skip
        count, *averages = db.execute(query).one()
        if count:
            cpu, memory, iops, network = (float(value) for value in averages)
            facts = replace(facts, load=HostLoad(cpu, int(memory), iops, network))
        problem = row["problem"] or facts.problem
        return KnownHost(row["connection"], facts, row["at"], count, problem)

    def _of(self, table: sa.Table, connection: str) -> tuple[sa.ColumnElement[bool], ...]:
        mine = table.c.converter == self._store.converter
        return mine, table.c.connection == connection

    def _problem(self, db: sa.Connection, name: str, problem: str) -> None:
        db.execute(
            sa.update(hosts)
            .where(hosts.c.converter == self._store.converter, hosts.c.name == name)
            .values(problem=problem)
        )

    def _delete(self, db: sa.Connection, name: str) -> bool:
        for table in (host_facts, host_samples):
            db.execute(table.delete().where(*self._of(table, name)))
        statement = hosts.delete().where(
            hosts.c.converter == self._store.converter, hosts.c.name == name
        )
        return db.execute(statement).rowcount == 1

    def _connection(self, row: Mapping[Any, Any]) -> Connection:
        document = dict(row["connection"]) | {"secret": self._box.open(row["secret"])}
        options = document.pop("options")
        return replace(decode(Connection, document, "connection"), options=options)
