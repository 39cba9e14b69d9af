# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""What the converter knows, in SQLite or PostgreSQL: migrations, tokens, codes, events.

A call returns only when its change is durable. Changes of a migration's state are compare-and-set,
so that of two callers one wins and the other is told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from p2v.model.errors import MigrationStateError, NoSuchMigrationError, StoreError
from p2v.model.migration import Migration, MigrationState
from p2v.model.pairing import Code
from p2v.model.planfile import from_json, to_json
from p2v.service import tables

EVENTS_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a migration."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Token:
    """What is kept of a token: never the token itself."""

    id: str
    name: str
    created: float


def default_url(data: Path) -> str:
    """Return the URL of the store that needs no server."""
    return f"sqlite:///{data / 'p2v.sqlite'}"


class Store:
    """The tables of one converter. Thread-safe. `converter` tells those that share a database."""

    def __init__(self, url: str, converter: str = "local") -> None:
        """Open the store; make its tables if it is new.

        Raises:
            StoreError: the database can't be opened, or belongs to another version.
        """
        self.converter = converter
        try:
            self._engine = _engine(url)
            tables.metadata.create_all(self._engine)
            self._check_version()
        except (ArgumentError, DBAPIError, ImportError, OSError) as error:
            raise StoreError(problem=_reason(error)) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def ping(self) -> None:
        """Ask the database for an answer.

        Raises:
            StoreError: it gives none.
        """
        try:
            with self._engine.connect() as db:
                db.execute(sa.select(1))
        except DBAPIError as error:
            raise StoreError(problem=_reason(error)) from error

    def query(self) -> sa.Connection:
        """Return a connection to read from, to be used as a context."""
        return self._engine.connect()

    @contextmanager
    def change(self) -> Iterator[sa.Connection]:
        """Give a transaction that is durable after the block.

        Raises:
            StoreError: the database can't take it, for want of room, say.
        """
        try:
            with self._engine.begin() as db:
                yield db
        except IntegrityError:
            raise  # the caller knows what it means
        except DBAPIError as error:
            raise StoreError(problem=_reason(error)) from error

    # --- migrations

    def add(self, migration: Migration) -> None:
        """Add a migration.

        Raises:
            MigrationStateError: its id is taken.
        """
        row: dict[str, Any] = {
            "id": migration.id,
            "converter": self.converter,
            "plan": json.dumps(to_json(migration.plan)),
            "state": migration.state.value,
            "created": migration.created,
            "updated": migration.updated,
            "owner": migration.owner,
            "problem": "",
            "problem_code": "",
            "images": list(migration.images),
            "report": {},
            "attempt": 0,
        }
        try:
            with self.change() as db:
                db.execute(tables.migrations.insert().values(row))
                self._note(db, migration.id, migration.state.value, "created")
        except IntegrityError:
            raise MigrationStateError(
                id=migration.id, state="known already", problem="choose another id"
            ) from None

    def get(self, id: str) -> Migration:
        """Return a migration.

        Raises:
            NoSuchMigrationError: there is none of that id here.
        """
        found = self.find(id)
        if found is None:
            raise NoSuchMigrationError(id=id)
        return found

    def find(self, id: str) -> Migration | None:
        """Return a migration, None if there is none of that id here."""
        with self._engine.connect() as db:
            row = db.execute(self._mine(id)).mappings().one_or_none()
        return None if row is None else _migration(row)

    def attempt(self, id: str) -> int:
        """Return how many times the migration was handed over to be finished."""
        column = tables.migrations.c.attempt
        with self._engine.connect() as db:
            query = self._mine(id).with_only_columns(column)
            return int(db.execute(query).scalar_one_or_none() or 0)

    def migrations(
        self, states: Collection[MigrationState] = (), owner: str = ""
    ) -> list[Migration]:
        """Return the migrations, newest first; only those in `states` or of `owner` if given."""
        table = tables.migrations
        query = sa.select(table).where(table.c.converter == self.converter)
        if states:
            query = query.where(table.c.state.in_([state.value for state in states]))
        if owner:
            query = query.where(table.c.owner == owner)
        with self._engine.connect() as db:
            rows = db.execute(query.order_by(table.c.created.desc())).mappings().all()
        return [_migration(row) for row in rows]

    def count(self) -> dict[MigrationState, int]:
        """Return how many migrations are in each state."""
        table = tables.migrations
        query = (
            sa.select(table.c.state, sa.func.count())
            .where(table.c.converter == self.converter)
            .group_by(table.c.state)
        )
        with self._engine.connect() as db:
            found = {MigrationState(state): count for state, count in db.execute(query)}
        return {state: found.get(state, 0) for state in MigrationState}

    def hand_over(self, id: str, report: dict[str, Any]) -> int:
        """Take a migration that receives to `VERIFYING`; return the attempt's number, 0 if not."""
        column = tables.migrations.c.attempt
        sources = (MigrationState.RECEIVING, MigrationState.PAUSED)
        changes = {"report": report, "attempt": column + 1}
        if not self.move(id, sources, MigrationState.VERIFYING, **changes):
            return 0
        return self.attempt(id)

    def attempt_again(self, id: str) -> int:
        """Count one more hand-over of a migration that is finished; return its number."""
        table = tables.migrations
        mine = (table.c.id == id, table.c.converter == self.converter)
        with self.change() as db:
            db.execute(sa.update(table).where(*mine).values(attempt=table.c.attempt + 1))
        return self.attempt(id)

    def move(
        self,
        id: str,
        sources: Collection[MigrationState],
        target: MigrationState,
        **changes: Any,
    ) -> bool:
        """Take a migration from one of `sources` to `target`; return False if it is in none.

        `changes` are columns to set in the same transaction; `problem` is empty unless given.
        """
        table = tables.migrations
        values = {"problem": "", "problem_code": "", **changes}
        statement = (
            sa.update(table)
            .where(table.c.id == id, table.c.converter == self.converter)
            .where(table.c.state.in_([state.value for state in sources]))
            .values(state=target.value, updated=time.time(), **values)
        )
        with self.change() as db:
            moved = db.execute(statement).rowcount == 1
            if moved:
                self._note(db, id, target.value, values["problem"])
        return moved

    def events(self, id: str) -> list[Event]:
        """Return the last events of a migration, oldest first."""
        table = tables.events
        query = (
            sa.select(table.c.at, table.c.kind, table.c.text)
            .where(table.c.migration == id)
            .order_by(table.c.number.desc())
            .limit(EVENTS_SHOWN)
        )
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        return [Event(row.at, row.kind, row.text) for row in reversed(rows)]

    # --- tokens

    def add_token(self, token: Token, digest: str) -> None:
        """Add a token, known by the digest of its text."""
        with self.change() as db:
            db.execute(tables.tokens.insert().values(**asdict(token), hash=digest))

    def token(self, digest: str) -> Token | None:
        """Return the token with this digest, None if there is none."""
        with self._engine.connect() as db:
            row = db.execute(
                sa.select(tables.tokens).where(tables.tokens.c.hash == digest)
            ).one_or_none()
        return None if row is None else Token(row.id, row.name, row.created)

    def tokens(self) -> list[Token]:
        """Return all tokens, oldest first."""
        query = sa.select(tables.tokens).order_by(tables.tokens.c.created)
        with self._engine.connect() as db:
            rows = db.execute(query).all()
        return [Token(row.id, row.name, row.created) for row in rows]

    def remove_token(self, id: str) -> bool:
        """Remove a token; return False if there is none of that id."""
        with self.change() as db:
            statement = tables.tokens.delete().where(tables.tokens.c.id == id)
            return db.execute(statement).rowcount == 1

    # --- pairing codes

    def add_code(self, code: Code, expires: float, tries: int) -> bool:
        """Add a code and drop those that ran out; return False if its name is in use."""
        table = tables.codes
        try:
            with self.change() as db:
                db.execute(table.delete().where(table.c.expires <= time.time()))
                db.execute(
                    table.insert().values(
                        name=code.name,
                        converter=self.converter,
                        secret=code.secret,
                        expires=expires,
                        tries=tries,
                    )
                )
        except IntegrityError:
            return False
        return True

    def try_code(self, name: str) -> Code | None:
        """Take one try of a code and return it; None if it is unknown, used up or too old."""
        table = tables.codes
        statement = (
            sa.update(table)
            .where(table.c.name == name, table.c.converter == self.converter)
            .where(table.c.tries > 0, table.c.expires > time.time())
            .values(tries=table.c.tries - 1)
            .returning(table.c.secret)
        )
        with self.change() as db:
            secret = db.execute(statement).scalar_one_or_none()
        return None if secret is None else Code(name, secret)

    def use_code(self, name: str) -> bool:
        """Remove a code that was used; return False if it was used before."""
        table = tables.codes
        with self.change() as db:
            statement = table.delete().where(
                table.c.name == name,
                table.c.converter == self.converter,
                table.c.expires > time.time(),
            )
            return db.execute(statement).rowcount == 1

    # --- inside

    def _mine(self, id: str) -> sa.Select[Any]:
        table = tables.migrations
        return sa.select(table).where(table.c.id == id, table.c.converter == self.converter)

    def _note(self, db: sa.Connection, id: str, kind: str, text: str) -> None:
        row = {"migration": id, "at": time.time(), "kind": kind, "text": text}
        db.execute(tables.events.insert().values(row))

    def _check_version(self) -> None:
        table = tables.about
        wanted = str(tables.SCHEMA_VERSION)
        with self.change() as db:
            query = sa.select(table.c.value).where(table.c.key == "schema")
            found = db.execute(query).scalar_one_or_none()
            if found is None:
                db.execute(table.insert().values(key="schema", value=wanted))
        if found not in (None, wanted):
            raise StoreError(problem=f"its schema is version {found}, this p2v needs {wanted}")


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).touch(mode=0o600)  # it holds the secrets of pairing codes
    engine = sa.create_engine(parsed, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def durable(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def _migration(row: sa.RowMapping) -> Migration:
    return Migration(
        id=row["id"],
        plan=from_json(json.loads(row["plan"])),
        state=MigrationState(row["state"]),
        created=row["created"],
        updated=row["updated"],
        owner=row["owner"],
        problem=row["problem"],
        problem_code=row["problem_code"],
        images=tuple(row["images"]),
        report=row["report"],
    )


def _reason(error: Exception) -> str:
    """Return the first line of what a database said, without the statement."""
    original = getattr(error, "orig", None) or error
    return (str(original).strip() or type(original).__name__).splitlines()[0]
