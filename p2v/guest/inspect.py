# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the operating system in the appliance's disks, and the facts that plans are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from p2v.guest.appliance import Appliance
from p2v.guest.facts import Disk, Family, GuestFacts, System, Volume
from p2v.guest.linux.facts import LinuxFacts
from p2v.guest.steps import inspector
from p2v.model.errors import GuestError, NoGuestError
from p2v.model.machine import ContentKind, FirmwareKind

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
MBR_ESP = "0xef"
BITLOCKER = "BitLocker"
UNLOCKED = "/dev/mapper/p2v"
"""How the names of encrypted volumes begin that were opened here."""
_NO_UNIT = "unknown"
_LOCKED = (ContentKind.LUKS, BITLOCKER)


def find_system(
    appliance: Appliance, root: str = "", passphrases: Sequence[str] = ()
) -> GuestFacts:
    """Return the common facts of the system on `root`, or of the only one; nothing is mounted.

    `passphrases` are tried on each encrypted volume.

    Raises:
        NoGuestError: there is none, there are several, or it is behind a passphrase.
        GuestError: its file systems can't be read.
    """
    disks = tuple(_disks(appliance))
    locked = [volume for volume in _volumes(appliance) if volume.kind in _LOCKED]
    closed = [one for one in locked if not _unlock(appliance, one, passphrases)]
    with appliance.calling("looking for operating systems") as handle:
        roots: list[str] = sorted(handle.inspect_os())
    if root and root not in roots:
        raise NoGuestError(
            image=appliance.name,
            problem=f"no operating system was found on {root}",
            way_out=f"Found: {', '.join(roots) or 'none'}.",
        )
    if not roots:
        raise _nothing_found(appliance.name, closed)
    systems = {each: _system(appliance, each) for each in roots}
    if len(roots) > 1 and not root:
        known = "; ".join(f"{each}: {system.name}" for each, system in systems.items())
        raise NoGuestError(
            image=appliance.name,
            problem=f"it holds {len(roots)} operating systems",
            way_out=f"Choose one with --root. {known}.",
        )
    chosen = root or roots[0]
    with appliance.calling("reading its mount points") as handle:
        mounts: dict[str, str] = handle.inspect_get_mountpoints(chosen)
    # Its fstab may name the root by a disk's name on the source, which is another disk's here, or
    # none's; where it was found is sure.
    mounts["/"] = chosen
    volumes = tuple(_mounted(_volumes(appliance), mounts))
    return GuestFacts(
        system=systems[chosen],
        firmware=_firmware(volumes, mounts),
        disks=disks,
        volumes=volumes,
        others=tuple(systems[each].name for each in roots if each != chosen),
    )


def mount(appliance: Appliance, facts: GuestFacts, *, read_only: bool) -> None:
    """Mount the system's file systems as it mounts them.

    Raises:
        GuestError: one can't be mounted.
    """
    options = "ro" if read_only else ""
    with appliance.calling("mounting its file systems") as handle:
        handle.umount_all()
        for volume in mount_order(facts):
            handle.mount_options(options, volume.device, volume.mount_point)


def mount_order(facts: GuestFacts) -> list[Volume]:
    """Return the volumes that the system mounts, those that hold others' mount points first."""
    mounted = [volume for volume in facts.volumes if volume.mount_point.startswith("/")]
    return sorted(mounted, key=lambda volume: (volume.mount_point.count("/"), volume.mount_point))


def complete(appliance: Appliance, facts: GuestFacts) -> GuestFacts:
    """Return the facts with free space and what the system's family knows; it must be mounted.

    Raises:
        GuestError: the system can't be read.
    """
    facts = replace(facts, volumes=tuple(_with_free(appliance, one) for one in facts.volumes))
    found = inspector(facts.system.family).inspect(appliance, facts)
    if isinstance(found, LinuxFacts):
        return replace(facts, linux=found)
    return replace(facts, windows=found)


def _nothing_found(image: str, closed: Sequence[Volume]) -> NoGuestError:
    if not closed:
        return NoGuestError(
            image=image,
            problem="no operating system was found",
            way_out="Give all disks of the guest; a data disk needs no conversion.",
        )
    names = ", ".join(f"{volume.device} ({volume.kind})" for volume in closed)
    if any(volume.kind == BITLOCKER for volume in closed):
        way_out = (
            "Switch BitLocker off on the source ('manage-bde -off C:'), wait until it has "
            "decrypted, and capture it again; suspending it is not enough."
        )
    else:
        way_out = "Give its passphrase with --passphrase-file."
    return NoGuestError(
        image=image, problem=f"its operating system is encrypted: {names}", way_out=way_out
    )


