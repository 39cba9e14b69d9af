# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of devices in a Linux guest's configuration, and the volumes that they meant.

/dev/sda2 on the source may be anything in the VM. Names of logical volumes, and `UUID=` and
`LABEL=`, stay true. Of several disks of a source, the VM may have got one, and not the first: what
the root file system is named by tells which.
"""

from __future__ import annotations

import re

from p2v.guest.facts import GuestFacts, Volume

CRYPTTAB = "/etc/crypttab"
_PARTITION = re.compile(
    r"/dev/(?:"
    r"(?P<letters>[shv]d|xvd)(?P<letter>[a-z]{1,2})(?P<n1>\d{1,3})"
    r"|nvme(?P<nvme>\d{1,3})n\d+p(?P<n2>\d{1,3})"
    r"|(?:cciss/c\d+d|ida/c\d+d|rd/c\d+d|mmcblk|loop)(?P<other>\d{1,3})p(?P<n3>\d{1,3})"
    r"|disk/by-(?:id|path)/\S+-part(?P<n4>\d{1,3})"
    r")"
)
_TAGS = {
    "UUID": "uuid",
    "LABEL": "label",
    "PARTUUID": "partuuid",
    "PARTLABEL": "partlabel",
}
_ROOTS = re.compile(r"\broot=(/dev/[^\s\"']+)|^[ \t]*(/dev/\S+)[ \t]+/[ \t]", re.MULTILINE)
"""What kernel lines and fstab name the root file system by."""
_NUMBER = re.compile(r"(?:(?<=\d)p|-part)?\d+$")
_BY = re.compile(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(\S+)")


def is_fragile(name: str) -> bool:
    """Return whether a device's name depends on the hardware of the source."""
    return _PARTITION.fullmatch(name) is not None


def find_volume(name: str, facts: GuestFacts, mount_point: str = "") -> Volume | None:
    """Return the volume that a name in the guest's configuration means, None if it is not there.

    The name of an opened encrypted volume means the one that /etc/crypttab opens by it.

    Args:
        name: `UUID=...`, `/dev/sda2`, `/dev/mapper/vg-root`, ...
        facts: of the guest.
        mount_point: where the line that holds the name mounts it; decides for fragile names.
    """
    found = _find(name, facts, mount_point)
    if found is None and (source := _encrypted_source(name, facts)):
        return _find(source, facts, "")
    return found


def _find(name: str, facts: GuestFacts, mount_point: str) -> Volume | None:
    if tag := _tag(name):
        field, value = tag
        return next((one for one in facts.volumes if _same(getattr(one, field), value)), None)
    match = _PARTITION.fullmatch(name)
    if match is None:
        return next((one for one in facts.volumes if one.device in _aliases(name)), None)
    number = next(match[key] for key in ("n1", "n2", "n3", "n4") if match[key])
    disk = _disk(match, facts)
    device = f"{disk}{number}"
    found = next((one for one in facts.volumes if one.device == device), None) if disk else None
    if found is not None or not mount_point.startswith("/"):
        return found
    return next((one for one in facts.volumes if one.mount_point == mount_point), None)


def stable_name(volume: Volume) -> str:
    """Return a name for fstab and kernel command lines that survives other hardware; "" if none."""
    if volume.uuid:
        return f"UUID={volume.uuid}"
    return f"PARTUUID={volume.partuuid}" if volume.partuuid else ""


def _encrypted_source(name: str, facts: GuestFacts) -> str:
    """Return what /etc/crypttab opens as the device `name`, "" if it does not."""
    file = facts.linux.file(CRYPTTAB) if facts.linux else None
    opened = name.removeprefix("/dev/mapper/")
    if file is None or opened == name:
        return ""
    match = re.search(rf"^\s*{re.escape(opened)}\s+(\S+)", file.text, re.MULTILINE)
    return match[1] if match else ""


def _tag(name: str) -> tuple[str, str] | None:
    key, equals, value = name.partition("=")
    if equals and key in _TAGS:
        return _TAGS[key], value.strip('"')
    if match := _BY.fullmatch(name):
        return match[1], match[2]
    return None


def _same(one: str, other: str) -> bool:
    return bool(one) and one.lower() == other.lower()


def _aliases(name: str) -> tuple[str, ...]:
    """Return the names that the appliance may have for a device that isn't a partition.

    /dev/mapper/vg-root is /dev/vg/root; a dash in a name is doubled there.
    """
    mapped = re.fullmatch(r"/dev/mapper/((?:[^-]|--)+)-((?:[^-]|--)+)", name)
    if mapped is None:
        return (name,)
    group, volume = (part.replace("--", "-") for part in mapped.groups())
    return (name, f"/dev/{group}/{volume}")


def _disk(match: re.Match[str], facts: GuestFacts) -> str:
    """Return the appliance's name for the disk of a partition's name, "" if it can't be told."""
    index = _index(match)
    if len(facts.disks) == 1:
        roots = _disks_of_root(facts)
        known = _NUMBER.sub("", match[0]) in roots if roots else not index
        return facts.disks[0].device if known else ""
    return facts.disks[index].device if index is not None and index < len(facts.disks) else ""


def _index(match: re.Match[str]) -> int | None:
    """Return which disk of its kind a partition's name is of, None if it does not tell."""
    if match["letter"]:
        index = 0
        for letter in match["letter"]:
            index = index * 26 + ord(letter) - ord("a") + 1
        return index - 1
    number = match["nvme"] or match["other"]
    return int(number) if number else None


def _disks_of_root(facts: GuestFacts) -> set[str]:
    """Return the names of the disk that the root file system's names are of."""
    files = facts.linux.files if facts.linux else ()
    found = (match for file in files for match in _ROOTS.finditer(file.text))
    names = (match[1] or match[2] for match in found)
    return {_NUMBER.sub("", name) for name in names if is_fragile(name)}
