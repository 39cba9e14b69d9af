# SPDX-License-Identifier: GPL-3.0-or-later
"""From a machine and a user's choices to a plan. Pure: what the disks hold is in the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.capture.allocation import mappable
from agent.vm import VmChoices, chosen_vm, disk_use, planned_vm
from p2v.model.errors import NoSuchDiskError, UsageError
from p2v.model.machine import ContentKind, Disk, Machine, Partition
from p2v.model.plan import (
    Capture,
    Codec,
    ImageFormat,
    Plan,
    PlannedDisk,
    PlannedPartition,
    Treatment,
)
from p2v.model.units import TiB, format_size

_SIZE_LIMIT = {ImageFormat.VHDX: 64 * TiB}
"""[MS-VHDX] 2.6.2.2: VirtualDiskSize is at most 64 TiB."""

_BOOT_POINTS = ("/", "/boot", "/boot/efi", "/efi", "/usr")
_BOOT_FLAGS = {"boot", "esp", "bios_grub", "prep", "legacy_boot", "msftres"}
_MEMBERS = (ContentKind.LVM, ContentKind.MD, ContentKind.BTRFS)
_WHOLE = {
    ContentKind.MD: "an md array's member: copied as it is",
    ContentKind.LUKS: "encrypted: used and free blocks look alike",
    ContentKind.BITLOCKER: "encrypted: used and free blocks look alike",
    ContentKind.LDM: "a Windows dynamic disk: its volumes may span disks",
    ContentKind.EMPTY: "nothing known is in it",
    ContentKind.UNKNOWN: "its content is ambiguous",
}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user wants, from whichever screen or command line.

    `disks` and `exclude` are names: a disk as ``sda``, ``/dev/sda`` or an image's path, a partition
    as ``sda2``, ``/dev/sda2`` or ``disk.img:2``. `name` is the machine's where it is empty.
    """

    disks: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    name: str = ""
    format: ImageFormat = ImageFormat.VHDX
    live: bool = False
    capture: Capture = Capture.AUTO
    all_blocks: bool = False
    codec: Codec = Codec.AUTO
    bwlimit: int = 0
    compress_image: bool = False
    convert: bool = True
    vm: VmChoices = field(default_factory=VmChoices)


def make_plan(machine: Machine, choices: Choices) -> Plan:
    """Return the plan that carries out `choices` on `machine`.

    Raises:
        NoSuchDiskError: a chosen disk is not among the machine's.
        UsageError: no disk, one twice, an excluded partition that is not there, a disk that the
            format cannot hold, or choices that contradict each other.
    """
    disks = _chosen(machine, choices)
    excluded = _excluded(disks, choices.exclude)
    if choices.compress_image and choices.format is not ImageFormat.QCOW2:
        raise UsageError(problem="only qcow2 images can be compressed; add --format qcow2")
    for disk in disks:
        _check_limits(disk, choices.format)
    name = choices.name or machine.name
    return Plan(
        name=name,
        disks=tuple(_plan_disk(disk, excluded, choices.all_blocks) for disk in disks),
        format=choices.format,
        live=choices.live,
        capture=choices.capture,
        all_blocks=choices.all_blocks,
        codec=choices.codec,
        bwlimit=choices.bwlimit,
        compress_image=choices.compress_image,
        convert=choices.convert,
        warnings=tuple(dict.fromkeys(_warnings(machine, disks, excluded, choices))),
        vm=chosen_vm(
            replace(planned_vm(machine, disks, choices.vm.firmware), name=name), choices.vm
        ),
    )


# --- names ---------------------------------------------------------------------------------------


def _chosen(machine: Machine, choices: Choices) -> tuple[Disk, ...]:
    if not choices.disks:
        known = ", ".join(disk.name for disk in machine.disks) or "none was found"
        raise UsageError(problem=f"no disk is chosen; add --disk with one of: {known}")
    disks = tuple(_find_disk(machine, name) for name in choices.disks)
    for disk in disks:
        if disks.count(disk) > 1:
            raise UsageError(problem=f"the disk '{disk.name}' is chosen twice")
        if not disk.size:
            raise UsageError(problem=f"the disk '{disk.name}' is empty: 0 bytes; choose another")
    return disks


