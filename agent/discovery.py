# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds converters on the local network (p2v.model.discovery). What it hears is hearsay."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zeroconf import Error as ZeroconfError
from zeroconf import (
    InterfaceChoice,
    ServiceBrowser,
    ServiceInfo,
    ServiceListener,
    Zeroconf,
)

from agent.stream.remote import Address
from p2v.model.discovery import NAME_PREFIX, SERVICE

MAX_FOUND = 32
_ANSWER_MS = 3000


@dataclass(frozen=True, slots=True)
class Found:
    """A converter that announces itself: where, and what it calls its computer."""

    address: Address
    name: str


class Discovery(ServiceListener):
    """Listens until `close`; tells `heard` of each converter, in a thread of its own.

    A network without multicast is silent, which is no failure.
    """

    def __init__(self, heard: Callable[[Found], None], interfaces: Sequence[str] = ()) -> None:
        """Listen on all interfaces, or those with these addresses."""
        self._heard = heard
        self._seen: set[Found] = set()
        self._zeroconf: Zeroconf | None = None
        self.closed = threading.Event()
        try:
            self._zeroconf = Zeroconf(interfaces=list(interfaces) or InterfaceChoice.All)
            self._browser = ServiceBrowser(self._zeroconf, SERVICE, listener=self)
        except (OSError, ZeroconfError):
            self.close()

    def close(self) -> None:
        """Listen no more."""
        self.closed.set()
        if self._zeroconf is not None:
            self._zeroconf.close()
            self._zeroconf = None

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Hear of a converter."""
        if (info := zc.get_service_info(type_, name, _ANSWER_MS)) is None:
            return
        found = parse(info)
        if found is not None and found not in self._seen and len(self._seen) < MAX_FOUND:
            self._seen.add(found)
            self._heard(found)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Hear that a converter has another address."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Pass over that one goes: to ask it costs nothing."""


def parse(info: ServiceInfo) -> Found | None:
    """Return what an announcement says; None where it gives no address."""
    addresses = info.parsed_addresses()
    if not addresses or not info.port:
        return None
    name = info.name.removesuffix(f".{SERVICE}").removeprefix(NAME_PREFIX)
    best = next((each for each in addresses if ":" not in each), addresses[0])
    return Found(Address(best, info.port), name[:64])
