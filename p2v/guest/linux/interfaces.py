# SPDX-License-Identifier: GPL-3.0-or-later
"""The network interfaces that a Linux guest's configuration names, in whatever style it is written.

Read as far as names, MAC addresses and bonds go: ifupdown's interfaces(5), NetworkManager's
keyfiles, netplan, systemd-networkd, Red Hat's and SUSE's ifcfg files, and udev's persistent rules.
A name may be a shell pattern where the style allows one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from p2v.guest.linux.facts import LinuxFacts, TextFile

IFUPDOWN = ("/etc/network/interfaces", "/etc/network/interfaces.d/*")
KEYFILES = ("/etc/NetworkManager/system-connections/*",)
NETPLAN = ("/etc/netplan/*.yaml",)
NETWORKD = ("/etc/systemd/network/*.network",)
IFCFG = ("/etc/sysconfig/network-scripts/ifcfg-*", "/etc/sysconfig/network/ifcfg-*")
RULES = ("/etc/udev/rules.d/70-persistent-net.rules",)
FILES = (*IFUPDOWN, *KEYFILES, *NETPLAN, *NETWORKD, *IFCFG, *RULES)

_MAC = r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}"
_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,14}"
_PATTERN = r"[A-Za-z][A-Za-z0-9_*?-]{0,14}"
_VIRTUAL = re.compile(
    r"lo$|(?:bond|br|virbr|docker|veth|tun|tap|wg|dummy|team|vlan|ib|wl|wwan|vmbr|ovs)[\w-]*$"
)
_STANZA = re.compile(r"^[ \t]*iface[ \t]+(\S+)(.*?)(?=^[ \t]*iface[ \t]|\Z)", re.M | re.DOTALL)
_BONDED = re.compile(r"^[ \t]*(?:bond-)?slaves[ \t]+(.+)$", re.MULTILINE)
_BELOW = re.compile(r"^[ \t]*(?:bridge[_-]ports|vlan[_-]raw[_-]device)[ \t]+(.+)$", re.MULTILINE)
_NO_NAMES = ("none", "all", "regex")
_HARDWARE = re.compile(r"^\s*(?:driver|path)\s*[=:]\s*[^\s#]", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface by the name that the guest knows.

    `mac` is "" where its files do not say, `bond` where it is in none.
    """

    name: str
    mac: str = ""
    bond: str = ""
    style: str = ""
    path: str = ""


def interfaces(facts: LinuxFacts) -> list[Interface]:
    """Return the hardware interfaces that are configured, each once, by name."""
    found: dict[str, Interface] = {}
    keyfiles = [file.text for file in facts.matching(KEYFILES[0])]
    bonds = {_value(text, "uuid"): _value(text, "interface-name") for text in keyfiles}
    for style, patterns, read in _STYLES:
        for file in (one for pattern in patterns for one in facts.matching(pattern)):
            for one in read(file):
                if is_virtual(one.name):
                    continue
                first = found.get(one.name, Interface(one.name, style=style, path=file.path))
                found[one.name] = replace(
                    first,
                    mac=first.mac or one.mac.lower(),
                    bond=first.bond or bonds.get(one.bond, one.bond),
                )
    return [found[name] for name in sorted(found)]


def is_virtual(name: str) -> bool:
    """Return whether an interface's name is that of no card, or of none that Linux has."""
    return _VIRTUAL.match(name) is not None or re.fullmatch(_PATTERN, name) is None


def bound_to_hardware(facts: LinuxFacts) -> list[str]:
    """Return the files that choose an interface by the driver or the slot of the source's card."""
    patterns = (*KEYFILES, *NETPLAN, *NETWORKD)
    files = (file for pattern in patterns for file in facts.matching(pattern))
    return [file.path for file in files if _HARDWARE.search(file.text)]


def _ifupdown(file: TextFile) -> Iterator[Interface]:
    """Yield stanzas' interfaces, and the cards below bonds, bridges and VLANs (`eno1.100`)."""
    for stanza in _STANZA.finditer(file.text):
        name, body = stanza[1], stanza[2]
        master = re.search(r"^[ \t]*bond-master[ \t]+(\S+)", body, re.MULTILINE)
        yield Interface(_card(name), bond=master[1] if master else "")
        for match in _BONDED.finditer(body):
            yield from (Interface(one, bond=name) for one in _names(match[1]))
        for match in _BELOW.finditer(body):
            yield from map(Interface, _names(match[1]))


