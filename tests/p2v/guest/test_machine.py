# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine that a guest needs, for who creates it by hand."""

from __future__ import annotations

from p2v.guest.machine import machine
from p2v.model.machine import FirmwareKind
from tests.p2v.guest.linux.making import TOOLS, guest, hyperv, kvm
from tests.p2v.guest.windows.making import facts as windows

UEFI = FirmwareKind.UEFI
SHIM = (*TOOLS, "/boot/efi/EFI/debian/shimx64.efi")


def shown(facts, target):
    return {one.name: one.value for one in machine(facts, target)}


def test_a_bios_guest_boots_from_ide_and_has_the_others_on_scsi():
    found = shown(guest(disks=3), hyperv())
    assert found["virtual machine"] == "Hyper-V, generation 1"
    places = [found[f"disk {number}"].partition(" on ")[2] for number in (1, 2, 3)]
    assert places == ["IDE 0:0, boots", "SCSI 0:0", "SCSI 0:1"]
    assert "Secure Boot" not in found


def test_secure_boot_needs_the_template_of_who_signed_the_loader():
    linux = shown(guest(firmware=UEFI, paths=SHIM), hyperv(UEFI))
    assert linux["virtual machine"] == "Hyper-V, generation 2"
    assert linux["disk 1"].endswith("SCSI 0:0, boots")
    assert "MicrosoftUEFICertificateAuthority" in linux["Secure Boot"]
    assert "MicrosoftWindows" in shown(windows(firmware=UEFI), hyperv(UEFI))["Secure Boot"]
    assert shown(guest(firmware=UEFI), hyperv(UEFI))["Secure Boot"].startswith("off")


def test_kvm_has_virtio():
    found = shown(guest(firmware=UEFI, paths=SHIM), kvm(UEFI))
    assert found["virtual machine"] == "KVM with UEFI"
    assert found["disk 1"].endswith("virtio 0, boots")
