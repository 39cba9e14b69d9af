# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that a file describes: to plan before there is a connection, or where there never is one.

The file is TOML: ``[[hosts]]`` tables with the keys of `HostFacts` (docs/hosts.md).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2v.hosts.connection import Connection
from p2v.hosts.sending import Sent, unheard
from p2v.hosts.undo import Undo
from p2v.model.document import decode
from p2v.model.errors import HostError, UsageError, reason
from p2v.model.host import HostFacts
from p2v.model.order import Order


@dataclass(frozen=True, slots=True)
class _File:
    hosts: tuple[HostFacts, ...] = ()


def read_hosts(path: Path) -> tuple[HostFacts, ...]:
    """Return the hosts in the file `path`.

    Raises:
        UsageError: it can't be read, is no TOML, or has keys that make no sense.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(problem=f"the hosts in {path} can't be read: {reason(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(problem=f"{path} is not TOML: {error}") from None
    return decode(_File, document, str(path)).hosts


class StaticHosts:
    """The hosts of a file; nothing can be made on them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        read_hosts(path)

    def facts(self) -> Sequence[HostFacts]:
        """Return what the file says now."""
        return read_hosts(self._path)

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Refuse.

        Raises:
            HostError: always.
        """
        raise self._refusal(host)

    def power_on(self, host: str, id_: str) -> None:
        """Refuse.

        Raises:
            HostError: always.
        """
        raise self._refusal(host)

    def remove(self, host: str, order: Order) -> None:
        """Refuse.

        Raises:
            HostError: always.
        """
        raise self._refusal(host)

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _refusal(self, host: str) -> HostError:
        problem = f"it is known from {self._path} only; run what 'p2v script' prints there"
        return HostError(host=host, problem=problem)


def connect(connection: Connection) -> StaticHosts:
    """Return the hosts of the file that the connection's address names.

    Raises:
        UsageError: the file does not describe hosts.
    """
    connection.check_options(set())
    return StaticHosts(Path(connection.address))
