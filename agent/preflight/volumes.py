# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of what the disks hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from agent.plan import partition_name
from agent.preflight.finding import Finding, Level
from p2v.model.machine import ContentKind, Disk, Machine, Partition

_LINUX = {"ext2", "ext3", "ext4", "xfs", "btrfs", ContentKind.LVM}
_SETS = {
    ContentKind.LVM: "volume group",
    ContentKind.MD: "md array",
    ContentKind.BTRFS: "btrfs",
}


def check_volumes(machine: Machine) -> Iterator[Finding]:
    """Yield what is to be known of partitions and file systems."""
    for disk in machine.disks:
        for partition in disk.partitions:
            yield from _partition(disk, partition)
    yield from _sets(machine)
    contents = {part.content for disk in machine.disks for part in disk.partitions}
    if "ntfs" in contents and contents & _LINUX:
        yield Finding(
            Level.WARNING,
            "dual-boot",
            "",
            "There are Windows and Linux volumes: it may be a machine with two systems.",
            "Both are copied; the VM starts the one that its boot loader starts by itself.",
        )


def _partition(disk: Disk, partition: Partition) -> Iterator[Finding]:
    name = partition_name(disk, partition)
    content = partition.content
    if content == ContentKind.BITLOCKER:
        yield Finding(
            Level.CRITICAL,
            "bitlocker",
            name,
            f"{name} is a BitLocker volume: the VM asks for its recovery key, which the old "
            "machine's TPM cannot give it, and no driver can be put into it.",
            "Turn BitLocker off in Windows before the migration (manage-bde -off); suspending it "
            "is not enough.",
        )
    elif content == ContentKind.LUKS:
        yield Finding(
            Level.WARNING,
            "luks",
            name,
            f"{name} is encrypted: its passphrase is needed when the VM starts.",
            "Have the passphrase at hand; a key in the old machine's TPM does not move.",
        )
    elif content == ContentKind.LDM:
        yield Finding(
            Level.WARNING,
            "dynamic-disk",
            name,
            f"{name} belongs to a Windows dynamic disk: its volumes may span disks.",
            "Choose all disks of its group. A Windows that lies on it is not converted: its VM "
            "starts with the disk on IDE or SATA, or not at all.",
        )
    if partition.hibernated:
        yield Finding(
            Level.CRITICAL,
            "hibernated",
            name,
            f"{name} holds a system that is hibernated: what was open is lost in the VM.",
            "Start the machine and shut it down (Windows: with Fast Startup off).",
        )
    if partition.unclean and not partition.writable:
        yield Finding(
            Level.WARNING,
            "unclean",
            name,
            f"{name} needs recovery: {partition.unclean}. Every block of it is copied.",
            "Start the machine and shut it down cleanly: less to copy, nothing to repair.",
        )
    if content == ContentKind.UNKNOWN:
        yield Finding(
            Level.WARNING,
            "ambiguous",
            name,
            f"{name} shows traces of several file systems; every block of it is copied.",
        )


def _sets(machine: Machine) -> Iterator[Finding]:
    members: dict[tuple[str, str], list[str]] = defaultdict(list)
    for disk in machine.disks:
        for part in disk.partitions:
            if part.group and part.content in _SETS:
                members[part.content, part.group].append(disk.name)
    for (content, group), disks in members.items():
        names = sorted(set(disks))
        kind = _SETS[content]
        if content == ContentKind.MD:
            yield Finding(
                Level.WARNING,
                "raid-member",
                group,
                f"{', '.join(names)} hold members of an md array.",
                "Choose all of them, or one of a mirror and mend the array in the VM.",
            )
        elif len(names) > 1:
            yield Finding(
                Level.INFORMATION,
                "spans-disks",
                group,
                f"The {kind} {group} spans {', '.join(names)}: choose all of them.",
            )
