# SPDX-License-Identifier: GPL-3.0-or-later
"""The network interfaces that a Linux guest's configuration names, in whatever style it is written.

Read as far as names and MAC addresses go: ifupdown's interfaces(5), NetworkManager's keyfiles,
netplan, systemd-networkd, Red Hat's and SUSE's ifcfg files, and udev's persistent rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

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
_VIRTUAL = re.compile(
    r"lo$|(?:bond|br|virbr|docker|veth|tun|tap|wg|dummy|team|vlan|ib|wl|wwan|vmbr|ovs)[\w-]*$"
)


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface by the name that the guest knows; `mac` is "" where its files do not say."""

    name: str
    mac: str
    style: str
    path: str


def interfaces(facts: LinuxFacts) -> list[Interface]:
    """Return the hardware interfaces that are configured, each once, by name."""
    found: dict[str, Interface] = {}
    for style, patterns, read in _STYLES:
        for file in (one for pattern in patterns for one in facts.matching(pattern)):
            for name, mac in read(file):
                known = found.get(name)
                if re.fullmatch(_NAME, name) is None or _VIRTUAL.match(name):
                    continue
                if known is None:
                    found[name] = Interface(name, mac.lower(), style, file.path)
                elif mac and not known.mac:
                    found[name] = Interface(name, mac.lower(), known.style, known.path)
    return [found[name] for name in sorted(found)]


def _ifupdown(file: TextFile) -> Iterator[tuple[str, str]]:
    for match in re.finditer(rf"^\s*iface\s+({_NAME})\s", file.text, re.MULTILINE):
        yield match[1], ""


def _keyfile(file: TextFile) -> Iterator[tuple[str, str]]:
    if re.search(r"^type=(?!ethernet|802-3-ethernet)", file.text, re.MULTILINE):
        return
    name = _value(file.text, "interface-name")
    if name:
        yield name, _mac(_value(file.text, "mac-address"))


def _netplan(file: TextFile) -> Iterator[tuple[str, str]]:
    """Yield the entries of `ethernets`, by indentation: one level below that word."""
    block = re.search(r"^([ ]*)ethernets:[ ]*\n((?:\1[ ]+.*\n?|[ ]*(?:#.*)?\n)+)", file.text, re.M)
    if block is None:
        return
    depth = re.search(r"^([ ]+)[^\s#]", block[2], re.MULTILINE)
    if depth is None:
        return
    heads = list(re.finditer(rf"^{depth[1]}[\"']?({_NAME})[\"']?:", block[2], re.MULTILINE))
    for index, head in enumerate(heads):
        end = heads[index + 1].start() if index + 1 < len(heads) else len(block[2])
        body = block[2][head.end() : end]
        name = re.search(rf"set-name:\s*[\"']?({_NAME})", body)
        mac = re.search(rf"macaddress:\s*[\"']?({_MAC})", body)
        yield name[1] if name else head[1], mac[1] if mac else ""


def _networkd(file: TextFile) -> Iterator[tuple[str, str]]:
    match = re.search(r"^\[Match\]\s*$(.*?)(?=^\[|\Z)", file.text, re.MULTILINE | re.DOTALL)
    if match is not None:
        for name in _value(match[1], "Name").split():
            yield name, _mac(_value(match[1], "MACAddress"))


def _ifcfg(file: TextFile) -> Iterator[tuple[str, str]]:
    name = _value(file.text, "DEVICE") or file.path.rpartition("/ifcfg-")[2]
    if _value(file.text, "VLAN").lower() != "yes":
        yield name, _mac(_value(file.text, "HWADDR"))


def _rules(file: TextFile) -> Iterator[tuple[str, str]]:
    pattern = rf'ATTR\{{address\}}=="({_MAC})".*NAME="({_NAME})"'
    for match in re.finditer(pattern, file.text):
        yield match[2], match[1]


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
