# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses at which this computer can be reached."""

from __future__ import annotations

import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from p2v.model.errors import UsageError

Address = IPv4Address | IPv6Address

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_IFREQ = struct.Struct("16s24x")
_IF_INET6 = Path("/proc/net/if_inet6")


def _ipv4() -> list[Address]:
    found: list[Address] = []
    try:
        interfaces = socket.if_nameindex()
    except OSError:  # a sandbox without AF_NETLINK
        return found
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in interfaces:
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, _IFREQ.pack(name.encode()))
            except OSError:
                continue  # the interface has no IPv4 address
            found.append(IPv4Address(answer[20:24]))
    return found


def _ipv6() -> list[Address]:
    if not _IF_INET6.exists():
        return []
    lines = _IF_INET6.read_text(encoding="ascii").splitlines()
    return [IPv6Address(bytes.fromhex(line.split()[0])) for line in lines]


def local_addresses() -> list[Address]:
    """Return this computer's addresses, those that others can use first."""
    unique = dict.fromkeys(_ipv4() + _ipv6())
    return sorted(unique, key=lambda address: (address.is_loopback, address.is_link_local))


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``0.0.0.0:8443``, ``[::]:8443``, ``name:8443`` or ``:8443``.

    Raises:
        UsageError: it is no address with a port.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(problem=f"'{text}' is no address to listen on; write it like 0.0.0.0:8443")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # noqa: S104 - asked for


def _reachable(host: str) -> str:
    """Return an address that others can use for a listener bound to `host`."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    usable = [found for found in local_addresses() if not found.is_link_local]
    if address.version == 4:
        usable = [found for found in usable if found.version == 4]
    return str(usable[0]) if usable else socket.gethostname()


def server_url(host: str, port: int) -> str:
    """Return the URL that an agent uses to reach a listener on `host` and `port`."""
    name = _reachable(host)
    return f"https://[{name}]:{port}" if ":" in name else f"https://{name}:{port}"
