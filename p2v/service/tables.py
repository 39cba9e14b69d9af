# SPDX-License-Identifier: GPL-3.0-or-later
"""The store's tables, for SQLite and PostgreSQL alike."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

SCHEMA_VERSION = 1

metadata = MetaData()

about = Table(
    "p2v_about",
    metadata,
    Column("key", String(32), primary_key=True),
    Column("value", String(64), nullable=False),
)

migrations = Table(
    "p2v_migrations",
    metadata,
    Column("id", String(96), primary_key=True),
    Column("converter", String(32), nullable=False, index=True),
    Column("plan", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("problem", Text, nullable=False, default=""),
    Column("problem_code", String(64), nullable=False, default=""),
    Column("images", JSON, nullable=False),
    Column("report", JSON, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
)

tokens = Table(
    "p2v_tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("created", Float, nullable=False),
)

codes = Table(
    "p2v_codes",
    metadata,
    Column("name", String(8), primary_key=True),
    Column("converter", String(32), nullable=False),
    Column("secret", String(16), nullable=False),
    Column("expires", Float, nullable=False),
    Column("tries", Integer, nullable=False),
)

events = Table(
    "p2v_events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("migration", String(96), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Index("p2v_events_of", "migration", "number"),
)

hosts = Table(
    "p2v_hosts",
    metadata,
    Column("converter", String(32), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("connection", JSON, nullable=False),
    Column("secret", Text, nullable=False),
    Column("problem", Text, nullable=False, default=""),
    Column("added", Float, nullable=False),
)
"""Connections to hypervisors; `secret` is encrypted with a key that is not in the database."""

host_facts = Table(
    "p2v_host_facts",
    metadata,
    Column("converter", String(32), primary_key=True),
    Column("connection", String(64), primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("at", Float, nullable=False),
    Column("reset", Float, nullable=False, default=0.0),
    Column("facts", JSON, nullable=False),
)
"""The newest facts of each host; samples older than `reset` don't count."""

host_samples = Table(
    "p2v_host_samples",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("converter", String(32), nullable=False),
    Column("connection", String(64), nullable=False),
    Column("host", String(255), nullable=False),
    Column("at", Float, nullable=False),
    Column("cpu_percent", Float, nullable=False),
    Column("memory_used", Float, nullable=False),
    Column("iops", Float, nullable=False),
    Column("network_bytes", Float, nullable=False),
    Index("p2v_host_samples_of", "converter", "connection", "host", "at"),
)

deployments = Table(
    "p2v_deployments",
    metadata,
    Column("migration", String(96), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("vm", JSON, nullable=False),
    Column("host", String(255), nullable=False),
    Column("machine", String(255), nullable=False, default=""),
    Column("problem", Text, nullable=False, default=""),
    Column("undone", JSON, nullable=False),
    Column("updated", Float, nullable=False),
)
"""What became of each virtual machine that was to be made."""
