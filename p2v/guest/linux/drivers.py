# SPDX-License-Identifier: GPL-3.0-or-later
"""The drivers that a Linux guest needs on each platform.

Hyper-V: https://docs.kernel.org/virt/hyperv/vmbus.html; a VM of generation 2 has no other keyboard
than the synthetic one, so a passphrase at boot needs it. `sd_mod` is missing from an initramfs made
for a machine that had NVMe disks only.
"""

from __future__ import annotations

from p2v.guest.linux.facts import DriverState, Kernel
from p2v.guest.target import Platform

BOOT = {
    Platform.HYPERV: ("hv_vmbus", "hv_storvsc", "sd_mod"),
    Platform.KVM: ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"),
}
"""Without these the guest does not find its disk: they must be in every initramfs."""
EARLY = {
    Platform.HYPERV: ("hyperv_keyboard", "hid_hyperv", "ata_piix"),
    Platform.KVM: ("vmw_pvscsi", "xen_blkfront", "ahci"),
}
"""These belong into the initramfs too, where the kernel has them.

`ata_piix` drives the emulated IDE of generation 1 where the VMBus does not answer; and a rehearsal
under QEMU, which has no VMBus, finds its disk by it. Images for KVM go to VMware and XenServer too.
"""
NETWORK = {Platform.HYPERV: "hv_netvsc", Platform.KVM: "virtio_net"}
"""This one belongs there if the guest uses the network before its root is mounted."""
LATER = {
    Platform.HYPERV: ("hv_netvsc", "hv_utils", "hv_balloon", "pci_hyperv"),
    Platform.KVM: ("virtio_net", "virtio_balloon", "virtio_console"),
}
"""These are loaded from the root file system."""
DISPLAY = {
    Platform.HYPERV: ("hyperv_drm", "hyperv_fb"),
    Platform.KVM: ("virtio_gpu", "bochs", "bochs_drm", "qxl", "cirrus"),
}
"""One of these shows more than text."""

FILE_SYSTEMS = ("btrfs", "ext4", "xfs")
LAYERS = ("dm_mod", "dm_crypt")
"""These are for the root file system itself, whatever disk it lies on."""

ALL = sorted(
    {
        driver
        for table in (BOOT, EARLY, LATER, DISPLAY)
        for drivers in table.values()
        for driver in drivers
    }.union(FILE_SYSTEMS, LAYERS)
)


def unfit(kernel: Kernel, platform: Platform) -> list[str]:
    """Return the drivers without which the kernel can't run there: disk and network.

    Those of the disk are of no use as modules to a kernel that has no initramfs.
    """
    found = [
        driver
        for driver in (*BOOT[platform], NETWORK[platform])
        if kernel.state(driver) is DriverState.MISSING
    ]
    if not kernel.initramfs:
        found += [one for one in BOOT[platform] if kernel.state(one) is DriverState.MODULE]
    return found


def wanted_in_initramfs(kernel: Kernel, platform: Platform, *, network: bool) -> list[str]:
    """Return the drivers that the kernel has as modules and needs before its root is mounted.

    With `network`, that of the network too.
    """
    early = [*BOOT[platform], *EARLY[platform], *([NETWORK[platform]] if network else [])]
    return [driver for driver in early if kernel.state(driver) is DriverState.MODULE]