def _names(text: str) -> list[str]:
    return [_card(name) for name in text.split() if name not in _NO_NAMES]


def _card(name: str) -> str:
    """Return the card of a VLAN's or alias's name."""
    return re.split("[.:]", name)[0]


def _keyfile(file: TextFile) -> Iterator[Interface]:
    if re.search(r"^type=(?!ethernet|802-3-ethernet)", file.text, re.MULTILINE):
        return
    bond = _value(file.text, "master") or _value(file.text, "controller")
    for name in filter(None, _value(file.text, "interface-name").split(";")):
        yield Interface(name, _mac(_value(file.text, "mac-address")), bond)


def _netplan(file: TextFile) -> Iterator[Interface]:
    for key, body in _entries(file.text, "ethernets"):
        name = re.search(rf"(?:set-name|\bname):[ ]*[\"']?({_PATTERN})", body)
        mac = re.search(rf"macaddress:[ ]*[\"']?({_MAC})", body)
        if name or not mac:  # an entry that matches by its MAC address alone names no interface
            yield Interface(name[1] if name else key, mac[1] if mac else "")
    for key, body in _entries(file.text, "bonds"):
        if members := re.search(r"interfaces:[ ]*(?:\[([^\]]*)\]|\n((?:[ ]*-[ ]*\S+\n?)+))", body):
            for name in re.findall(_NAME, members[1] or members[2] or ""):
                yield Interface(name, bond=key)


def _entries(text: str, block: str) -> Iterator[tuple[str, str]]:
    """Yield the keys of a block of YAML with their text, by indentation: one level below it."""
    found = re.search(
        rf"^([ ]*){block}:[ ]*\n((?:\1[ ]+.*\n?|[ ]*(?:#.*)?\n)+)", text, re.MULTILINE
    )
    depth = re.search(r"^([ ]+)[^\s#]", found[2], re.MULTILINE) if found else None
    if found is None or depth is None:
        return
    heads = list(re.finditer(rf"^{depth[1]}[\"']?({_NAME})[\"']?:", found[2], re.MULTILINE))
    ends = [*(head.start() for head in heads[1:]), len(found[2])]
    for head, end in zip(heads, ends, strict=True):
        yield head[1], found[2][head.end() : end]


def _networkd(file: TextFile) -> Iterator[Interface]:
    match = re.search(r"^\[Match\]\s*$(.*?)(?=^\[|\Z)", file.text, re.MULTILINE | re.DOTALL)
    if match is not None:
        for name in _value(match[1], "Name").split():
            yield Interface(name, _mac(_value(match[1], "MACAddress")), _value(file.text, "Bond"))


def _ifcfg(file: TextFile) -> Iterator[Interface]:
    name = _value(file.text, "DEVICE") or file.path.rpartition("/ifcfg-")[2]
    if _value(file.text, "VLAN").lower() != "yes":
        yield Interface(name, _mac(_value(file.text, "HWADDR")), _value(file.text, "MASTER"))
    for number in range(8):  # SUSE's bonds list their cards
        if slave := _value(file.text, f"BONDING_SLAVE_{number}") or _value(
            file.text, f"BONDING_SLAVE{number}"
        ):
            yield Interface(slave, bond=name)


def _rules(file: TextFile) -> Iterator[Interface]:
    pattern = rf'ATTR\{{address\}}=="({_MAC})".*NAME="({_NAME})"'
    for match in re.finditer(pattern, file.text):
        yield Interface(match[2], match[1])


def _value(text: str, key: str) -> str:
    match = re.search(rf"^\s*{re.escape(key)}\s*=\s*[\"']?([^\"'\n]*)", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _mac(text: str) -> str:
    return text if re.fullmatch(_MAC, text) else ""


_STYLES = (
    ("ifupdown", IFUPDOWN, _ifupdown),
    ("NetworkManager", KEYFILES, _keyfile),
    ("netplan", NETPLAN, _netplan),
    ("systemd-networkd", NETWORKD, _networkd),
    ("ifcfg", IFCFG, _ifcfg),
    ("udev rules", RULES, _rules),
)
