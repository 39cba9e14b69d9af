# SPDX-License-Identifier: GPL-3.0-or-later
"""What an adapter offers.

To write one, make the module ``p2v.hosts.KIND`` with ``connect(connection) -> Adapter``, and add
its kind to `ConnectionKind`. `connect` raises `HostUnreachableError` where nothing answers; every
other failure of the host is a `HostError` with the host's own words. Nothing of an adapter is
shared by threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from p2v.hosts.connection import Connection
from p2v.hosts.sending import Sent, unheard
from p2v.hosts.undo import Undo
from p2v.model.host import HostFacts
from p2v.model.order import Order


class Adapter(Protocol):
    """A connection to a hypervisor that is open."""

    def facts(self) -> Sequence[HostFacts]:
        """Return its hosts as they are now.

        Raises:
            HostError: it does not say.
        """

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Make the order's virtual machine on `host`, switched off, and return its id there.

        One that was made before for the same migration is returned as it is; what is half made is
        made anew. `images` are local files in the format that scripts of the host's kind take.
        Each thing that is made goes to `undo` as soon as it is there; the caller runs it.
        `sent` hears of the bytes of images that the host took.

        Raises:
            HostError: the host refuses; what `undo` knows is still there.
        """

    def power_on(self, host: str, id_: str) -> None:
        """Start a virtual machine; one that runs is left alone.

        Raises:
            HostError: it does not start.
        """

    def remove(self, host: str, order: Order) -> None:
        """Switch off the order's virtual machine and delete it with its disks, if it is there.

        Raises:
            HostError: the host refuses.
        """

    def close(self) -> None:
        """Give the connection back."""


def connect(connection: Connection) -> Adapter:
    """Open the connection with the adapter of its kind.

    Raises:
        HostUnreachableError: nothing answers there, or not to these credentials.
        UsageError: the connection makes no sense.
    """
    adapter: Adapter = import_module(f"p2v.hosts.{connection.kind}").connect(connection)
    return adapter
