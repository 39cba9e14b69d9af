# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the facts that planners need from a SYSTEM hive."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from uuid import UUID

from p2v.guest.windows.facts import Address, ControlSet, Filters, Interface, Service
from p2v.guest.windows.registry.base import HiveDamagedError
from p2v.guest.windows.registry.hive import Hive, Key

NET_CLASS = "{4D36E972-E325-11CE-BFC1-08002BE10318}"
DISK_CLASSES = {
    "{4d36e967-e325-11ce-bfc1-08002be10318}": "DiskDrive",
    "{71a27cdd-812a-11d0-bec7-08002be2092f}": "Volume",
    "{4d36e97b-e325-11ce-bfc1-08002be10318}": "SCSIAdapter",
    "{4d36e96a-e325-11ce-bfc1-08002be10318}": "HDC",
    "{4d36e97d-e325-11ce-bfc1-08002be10318}": "System",
}
"""The classes of devices between the processor and a volume: setup classes of Windows' drivers.

https://learn.microsoft.com/windows-hardware/drivers/install/system-defined-device-setup-classes-available-to-vendors
"""

_NSI_INTERFACES = r"Control\Nsi\{eb004a11-9b1a-11d4-9123-0050047759bc}\10"
_MAC_LENGTH = 6
_CONTROL_SET = re.compile(r"ControlSet\d{3}", re.IGNORECASE)
_LISTS = re.compile(r"[\s,;]+")


@dataclass(frozen=True, slots=True)
class HiveFacts:
    """What a SYSTEM hive says; see `WindowsFacts` for the fields."""

    current: str
    control_sets: tuple[ControlSet, ...]
    product: str
    driver_database: bool
    interfaces: tuple[Interface, ...]


def read(hive: Hive) -> HiveFacts:
    """Read a SYSTEM hive.

    Raises:
        HiveDamagedError: it is damaged, or is the hive of something else.
    """
    sets = [key for key in hive.root().subkeys() if _CONTROL_SET.fullmatch(key.name)]
    select = hive.find("Select")
    number = select.number("Current") if select else None
    current = next((one for one in sets if number and int(one.name[-3:]) == number), None)
    if current is None:
        raise HiveDamagedError("it names no control set that is there")
    options = current.find(r"Control\ProductOptions")
    return HiveFacts(
        current=current.name,
        control_sets=tuple(_control_set(one) for one in sets),
        product=options.text("ProductType") if options else "",
        driver_database=hive.find("DriverDatabase") is not None,
        interfaces=tuple(_interfaces(current)),
    )


def _control_set(key: Key) -> ControlSet:
    critical = key.find(r"Control\CriticalDeviceDatabase")
    return ControlSet(
        name=key.name,
        services=tuple(_services(key)),
        filters=tuple(_filters(key)),
        critical=tuple(one.name.lower() for one in critical.subkeys()) if critical else (),
        san_policy=_number(key, r"Services\partmgr\Parameters", "SanPolicy"),
        fast_startup=_number(key, r"Control\Session Manager\Power", "HiberbootEnabled"),
        auto_reboot=_number(key, r"Control\CrashControl", "AutoReboot"),
    )


def _services(control_set: Key) -> Iterator[Service]:
    services = control_set.subkey("Services")
    for key in services.subkeys() if services else ():
        values = {value.name.lower(): value for value in key.values()}
        start, image = values.get("start"), values.get("imagepath")
        number = start.number if start else None
        yield Service(
            name=key.name,
            start=-1 if number is None else number,
            overridden=key.subkey("StartOverride") is not None,
            image=image.text if image else "",
        )


def _filters(control_set: Key) -> Iterator[Filters]:
    for guid, name in DISK_CLASSES.items():
        key = control_set.find(rf"Control\Class\{guid}")
        for value in ("UpperFilters", "LowerFilters"):
            listed = key.value(value) if key else None
            if key and listed and listed.texts:
                yield Filters(key.name, name, value, listed.texts)


