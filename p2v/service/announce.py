# SPDX-License-Identifier: GPL-3.0-or-later
"""Announces the converter on the local network, so that wizards offer it (p2v.model.discovery)."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address

from zeroconf import Error as ZeroconfError
from zeroconf import ServiceInfo, Zeroconf

import p2v
from p2v.model.discovery import NAME_PREFIX, SERVICE, VERSION_KEY
from p2v.service.addresses import Address, local_addresses

log = logging.getLogger(__name__)


class Announcer:
    """Announces from `start` to `stop`; a network that has no multicast is no failure.

    A name that another converter has gets a number.
    """

    def __init__(self, host: str, port: int, interfaces: Sequence[str] = ()) -> None:
        """Announce what listens at `host` and `port`; by default on the interfaces of `host`."""
        self._addresses = announced(host)
        self._interfaces = tuple(interfaces) or tuple(map(str, self._addresses))
        self._port = port
        self._zeroconf: Zeroconf | None = None
        self._thread = threading.Thread(target=self._register, name="announce", daemon=True)

    def start(self) -> None:
        """Announce, in the background: to make sure that the name is free takes a second."""
        if self._addresses:
            self._thread.start()

    def stop(self) -> None:
        """Say goodbye to those who listen."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._zeroconf is not None:
            with contextlib.suppress(OSError, ZeroconfError):
                self._zeroconf.unregister_all_services()
            self._zeroconf.close()

    def _register(self) -> None:
        host = socket.gethostname().partition(".")[0] or "unnamed"
        info = ServiceInfo(
            SERVICE,
            f"{NAME_PREFIX}{host}.{SERVICE}",
            port=self._port,
            properties={VERSION_KEY: p2v.__version__},
            server=f"{host}-p2v.local.",  # not the host's own name: a resolver of its may hold that
            parsed_addresses=[str(address) for address in self._addresses],
        )
        try:
            self._zeroconf = Zeroconf(interfaces=list(self._interfaces))
            self._zeroconf.register_service(info, allow_name_change=True)
        except (OSError, ZeroconfError) as error:
            log.warning("wizards will not find this converter by themselves: %s", error)


def announced(host: str) -> list[Address]:
    """Return the addresses to announce for a listener bound to `host`; none for a loopback.

    A name is announced as the addresses that it stands for here.
    """
    here = [each for each in local_addresses() if not each.is_loopback and not each.is_link_local]
    try:
        address = ip_address(host)
    except ValueError:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        named = {str(each[4][0]) for each in found}
        return [each for each in here if str(each) in named]
    if not address.is_unspecified:
        return [each for each in here if each == address]
    return [each for each in here if each.version == 4 or address.version == 6]