def _find_disk(machine: Machine, name: str) -> Disk:
    for disk in machine.disks:
        if name in (disk.name, disk.path):
            return disk
    resolved = str(Path(name).resolve())
    for disk in machine.disks:
        if disk.path == resolved:
            return disk
    raise NoSuchDiskError(disk=name)


def _excluded(disks: tuple[Disk, ...], names: tuple[str, ...]) -> set[tuple[str, int]]:
    known = {
        alias: (disk.path, partition.number)
        for disk in disks
        for partition in disk.partitions
        for alias in _aliases(disk, partition)
    }
    for name in names:
        if name not in known:
            there = ", ".join(partition_name(d, p) for d in disks for p in d.partitions)
            raise UsageError(
                problem=f"there is no partition '{name}' to exclude; there are: {there or 'none'}"
            )
    return {known[name] for name in names}


def partition_name(disk: Disk, partition: Partition) -> str:
    """Return the name of a partition for people and for --exclude: ``sda2`` or ``disk.img:2``."""
    if not partition.number:
        return disk.name
    return Path(partition.path).name if partition.path else f"{disk.name}:{partition.number}"


def _aliases(disk: Disk, partition: Partition) -> set[str]:
    names = {partition_name(disk, partition), partition.path}
    if partition.number:
        names |= {f"{disk.name}:{partition.number}", f"{disk.path}:{partition.number}"}
    return names - {""}


# --- treatments ----------------------------------------------------------------------------------


def _plan_disk(disk: Disk, excluded: set[tuple[str, int]], all_blocks: bool) -> PlannedDisk:
    planned = PlannedDisk(
        name=disk.name,
        path=disk.path,
        size=disk.size,
        logical_sector=disk.logical_sector,
        physical_sector=disk.physical_sector,
        model=disk.model,
        serial=disk.serial,
        table=disk.table,
        partitions=tuple(
            _plan_partition(disk, partition, (disk.path, partition.number) in excluded, all_blocks)
            for partition in disk.partitions
        ),
    )
    return replace(planned, used=disk_use(planned, disk))


def _plan_partition(
    disk: Disk, partition: Partition, excluded: bool, all_blocks: bool
) -> PlannedPartition:
    treatment, reason = _treatment(partition, excluded, all_blocks)
    return PlannedPartition(
        number=partition.number,
        name=partition_name(disk, partition),
        start=partition.start,
        size=partition.size,
        content=partition.content,
        treatment=treatment,
        reason=reason,
        uuid=partition.uuid,
        label=partition.label,
        mount_point=partition.mount_point,
    )


def _treatment(partition: Partition, excluded: bool, all_blocks: bool) -> tuple[Treatment, str]:
    content = partition.content
    if excluded:
        return Treatment.EXCLUDE, "excluded by choice: it reads as zeros"
    if all_blocks:
        return Treatment.COPY, "every block is asked for"
    if content == ContentKind.SWAP:
        return Treatment.SWAP, "its header is made anew, its contents are of no use elsewhere"
    if content in _WHOLE:
        return Treatment.COPY, _WHOLE[content]
    if content == ContentKind.LVM:
        return Treatment.USED, "LVM: free extents, and free blocks of its volumes, become zeros"
    if not mappable(content):
        return Treatment.COPY, f"there is no allocation map for {content}"
    if partition.unclean and not partition.writable:
        return Treatment.COPY, f"its allocation map cannot be trusted: {partition.unclean}"
    if partition.group:
        return Treatment.COPY, "it spans several devices"
    return Treatment.USED, "free blocks become zeros"


def _check_limits(disk: Disk, image: ImageFormat) -> None:
    limit = _SIZE_LIMIT.get(image)
    if limit is not None and disk.size > limit:
        raise UsageError(
            problem=f"{disk.name} has {format_size(disk.size)}, a {image} holds at most "
            f"{format_size(limit)}; choose --format qcow2 or raw"
        )


# --- warnings ------------------------------------------------------------------------------------


