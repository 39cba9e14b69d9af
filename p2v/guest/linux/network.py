# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: the VM's interfaces get the names that the guest's network configuration knows.

The configuration itself, static addresses and all, stays as it is: what breaks in a VM is the name.
Hyper-V's interfaces have no slot and so are called eth0, eth1, ... whatever systemd's policy is;
those of KVM get names of their slots. A systemd.link(5) file gives each the old name. It matches on
the MAC address, which the VM keeps, and on the driver: a virtual function of an SR-IOV card has the
same MAC address, and must not be given the same name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, RemoveFile, WriteFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux import interfaces
from p2v.guest.linux.drivers import NETWORK
from p2v.guest.linux.grub import MENUS
from p2v.guest.linux.interfaces import Interface
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Platform, Target
from p2v.model.machine import Problem, Severity

FILES: tuple[str, ...] = interfaces.FILES
_RULES = "/etc/udev/rules.d/70-persistent-net.rules"
_GENERATOR = "/lib/udev/rules.d/75-persistent-net-generator.rules"
_SYSTEMD = ("/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd")
_UDEVADM = ("/sbin/udevadm", "/bin/udevadm", "/usr/bin/udevadm")
PATHS: tuple[str, ...] = (*_SYSTEMD, *_UDEVADM, _GENERATOR)

_WILD = re.compile(r"[*?]")
_USUAL = {Platform.HYPERV: ("eth0",), Platform.KVM: ("ens3", "enp1s0")}
"""What the VM's first interface is called if nobody names it: by systemd, on the usual machines."""
_KERNEL_NAME = re.compile(r"eth\d+")


def detect(facts: GuestFacts, target: Target) -> bool:
    """Return whether hardware interfaces have names to keep, or are chosen otherwise."""
    found = linux(facts)
    chosen = bool(interfaces.bound_to_hardware(found)) or found.file(_RULES) is not None
    return chosen or bool(_with_macs(facts, target))