def _interfaces(control_set: Key) -> Iterator[Interface]:
    """Yield the adapters that somebody configured by hand, and that won't be in the VM."""
    keys = control_set.find(r"Services\Tcpip\Parameters\Interfaces")
    for key in keys.subkeys() if keys else ():
        static = key.number("EnableDHCP") == 0
        interface = Interface(
            key=key.name,
            name=_connection(control_set, key.name, "Name"),
            device=_connection(control_set, key.name, "PnPInstanceId"),
            mac=_mac(control_set, key.name),
            addresses=tuple(_addresses(key)) if static else (),
            gateways=_ips(_texts(key, "DefaultGateway")) if static else (),
            dns=_ips(_LISTS.split(key.text("NameServer"))),
            wins=_wins(control_set, key.name),
            suffix=key.text("Domain"),
        )
        if _is_hardware(interface.device) and (
            interface.addresses or interface.dns or interface.wins
        ):
            yield interface


def _is_hardware(device: str) -> bool:
    r"""Return whether an adapter goes with its hardware; loopback and VPN adapters come along.

    A team's adapter (COMPOSITEBUS) and that of a virtual switch (ROOT\VMS) have cards beneath.
    """
    upper = device.upper()
    if not upper or upper.startswith(("SWD\\", "BTH\\")):
        return False
    return not upper.startswith("ROOT\\") or upper.startswith("ROOT\\VMS")


def _addresses(key: Key) -> Iterator[Address]:
    pairs = zip(_texts(key, "IPAddress"), _texts(key, "SubnetMask"), strict=False)
    for address, mask in pairs:
        if _ips([address, mask]) == (address, mask):
            yield Address(address, mask)


def _connection(control_set: Key, guid: str, value: str) -> str:
    key = control_set.find(rf"Control\Network\{NET_CLASS}\{guid}\Connection")
    return key.text(value) if key else ""


def _mac(control_set: Key, guid: str) -> str:
    """Return an adapter's own MAC: as of Windows 10 in its own key, before that in NSI's table."""
    key = control_set.find(rf"Control\NetworkSetup2\Interfaces\{guid}\Kernel")
    value = key.value("PermanentAddress") if key else None
    if value and len(value.data) == _MAC_LENGTH:
        return value.data.hex(":")
    table = control_set.find(_NSI_INTERFACES)
    for row in table.values() if table else ():
        if mac := _mac_in(row.data, guid):
            return mac
    return ""


def _mac_in(row: bytes, guid: str) -> str:
    """Return the MAC in a row of NSI's interfaces if it is the row of that adapter, else "".

    Undocumented; seen in Windows 7 and 8.1: the GUID, and 84 bytes after its start the length and
    bytes of the permanent address. Those in use lie 36 bytes before, and are the same as a rule.
    """
    try:
        at = row.find(UUID(guid).bytes_le)
    except ValueError:
        return ""
    for offset in (84, 48) if at >= 0 else ():
        start = at + offset + 2
        mac = row[start : start + _MAC_LENGTH]
        length = int.from_bytes(row[at + offset : start], "little")
        if length == len(mac) == _MAC_LENGTH and any(mac):
            return mac.hex(":")
    return ""


def _wins(control_set: Key, guid: str) -> tuple[str, ...]:
    key = control_set.find(rf"Services\NetBT\Parameters\Interfaces\Tcpip_{guid}")
    return _ips(_texts(key, "NameServerList")) if key else ()


def _texts(key: Key, name: str) -> tuple[str, ...]:
    value = key.value(name)
    return value.texts if value else ()


def _ips(texts: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return those that are IPv4 addresses of something; what else is there is no address."""
    found = []
    for text in texts:
        try:
            address = IPv4Address(text)
        except AddressValueError:
            continue
        if int(address):
            found.append(text)
    return tuple(found)


def _number(control_set: Key, path: str, name: str) -> int:
    key = control_set.find(path)
    number = key.number(name) if key else None
    return -1 if number is None else number
