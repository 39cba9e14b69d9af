# SPDX-License-Identifier: GPL-3.0-or-later
"""The live image's own network: systemd-networkd's files, and the wait until it is there."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from agent import tools
from agent.appliance.settings import Settings
from p2v.model.errors import UnreachableError

FOLDER = Path("/run/systemd/network")
_POLL_S = 1.0


def network_files(settings: Settings) -> dict[str, str]:
    """Return the contents of networkd's files by name; none where DHCP everywhere is right.

    ``p2v.interface`` is a name or a MAC address. With ``p2v.vlan`` the address is on that VLAN.
    """
    if not settings.interface and settings.ip in ("", "dhcp") and not settings.vlan:
        return {}
    name = settings.interface
    match = (
        f"MACAddress={name}" if ":" in name else f"Name={name}" if name else "Type=ether\nKind=!*"
    )
    if not settings.vlan:
        return {"10-p2v.network": _network(match, _address_lines(settings.ip))}
    vlan = f"vlan{settings.vlan}"
    return {
        "10-p2v.network": _network(match, [f"VLAN={vlan}", "LinkLocalAddressing=no"]),
        "10-p2v-vlan.netdev": f"[NetDev]\nName={vlan}\nKind=vlan\n\n[VLAN]\nId={settings.vlan}\n",
        "10-p2v-vlan.network": _network(f"Name={vlan}", _address_lines(settings.ip)),
    }


def _network(match: str, lines: list[str]) -> str:
    body = "\n".join(lines)
    return f"[Match]\n{match}\n\n[Network]\n{body}\n"


def _address_lines(ip: str) -> list[str]:
    if ip in ("", "dhcp"):
        return ["DHCP=yes", "KeepConfiguration=yes"]
    own, *others = ip.split(",")
    return [f"Address={own}", *_others(others)]


def _others(addresses: list[str]) -> Iterator[str]:
    for number, address in enumerate(addresses):
        yield f"Gateway={address}" if number == 0 else f"DNS={address}"


def set_up(settings: Settings) -> None:
    """Set up the network as `settings` say, beyond DHCP on every wired interface.

    Raises:
        ToolError: networkd does not take it.
    """
    if network_files(settings):
        replace(settings)


def replace(settings: Settings) -> None:
    """Set up the network as `settings` say, instead of what was set up before.

    Raises:
        ToolError: networkd does not take it.
    """
    files = network_files(settings)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("10-p2v*"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text)
    for link in _vlans():
        if f"Name={link}\n" not in files.get("10-p2v-vlan.netdev", ""):
            tools.run(["ip", "link", "delete", link])
    tools.run(["networkctl", "reload"])


def _vlans() -> list[str]:
    """Return the VLANs that were set up here."""
    links = json.loads(tools.run(["ip", "-j", "link", "show", "type", "vlan"]) or b"[]")
    names = [str(link.get("ifname", "")) for link in links]
    return [name for name in names if re.fullmatch(r"vlan\d+", name)]


def wait_for(server: str, seconds: float) -> None:
    """Wait until the converter's port answers.

    Raises:
        UnreachableError: it did not within `seconds`.
    """
    from agent.stream.remote import Address  # late: it brings all of HTTP along

    address = Address.parse(server)
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address.host, address.port), 5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                problem = f"{error.strerror or error} for {seconds:g} s; 'ip address' on the shell"
                raise UnreachableError(server=server, problem=problem) from error
            time.sleep(_POLL_S)
        else:
            return