def _unlock(appliance: Appliance, volume: Volume, passphrases: Sequence[str]) -> bool:
    """Open an encrypted volume and the logical volumes in it; return whether a passphrase fits."""
    name = UNLOCKED.removeprefix("/dev/mapper/")
    name += "".join(char for char in volume.device.removeprefix("/dev/") if char.isalnum())
    for passphrase in passphrases:
        with suppress(GuestError), appliance.calling(f"unlocking {volume.device}") as handle:
            handle.cryptsetup_open(volume.device, passphrase, name)
            handle.lvm_scan(True)
            return True
    return False


def _disks(appliance: Appliance) -> Iterator[Disk]:
    with appliance.calling("reading its disks") as handle:
        for device in handle.list_devices():
            table = ""
            with suppress(RuntimeError):  # a disk without partitions
                table = handle.part_get_parttype(device)
            yield Disk(device, handle.blockdev_getsize64(device), table)


def _volumes(appliance: Appliance) -> Iterator[Volume]:
    """Yield partitions, logical, md and opened volumes, and disks without partitions."""
    with appliance.calling("reading its volumes") as handle:
        partitions = handle.list_partitions()
        whole = [
            disk
            for disk in handle.list_devices()
            if not any(p.startswith(disk) for p in partitions)
        ]
        devices = [*partitions, *whole, *handle.lvs(), *handle.list_md_devices()]
        devices += [one for one in handle.list_dm_devices() if one not in devices]
        for device in devices:
            found: Mapping[str, str] = {}
            with suppress(RuntimeError):  # nothing that blkid knows
                found = handle.blkid(device)
            yield _volume(device, found, handle.blockdev_getsize64(device))


def _volume(device: str, found: Mapping[str, str], size: int) -> Volume:
    return Volume(
        device=device,
        kind=found.get("TYPE", ""),
        uuid=found.get("UUID", ""),
        label=found.get("LABEL", ""),
        partuuid=found.get("PART_ENTRY_UUID", ""),
        partlabel=found.get("PART_ENTRY_NAME", ""),
        parttype=found.get("PART_ENTRY_TYPE", "").lower(),
        size=size,
    )


def _mounted(volumes: Iterator[Volume], mounts: Mapping[str, str]) -> Iterator[Volume]:
    """Yield the volumes with their mount points; one of btrfs once for each subvolume in use.

    libguestfs names a subvolume `btrfsvol:/dev/sda2/@home`.
    """
    by_device: dict[str, list[tuple[str, str]]] = {}
    for path, mountable in mounts.items():
        device = mountable.removeprefix("btrfsvol:")
        by_device.setdefault(device, []).append((path, mountable))
    for volume in volumes:
        here = [
            pair
            for device, pairs in by_device.items()
            for pair in pairs
            if device == volume.device
            or (pair[1] != device and device.startswith(f"{volume.device}/"))
        ]
        for path, mountable in here:
            yield replace(volume, device=mountable, mount_point=path)
        if not here:
            yield volume


def _with_free(appliance: Appliance, volume: Volume) -> Volume:
    if not volume.mount_point.startswith("/"):
        return volume
    with appliance.calling(f"looking for room in {volume.mount_point}") as handle:
        room: Mapping[str, int] = handle.statvfs(volume.mount_point)
    inodes = room["favail"] if room["files"] else -1
    return replace(volume, free=room["bavail"] * room["frsize"], free_inodes=inodes)


def _system(appliance: Appliance, root: str) -> System:
    with appliance.calling(f"inspecting {root}") as handle:
        family = handle.inspect_get_type(root)
        if family not in tuple(Family):
            raise NoGuestError(
                image=appliance.name,
                problem=f"{root} holds {handle.inspect_get_product_name(root)}, which is neither "
                "Linux nor Windows",
                way_out="The image itself is good; it may boot as it is.",
            )
        return System(
            family=Family(family),
            root=root,
            name=_name(handle.inspect_get_distro(root), handle.inspect_get_product_name(root)),
            distribution=handle.inspect_get_distro(root),
            major=handle.inspect_get_major_version(root),
            minor=handle.inspect_get_minor_version(root),
            architecture=handle.inspect_get_arch(root),
            hostname=_known(handle.inspect_get_hostname(root)),
        )


def _name(distribution: str, name: str) -> str:
    """Return the name for people; of a Debian libguestfs gives the version alone."""
    return f"{distribution.capitalize()} {name}" if name[:1].isdigit() else name


def _known(text: str) -> str:
    return "" if text == _NO_UNIT else text


def _firmware(volumes: Sequence[Volume], mounts: Mapping[str, str]) -> FirmwareKind:
    """Return what the system boots with.

    A disk with both an EFI system partition and a BIOS boot partition was made for either; the
    system then uses the one whose partition it mounts.
    """
    system = [volume for volume in volumes if volume.parttype in (ESP, MBR_ESP)]
    both = any(volume.parttype == BIOS_BOOT for volume in volumes)
    used = any(volume.mount_point for volume in system) or "/boot/efi" in mounts
    if system and (used or not both):
        return FirmwareKind.UEFI
    return FirmwareKind.BIOS
