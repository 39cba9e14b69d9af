# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a converted guest shall run, and what of that its edits depend on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2v.model.machine import FirmwareKind


class Platform(StrEnum):
    """The hypervisor that will run the guest."""

    HYPERV = "hyperv"
    """Synthetic devices on the VMBus."""
    KVM = "kvm"
    """virtio devices."""


@dataclass(frozen=True, slots=True)
class NicAddress:
    """A network interface of the source: the name that its system knew, and its MAC address.

    The VM's interface gets the same MAC (`aa:bb:cc:dd:ee:ff`), which is what edits match on.
    """

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class Target:
    """The VM that the guest is prepared for.

    Attributes:
        platform: the hypervisor.
        firmware: that of the VM; a disk boots only with the one it was installed for.
        nics: the source's interfaces, as far as they are known.
        drivers: a folder or ISO on the converter with Windows drivers for virtio, "" for none.
    """

    platform: Platform
    firmware: FirmwareKind
    nics: tuple[NicAddress, ...] = ()
    drivers: str = ""

    @property
    def generation(self) -> int:
        """The generation of a Hyper-V VM: 1 starts by BIOS, 2 by UEFI; 0 elsewhere.

        https://learn.microsoft.com/windows-server/virtualization/hyper-v/plan/should-i-create-a-generation-1-or-2-virtual-machine-in-hyper-v
        """
        if self.platform is not Platform.HYPERV:
            return 0
        return 2 if self.firmware is FirmwareKind.UEFI else 1