def plan(facts: GuestFacts, target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield what gives each interface its name, or says which one can't be told from others."""
    found = _with_macs(facts, target)
    if linux(facts).file(_RULES) is not None and _links_work(facts):
        yield Edit(
            Area.NETWORK,
            "remove udev's list of the source's network cards",
            "it names interfaces by the cards they were; the names are kept otherwise",
            RemoveFile(_RULES),
            before=_RULES,
        )
    yield from map(_bound, interfaces.bound_to_hardware(linux(facts)))
    if _kernel_names_fit(facts, target, found):
        return
    cards = [nic for nic in target.nics if nic.mac and not interfaces.is_virtual(nic.name)]
    alone = len(found) == 1 and len(cards) < 2  # without a MAC address a name fits every card
    for one in found:
        if not one.mac and not alone:
            yield _unknown(one)
        elif _links_work(facts):
            yield _link(one, target)
    if not _links_work(facts) and (known := [one for one in found if one.mac]):
        yield _persistent_rules(known)


def check(appliance: Appliance, facts: GuestFacts, target: Target) -> Iterator[Check]:
    """Look up each file that gives a name."""
    for outcome in plan(facts, target, ()):
        if isinstance(outcome, Edit) and isinstance(outcome.action, WriteFile):
            path, text = outcome.action.path, outcome.action.text
            there = appliance.is_file(path) and appliance.read(path, len(text) + 1) == text.encode()
            yield Check(outcome.what, there, path if there else f"{path} is not as planned")


def link_path(name: str) -> str:
    """Return the file that gives an interface its name."""
    return f"/etc/systemd/network/10-p2v-{name}.link"


def _with_macs(facts: GuestFacts, target: Target) -> list[Interface]:
    """Return the interfaces whose names the VM's cards shall have, with their MAC addresses.

    These are the configured ones, and those known of the source: firewalls name interfaces too. Of
    a bond that has become one card of the VM, its first member stands for all.
    """
    known = {nic.name: nic.mac.lower() for nic in target.nics if nic.mac}
    found: dict[str, Interface] = {}
    for one in interfaces.interfaces(linux(facts)):
        for name in _named(one.name, known, target):
            found[name] = replace(one, name=name, mac=known.get(name, one.mac))
    for name, mac in known.items():
        members = [one for one in found.values() if one.bond == name]
        if members and not any(one.name in known for one in members):
            for one in members:
                del found[one.name]
            found[members[0].name] = replace(members[0], mac=mac)
    _add_unnamed(found, known)
    return [found[name] for name in sorted(found)]


def _add_unnamed(found: dict[str, Interface], known: Mapping[str, str]) -> None:
    """Add the cards that the configuration does not name.

    Who looked at them may have been another system, a live one, which gave them names of its own:
    then a card whose MAC address is configured has its name already, the only card that is left is
    the only interface that is left, and of several nobody can tell.
    """
    told = {one.mac for one in found.values()}
    cards = {
        name: mac
        for name, mac in known.items()
        if name not in found and mac not in told and not interfaces.is_virtual(name)
    }
    left = [one for one in found.values() if not one.mac]
    if not left:
        for name, mac in cards.items():
            found[name] = Interface(name, mac, style="of the source")
    elif len(left) == len(cards) == 1:
        (mac,) = cards.values()
        found[left[0].name] = replace(left[0], mac=mac)


def _named(pattern: str, known: Mapping[str, str], target: Target) -> list[str]:
    """Return the names that a pattern of the configuration means; a name means itself."""
    if not _WILD.search(pattern):
        return [pattern]
    if names := [name for name in known if fnmatchcase(name, pattern)]:
        return names
    if any(fnmatchcase(name, pattern) for name in _USUAL[target.platform]):
        return []
    return [_WILD.sub("0", pattern)]


def _links_work(facts: GuestFacts) -> bool:
    """Return whether udev is systemd's, which reads .link files."""
    return any(linux(facts).has(path) for path in _SYSTEMD + _UDEVADM[1:])


def _kernel_names_fit(facts: GuestFacts, target: Target, found: Sequence[Interface]) -> bool:
    """Return whether the names are eth0, eth1, ... and the VM's interfaces get these anyway."""
    names = [one.name for one in found]
    if not all(map(_KERNEL_NAME.fullmatch, names)):
        return False
    if target.platform is Platform.HYPERV:
        return names == [f"eth{index}" for index in range(len(names))]
    lines = (one.text for pattern in MENUS for one in linux(facts).matching(pattern))
    return any("net.ifnames=0" in text for text in lines)


def _link(one: Interface, target: Target) -> Edit:
    match = f"MACAddress={one.mac}\n" if one.mac else ""
    text = f"[Match]\n{match}Driver={NETWORK[target.platform]}\n\n[Link]\nName={one.name}\n"
    why = f"{one.path} ({one.style}) configures it by that name" if one.path else "it had that name"
    return Edit(
        Area.NETWORK,
        f"give the network interface the name {one.name}",
        why + ("" if one.mac else "; its MAC address is unknown, and it is the only one"),
        WriteFile(link_path(one.name), text),
    )


def _persistent_rules(found: Sequence[Interface]) -> Edit:
    """Return the edit for udev before systemd's, which also swaps names that are in use."""
    lines = [
        'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", '
        f'ATTR{{address}}=="{one.mac}", ATTR{{type}}=="1", KERNEL=="eth*", NAME="{one.name}"\n'
        for one in found
    ]
    return Edit(
        Area.NETWORK,
        f"give the network interfaces the names {', '.join(one.name for one in found)}",
        "the guest configures them by these names",
        WriteFile(_RULES, "".join(lines)),
    )


def _bound(path: str) -> Problem:
    return Problem(
        Severity.WARNING,
        "network-by-hardware",
        path,
        f"{path} chooses a network interface by its driver or slot, which the VM's does not have.",
        "Choose it by name or MAC address there, on the source or at the VM's console.",
    )


def _unknown(one: Interface) -> Problem:
    return Problem(
        Severity.WARNING,
        "unknown-mac",
        one.name,
        f"{one.path} configures {one.name}, and its MAC address is not known; in the VM it may "
        "have another name, and no address.",
        f"Give it with --nic {one.name}=MAC, and the same MAC to the VM's interface.",
    )
