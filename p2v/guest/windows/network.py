# SPDX-License-Identifier: GPL-3.0-or-later
"""Static addresses: taken from the old adapters, given to the VM's by their MAC at the first start.

The VM's adapters are new devices to Windows, with GUIDs that nobody knows beforehand, and the old
ones stay behind unseen, with their addresses and names. So the addresses leave the registry here,
and `p2v.guest.windows.firstboot` has a script set them again.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass

from p2v.guest.edit import Area, DeleteKey, Edit
from p2v.guest.target import Target
from p2v.guest.windows.facts import Interface, WindowsFacts
from p2v.guest.windows.hivefacts import NET_CLASS
from p2v.guest.windows.values import set_text
from p2v.model.machine import Problem, Severity

COLUMNS = ("mac", "name", "addresses", "gateways", "dns", "wins", "suffix")
_NOT_IN_NAMES = frozenset('\\/:*?"<>|')
_ASIDE = "before p2v"


@dataclass(frozen=True, slots=True)
class Carried:
    """An interface whose configuration the VM's adapter of that MAC gets."""

    interface: Interface
    mac: str


def carried(windows: WindowsFacts, target: Target) -> list[Carried]:
    """Return the interfaces whose adapter in the VM is known.

    The registry tells an adapter's MAC; a person may tell it too, by the connection's name.
    """
    told = {nic.name.casefold(): nic.mac.lower() for nic in target.nics}
    found = []
    for interface in windows.interfaces:
        mac = told.get(interface.name.casefold()) or interface.mac
        if mac and (not told or mac in told.values()):
            found.append(Carried(interface, mac))
    return found


def plan(windows: WindowsFacts, target: Target) -> Iterator[Edit | Problem]:
    """Yield the edits that clear the old adapters, and the addresses that can't be carried."""
    moved = [one.interface for one in carried(windows, target)]
    for interface in windows.interfaces:
        if interface not in moved:
            yield _lost(interface)
            continue
        for control_set in windows.control_sets:
            yield from _cleared(windows.hive, control_set.name, interface)


def table(interfaces: list[Carried]) -> str:
    """Return what the script reads: a line of CSV an adapter, lists separated by blanks."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for one in interfaces:
        interface = one.interface
        writer.writerow(
            (
                one.mac.upper(),
                _usable(interface.name),
                " ".join(f"{each.address}/{each.mask}" for each in interface.addresses),
                " ".join(interface.gateways),
                " ".join(interface.dns),
                " ".join(interface.wins),
                _usable(interface.suffix),
            )
        )
    return out.getvalue()


def described(interface: Interface) -> str:
    """Return an interface's configuration for people."""
    addresses = ", ".join(f"{one.address}/{one.mask}" for one in interface.addresses) or "DHCP"
    gateways = f", gateway {', '.join(interface.gateways)}" if interface.gateways else ""
    dns = f", DNS {', '.join(interface.dns)}" if interface.dns else ""
    return f"{interface.name or interface.key}: {addresses}{gateways}{dns}"


def _cleared(hive: str, control_set: str, interface: Interface) -> Iterator[Edit]:
    yield Edit(
        area=Area.NETWORK,
        what=f"take the addresses off the old {interface.name or interface.key} ({control_set})",
        reason="the adapter is gone, and the VM's shall have them",
        action=DeleteKey(
            hive, rf"{control_set}\Services\Tcpip\Parameters\Interfaces\{interface.key}"
        ),
        before=described(interface),
    )
    if not _usable(interface.name):
        return
    key = rf"{control_set}\Control\Network\{NET_CLASS}\{interface.key}\Connection"
    yield Edit(
        area=Area.NETWORK,
        what=f"rename the old {interface.name} ({control_set})",
        reason="the VM's adapter shall have its name",
        action=set_text(hive, key, "Name", f"{interface.name} ({_ASIDE})"),
        before=interface.name,
    )


def _lost(interface: Interface) -> Problem:
    return Problem(
        severity=Severity.WARNING,
        code="address-not-carried",
        subject=interface.name or interface.key,
        message=f"Which adapter of the VM gets the addresses of {described(interface)}, "
        f"formerly {interface.mac or interface.device}, is not known; the VM's starts with DHCP.",
        action="Name it with --nic 'CONNECTION=MAC' ('ipconfig /all' shows both), or set the "
        "addresses in the VM after its first start.",
    )


def _usable(name: str) -> str:
    """Return a name if Windows would take it for a connection, else ""."""
    bad = _NOT_IN_NAMES.intersection(name) or any(ord(char) < ord(" ") for char in name)
    return "" if bad else name.strip()
