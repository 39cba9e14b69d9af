# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: daemons that talk to the source's hardware, or to another hypervisor, are not started.

A VM has no sensors, management controller or disks with SMART; tools of another hypervisor wait for
devices that are not there, or hold on to drivers. They stay installed. With systemd they are
masked, and `systemctl unmask` gives them back; before systemd their start links become stop links.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Area, Edit, LinkFile, RenameFile
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Platform, Target
from p2v.model.machine import Problem

_HARDWARE = (
    "mcelog", "smartd", "smartmontools", "lm-sensors", "lm_sensors", "fancontrol", "ipmievd",
    "ipmi", "openipmi", "dsm_sa_datamgrd", "dsm_sa_eventmgrd", "srvadmin", "instsvcdrv", "hp-asrd",
    "hp-health", "hp-snmp-agents", "hpasmlited", "amsd", "smad", "lsi_mrdsnmpd", "mdmonitor-scan",
    "thermald", "megaraid_sas_monitor", "vivaldiframeworkd", "rasdaemon",
)  # fmt: skip
_VMWARE = ("open-vm-tools", "vmtoolsd", "vgauthd", "vgauth", "vmware-tools")
_OTHERS = (
    "vboxadd", "vboxadd-service", "virtualbox-guest-utils", "vboxservice", "xe-linux-distribution",
    "xe-daemon", "xen-guest-agent", "prltoolsd",
)  # fmt: skip
_QEMU = ("qemu-guest-agent", "spice-vdagentd", "spice-vdagent")
_HYPERV = (
    "hypervkvpd", "hypervvssd", "hypervfcopyd", "hv-kvp-daemon", "hv-vss-daemon",
    "hv-fcopy-daemon", "hv_kvp_daemon", "hv_vss_daemon",
)  # fmt: skip
_WANTS = tuple(
    f"{folder}/*.target.wants/*.service"
    for folder in ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
)
_SYSTEMD = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")
_RUN_LEVELS = tuple(f"{folder}rc[2-5].d/S*" for folder in ("/etc/", "/etc/rc.d/", "/etc/init.d/"))
_START_LINK = re.compile(r"(?P<folder>/etc/\S*rc[2-5]\.d)/S(?P<order>\d\d)(?P<name>[^/]+)")

FILES: tuple[str, ...] = ()
PATHS: tuple[str, ...] = (*_WANTS, "/etc/systemd/system/*.service", *_SYSTEMD, *_RUN_LEVELS)


def detect(facts: GuestFacts, target: Target) -> bool:
    """Return whether such a daemon would be started."""
    return bool(_unwanted(facts, target))


def plan(facts: GuestFacts, target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield what keeps each of them from starting."""
    for name, reason in _unwanted(facts, target).items():
        for action in _actions(facts, name):
            yield Edit(
                Area.SERVICES, f"do not start {name}", reason, action, before="started at boot"
            )


def check(appliance: Appliance, facts: GuestFacts, target: Target) -> Iterator[Check]:
    """Look at the masks and links."""
    names = list(_unwanted(facts, target))
    left = [
        name
        for name in names
        if not all(_is_done(appliance, action) for action in _actions(facts, name))
    ]
    evidence = ", ".join(left) or ", ".join(names)
    yield Check("daemons of other hardware stay off", not left, evidence)


def tools(facts: GuestFacts) -> list[str]:
    """Return the daemons of hypervisors that are started at boot."""
    return sorted(_started(facts) & {*_VMWARE, *_OTHERS, *_QEMU, *_HYPERV})


def _actions(facts: GuestFacts, name: str) -> Iterator[LinkFile | RenameFile]:
    if any(map(linux(facts).has, _SYSTEMD)):
        yield LinkFile(f"/etc/systemd/system/{name}.service", "/dev/null")
        return
    for match in _start_links(facts):
        if match["name"] == name:
            stop = f"K{100 - int(match['order']):02}{name}"
            yield RenameFile(match[0], f"{match['folder']}/{stop}")


def _is_done(appliance: Appliance, action: LinkFile | RenameFile) -> bool:
    with appliance.calling(f"looking at {action.path}") as handle:
        linked = bool(handle.is_symlink(action.path))
        if isinstance(action, RenameFile):
            return not linked and not handle.exists(action.path)
        return linked and handle.readlink(action.path) == action.target


def _start_links(facts: GuestFacts) -> list[re.Match[str]]:
    """Return the links of SysV init, which systemd heeds too where a daemon has no unit."""
    return [match for path in linux(facts).paths if (match := _START_LINK.fullmatch(path))]


def _unwanted(facts: GuestFacts, target: Target) -> dict[str, str]:
    """Return the daemons that would be started and must not be, each with the reason."""
    other = _QEMU if target.platform is Platform.HYPERV else _HYPERV
    reasons = {
        **dict.fromkeys(_HARDWARE, "it works on hardware that a VM does not have"),
        **dict.fromkeys((*_VMWARE, *_OTHERS, *other), "it serves another hypervisor"),
    }
    own = {
        path.rpartition("/")[2].removesuffix(".service")
        for path in linux(facts).paths
        if path.count("/") == 4 and path.startswith("/etc/systemd/system/")
    }
    # A unit whose file lies where its mask would: the administrator's own, and not replaced.
    return {name: reasons[name] for name in sorted(_started(facts) - own) if name in reasons}


def _started(facts: GuestFacts) -> set[str]:
    """Return the daemons that are started at boot."""
    units = (path for path in linux(facts).paths if ".wants/" in path)
    names = {path.rpartition("/")[2].removesuffix(".service") for path in units}
    return names | {match["name"] for match in _start_links(facts)}