def _warnings(
    machine: Machine, disks: tuple[Disk, ...], excluded: set[tuple[str, int]], choices: Choices
) -> Iterator[str]:
    yield from _split_sets(machine, disks, excluded)
    for disk in disks:
        yield from _disk_warnings(machine, disk)
        for partition in disk.partitions:
            name = partition_name(disk, partition)
            if (disk.path, partition.number) in excluded:
                yield from _exclusion_warnings(name, partition)
            else:
                yield from _content_warnings(name, partition, choices)


def _disk_warnings(machine: Machine, disk: Disk) -> Iterator[str]:
    for problem in machine.problems:
        if problem.subject == disk.name or problem.subject.startswith(f"{disk.name}:"):
            yield f"{problem.subject}: {problem.message} {problem.action}".rstrip()
    if disk.smart is not None and disk.smart.passed is False:
        yield f"{disk.name} reports that it is failing: capture it soon, expect unreadable sectors."


def _exclusion_warnings(name: str, partition: Partition) -> Iterator[str]:
    if partition.mount_point in _BOOT_POINTS or _BOOT_FLAGS & set(partition.flags):
        role = partition.mount_point or "/".join(sorted(_BOOT_FLAGS & set(partition.flags)))
        yield f"{name} ({role}) is left out: the virtual machine will probably not boot."
    elif partition.mount_point or partition.uuid:
        yield (
            f"{name} is left out: it reads as zeros. An fstab entry for it stops the boot unless "
            "it has 'nofail'."
        )


def _content_warnings(name: str, partition: Partition, choices: Choices) -> Iterator[str]:
    content = partition.content
    if content == ContentKind.BITLOCKER:
        yield (
            f"{name} is a BitLocker volume: the virtual machine will ask for the recovery key, "
            "and drivers cannot be put into it. Turn BitLocker off first; suspending it is no help."
        )
    elif content == ContentKind.LUKS:
        yield (
            f"{name} is encrypted with LUKS: its passphrase is needed at boot (a key in the old "
            "machine's TPM is not there), and by 'p2v convert --passphrase-file'."
        )
    elif content == ContentKind.LDM:
        yield (
            f"{name} belongs to a Windows dynamic disk: choose all disks of its group, or volumes "
            "that span disks are lost. A Windows that lies on it is not converted."
        )
    elif content == ContentKind.SWAP and partition.hibernated and not choices.all_blocks:
        yield (
            f"{name} holds a hibernation image, which is not copied: the virtual machine boots "
            "anew, and what was open at that time is lost. Start and shut down the machine first."
        )
    elif content == ContentKind.SWAP and partition.hibernated:
        yield (
            f"{name} holds a hibernation image: the virtual machine would try to resume it on "
            "other hardware. Start and shut down the machine first."
        )
    elif partition.unclean and not partition.writable:
        yield (
            f"{name} needs recovery ({partition.unclean}): every block is copied, and the virtual "
            "machine repairs it at its first boot. Shut the machine down cleanly to avoid both."
        )
    if partition.writable and not choices.live:
        where = f" on {partition.mount_point}" if partition.mount_point else ""
        yield f"{name} is mounted read-write{where}: it has to be unmounted before the migration."


def _split_sets(
    machine: Machine, disks: tuple[Disk, ...], excluded: set[tuple[str, int]]
) -> Iterator[str]:
    """Warn of sets (volume groups, arrays) of which only some members are copied."""
    chosen = {disk.path for disk in disks}
    for content in _MEMBERS:
        members: dict[str, list[tuple[str, bool]]] = {}
        for disk in machine.disks:
            for partition in disk.partitions:
                if partition.content == content and partition.group:
                    here = disk.path in chosen and (disk.path, partition.number) not in excluded
                    members.setdefault(partition.group, []).append(
                        (partition_name(disk, partition), here)
                    )
        for group, parts in members.items():
            missing = [name for name, here in parts if not here]
            if missing and len(missing) < len(parts):
                yield (
                    f"{_SETS[content]} {group} is incomplete without {', '.join(missing)}: its "
                    "volumes will not start, or lose data, in the virtual machine."
                )


_SETS = {
    ContentKind.LVM: "The volume group",
    ContentKind.MD: "The md array",
    ContentKind.BTRFS: "The btrfs",
}
