# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole plans of Linux guests, and the steps that make an initramfs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2v.guest.edit import CopyFile, Edits, LinkFile, Refusal, RunProgram
from p2v.guest.facts import Volume
from p2v.guest.linux.drivers import ALL, BOOT
from p2v.guest.plan import plan
from p2v.guest.target import Platform
from p2v.model.machine import FirmwareKind, Severity
from tests.p2v.guest.linux.making import (
    ROOT,
    SWAP,
    TOOLS,
    VOLUMES,
    guest,
    hyperv,
    kernel,
    kvm,
    written,
)

GRUB = {"/boot/grub/grub.cfg": f"linux /boot/vmlinuz-6.1.0-9-amd64 root=UUID={ROOT} ro\n"}
BOOT_ONLY = set(ALL) - {"hv_netvsc", "virtio_net"}
FSTAB = {"/etc/fstab": f"UUID={ROOT} / ext4 defaults 0 1\n"}


def edits(facts, target=None):
    found = plan(facts, target or hyperv(facts.firmware))
    assert isinstance(found, Edits)
    return found.edits


def runs(facts, target=None):
    return [
        edit.action.argv for edit in edits(facts, target) if isinstance(edit.action, RunProgram)
    ]


def refusal(facts, target):
    found = plan(facts, target)
    assert isinstance(found, Refusal)
    return found.code


def test_a_guest_that_is_ready_needs_nothing():
    assert plan(guest({**GRUB, **FSTAB}), hyperv()) == Edits()
    assert plan(guest({**GRUB, **FSTAB}), kvm()) == Edits()


@pytest.mark.parametrize("platform", list(Platform))
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_driver_that_one_initramfs_lacks_has_all_made_anew(platform, index):
    driver = BOOT[platform][index]
    poor = kernel("5.10.0-1-amd64", held=set(ALL) - {driver})
    facts = guest({**GRUB, **FSTAB}, kernels=[kernel(), poor])
    target = hyperv() if platform is Platform.HYPERV else kvm()
    assert runs(facts, target) == [("update-initramfs", "-u", "-k", "all")]
    assert driver in written(edits(facts, target), "/etc/initramfs-tools/modules").split()


def test_what_the_administrator_named_is_kept_and_not_named_twice():
    files = {**GRUB, **FSTAB, "/etc/initramfs-tools/modules": "# mine\nhv_vmbus\nraid1"}
    text = written(edits(guest(files, kernels=[kernel(held=())])), "/etc/initramfs-tools/modules")
    assert text.startswith("# mine\nhv_vmbus\nraid1\nhv_storvsc\n")
    assert text.count("hv_vmbus") == 1


def test_dracut_makes_each_kernel_that_can_run():
    old = kernel("2.6.18", held=(), missing=ALL)
    facts = guest(
        {**GRUB, **FSTAB}, paths=("/usr/bin/dracut",), kernels=[kernel("6.1", held=()), old]
    )
    assert runs(facts) == [("dracut", "--force", "/boot/initrd.img-6.1", "6.1")]
    text = written(edits(facts), "/etc/dracut.conf.d/p2v.conf")
    assert text.startswith('add_drivers+=" hv_vmbus hv_storvsc sd_mod ')


def test_mkinitcpio_gets_its_modules():
    files = {**GRUB, **FSTAB, "/etc/mkinitcpio.conf": "MODULES=(crc32c)\nHOOKS=(base udev)\n"}
    facts = guest(files, paths=("/usr/bin/mkinitcpio",), kernels=[kernel(held=())])
    text = written(edits(facts), "/etc/mkinitcpio.conf")
    assert text.startswith("MODULES=(crc32c hv_vmbus hv_storvsc sd_mod ")
    assert text.endswith("HOOKS=(base udev)\n")
    assert runs(facts) == [("mkinitcpio", "-P")]


def test_suse_names_its_modules_in_sysconfig():
    files = {**GRUB, **FSTAB, "/etc/sysconfig/kernel": 'INITRD_MODULES="ahci"\nOTHER=""\n'}
    facts = guest(files, paths=("/sbin/mkinitrd",), kernels=[kernel(held=())])
    text = written(edits(facts), "/etc/sysconfig/kernel")
    assert text.startswith('INITRD_MODULES="ahci hv_vmbus hv_storvsc sd_mod ')
    assert runs(facts) == [("/sbin/mkinitrd",)]


def test_configuration_that_an_initramfs_copies_has_it_made_anew():
    crypt = Volume("/dev/sda5", "crypto_LUKS", "55555555-5555-5555-5555-555555555555")
    files = {**GRUB, **FSTAB, "/etc/crypttab": "root_crypt /dev/sda5 none luks,discard\n"}
    facts = guest(files, volumes=(*VOLUMES, crypt))
    assert written(edits(facts), "/etc/crypttab") == (
        f"root_crypt UUID={crypt.uuid} none luks,discard\n"
    )
    assert runs(facts) == [("update-initramfs", "-u", "-k", "all")]


STATIC = {"/etc/network/interfaces": "iface eno1 inet static\n address 192.0.2.7/24\n"}
LINK = "/etc/systemd/network/10-p2v-eno1.link"


def test_an_interface_gets_its_name_without_another_initramfs():
    found = edits(guest({**GRUB, **FSTAB, **STATIC}))
    assert [edit.action.path for edit in found] == [LINK]


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        ({}, ("/etc/dropbear/initramfs",)),
        ({"/etc/initramfs-tools/initramfs.conf": "MODULES=most\nIP=192.0.2.7::::eno1:off\n"}, ()),
        ({"/etc/default/grub": 'GRUB_CMDLINE_LINUX="quiet ip=dhcp"\n'}, ()),
    ],
)
def test_where_the_network_is_used_early_the_initramfs_learns_its_name_and_driver(files, paths):
    facts = guest({**GRUB, **FSTAB, **STATIC, **files}, paths=(*TOOLS, *paths))
    found = edits(facts)
    assert runs(facts) == [("update-initramfs", "-u", "-k", "all")]
    assert "hv_netvsc" in written(found, "/etc/initramfs-tools/modules").split()
    poor = guest({**FSTAB, **files}, paths=(*TOOLS, *paths), kernels=[kernel(held=BOOT_ONLY)])
    assert runs(poor) == [("update-initramfs", "-u", "-k", "all")]


def test_the_network_is_not_early_where_it_is_switched_off():
    files = {"/etc/initramfs-tools/initramfs.conf": "#IP=dhcp\nIP=off\nBOOT=local\n"}
    assert runs(guest({**GRUB, **FSTAB, **STATIC, **files})) == []


@pytest.mark.parametrize(
    ("device", "kind", "lost"),
    [
        ("/dev/sda3", "xfs", "xfs"),
        ("/dev/vg0/root", "ext4", "dm_mod"),
        ("/dev/mapper/p2vsda3", "btrfs", "dm_crypt"),
    ],
)
def test_what_the_root_lies_on_must_be_in_the_initramfs_too(device, kind, lost):
    volumes = (Volume(device, kind, ROOT, mount_point="/"),)
    files = {**GRUB, **FSTAB}
    facts = guest(files, volumes=volumes, kernels=[kernel(held=set(ALL) - {lost})])
    assert runs(facts) == [("update-initramfs", "-u", "-k", "all")]
    assert lost in written(edits(facts), "/etc/initramfs-tools/modules").split()
    assert runs(guest(files, volumes=volumes)) == []


def test_an_initramfs_that_names_interfaces_by_slot_for_good_is_made_anew_for_kvm():
    facts = guest({**GRUB, **FSTAB, **STATIC})
    assert runs(facts, kvm()) == [("update-initramfs", "-u", "-k", "all")]
    without = guest({**GRUB, **FSTAB, **STATIC}, kernels=[kernel(held=set(ALL) - {"virtio_net"})])
    assert runs(without, kvm()) == []
    for version, expected in (("239-58.el8", 1), ("252", 0)):
        paths = (*TOOLS, f"/usr/lib/systemd/libsystemd-shared-{version}.so")
        assert len(runs(guest({**GRUB, **FSTAB, **STATIC}, paths=paths), kvm())) == expected


def test_a_volume_that_the_old_tpm_unlocks_is_named():
    crypt = Volume("/dev/sda5", "crypto_LUKS", "55555555-5555-5555-5555-555555555555")
    text = f"data UUID={crypt.uuid} - tpm2-device=auto,nofail\n"
    found = plan(
        guest({**GRUB, **FSTAB, "/etc/crypttab": text}, volumes=(*VOLUMES, crypt)), hyperv()
    )
    assert found.edits == ()
    assert [(one.code, one.subject) for one in found.problems] == [("unlocked-by-hardware", "data")]


def test_a_guest_without_a_fitting_kernel_is_refused():
    facts = guest(kernels=[kernel(missing=["hv_vmbus"])])
    assert refusal(facts, hyperv()) == "unfit-kernel"
    assert isinstance(plan(facts, kvm()), Edits)
    assert refusal(guest(kernels=[]), hyperv()) == "no-kernel"


def test_a_kernel_whose_drivers_are_modules_needs_an_initramfs():
    bare = replace(kernel("6.6"), initramfs="")
    assert refusal(guest(kernels=[bare]), hyperv()) == "unfit-kernel"
    found = plan(guest(kernels=[kernel(), bare]), hyperv())
    assert [one.subject for one in found.problems] == ["6.6"]
    assert "no initramfs" in found.problems[0].message


def test_a_guest_without_a_tool_that_makes_an_initramfs_is_refused_only_if_it_needs_one():
    facts = guest({**GRUB, **FSTAB}, paths=(), kernels=[kernel(held=())])
    assert refusal(facts, hyperv()) == "no-initramfs-tool"
    assert plan(guest({**GRUB, **FSTAB}, paths=()), hyperv()) == Edits()


def test_a_hibernated_guest_is_refused():
    swap = Volume("/dev/sda2", "swsuspend", SWAP)
    found = plan(guest({**GRUB, **FSTAB}, volumes=(*VOLUMES[2:], swap)), hyperv())
    assert isinstance(found, Refusal) and found.code == "hibernated"
    assert f"mkswap -U {SWAP}" in found.hint


def test_the_kernel_that_starts_by_itself_is_named_loudly_if_it_is_unfit():
    facts = guest({**GRUB, **FSTAB}, kernels=[kernel(), kernel("2.6.18", missing=ALL)])
    facts = replace(facts, linux=replace(facts.linux, default_kernel="2.6.18"))
    (problem,) = plan(facts, hyperv()).problems
    assert problem.severity is Severity.ERROR and "by itself" in problem.message


def test_an_unfit_kernel_beside_a_fit_one_is_named():
    found = plan(guest(kernels=[kernel(), kernel("2.6.18", missing=ALL)]), hyperv())
    assert isinstance(found, Edits)
    assert [(one.code, one.subject) for one in found.problems] == [("unfit-kernel", "2.6.18")]


def test_impossible_machines_are_refused():
    bios = guest({**GRUB, **FSTAB})
    assert refusal(bios, hyperv(FirmwareKind.UEFI)) == "firmware"
    assert refusal(guest(architecture="aarch64"), hyperv()) == "architecture"
    small = guest(firmware=FirmwareKind.UEFI, architecture="i686")
    assert refusal(small, hyperv(FirmwareKind.UEFI)) == "generation"


def test_shim_is_copied_to_where_any_firmware_looks():
    files = ("shimx64.efi", "grubx64.efi", "mmx64.efi", "grub.cfg", "BOOTX64.CSV")
    paths = (*TOOLS, *(f"/boot/efi/EFI/debian/{name}" for name in files))
    facts = guest({**GRUB, **FSTAB}, paths=paths, firmware=FirmwareKind.UEFI)
    copies = [edit.action for edit in edits(facts)]
    assert copies[0] == CopyFile(
        "/boot/efi/EFI/debian/shimx64.efi", "/boot/efi/EFI/BOOT/BOOTX64.EFI"
    )
    assert {copy.to.rpartition("/")[2] for copy in copies[1:]} == {
        "grubx64.efi", "mmx64.efi", "grub.cfg",
    }  # fmt: skip


def test_a_partition_of_the_firmware_that_is_not_mounted_gets_its_loader_too():
    facts = guest({**GRUB, **FSTAB}, firmware=FirmwareKind.UEFI)
    there = ("/EFI/fedora/shimx64.efi", "/EFI/fedora/grubx64.efi", "/EFI/fedora/fonts")
    facts = replace(facts, linux=replace(facts.linux, esp="/dev/sda1", esp_files=there))
    assert [edit.action for edit in edits(facts)] == [
        CopyFile("/EFI/fedora/shimx64.efi", "/EFI/BOOT/BOOTX64.EFI", "/dev/sda1"),
        CopyFile("/EFI/fedora/grubx64.efi", "/EFI/BOOT/grubx64.efi", "/dev/sda1"),
    ]


def test_a_fallback_loader_that_is_there_stays():
    paths = (*TOOLS, "/boot/efi/EFI/debian/shimx64.efi", "/boot/efi/EFI/boot/bootx64.efi")
    assert edits(guest({**GRUB, **FSTAB}, paths=paths, firmware=FirmwareKind.UEFI)) == ()


def test_daemons_of_other_hardware_are_masked_but_not_the_administrators_own():
    wants = "/etc/systemd/system/multi-user.target.wants/"
    paths = (
        *TOOLS, wants + "smartd.service", wants + "cron.service", wants + "open-vm-tools.service",
        wants + "mcelog.service", "/etc/systemd/system/mcelog.service",
        wants + "qemu-guest-agent.service",
    )  # fmt: skip
    facts = guest({**GRUB, **FSTAB}, paths=paths)
    masks = [edit.action for edit in edits(facts)]
    assert masks == [
        LinkFile(f"/etc/systemd/system/{name}.service", "/dev/null")
        for name in ("open-vm-tools", "qemu-guest-agent", "smartd")
    ]
    names = [edit.action.path for edit in edits(facts, kvm())]
    assert "/etc/systemd/system/qemu-guest-agent.service" not in names


def test_before_systemd_their_start_links_become_stop_links():
    paths = (
        *TOOLS[:2], "/etc/rc3.d/S85smartd", "/etc/rc5.d/S85smartd", "/etc/rc3.d/S99cron",
        "/etc/rc.d/rc3.d/S07vmware-tools", "/etc/init.d/rc3.d/S01open-vm-tools",
    )  # fmt: skip
    renamed = [(edit.action.path, edit.action.to) for edit in edits(guest(paths=paths))]
    assert renamed == [
        ("/etc/init.d/rc3.d/S01open-vm-tools", "/etc/init.d/rc3.d/K99open-vm-tools"),
        ("/etc/rc3.d/S85smartd", "/etc/rc3.d/K15smartd"),
        ("/etc/rc5.d/S85smartd", "/etc/rc5.d/K15smartd"),
        ("/etc/rc.d/rc3.d/S07vmware-tools", "/etc/rc.d/rc3.d/K93vmware-tools"),
    ]


def test_a_start_link_without_a_unit_is_masked_by_systemd():
    found = edits(guest({**GRUB, **FSTAB}, paths=(*TOOLS, "/etc/rc3.d/S99srvadmin")))
    assert [edit.action for edit in found] == [
        LinkFile("/etc/systemd/system/srvadmin.service", "/dev/null")
    ]


def test_selinux_labels_what_was_edited_and_only_then():
    files = {**GRUB, **FSTAB, "/etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n"}
    assert edits(guest(files)) == ()
    assert written(edits(guest(files, kernels=[kernel(held=())])), "/.autorelabel") == ""
    files["/etc/selinux/config"] = "# SELINUX=enforcing\nSELINUX=disabled\n"
    assert written(edits(guest(files, kernels=[kernel(held=())])), "/.autorelabel") is None


@pytest.mark.parametrize(
    ("role", "database", "is_one"),
    [
        ("server role = active directory domain controller", True, True),
        ("  Server Role = DC", True, True),
        ("server role = active directory domain controller", False, False),
        ("server role = member server", True, False),
        ("# server role = active directory domain controller", True, False),
    ],
)
def test_a_domain_controller_is_named_as_one(role, database, is_one):
    files = {**GRUB, **FSTAB, "/etc/samba/smb.conf": f"[global]\n{role}\n"}
    paths = (*TOOLS, "/var/lib/samba/private/sam.ldb") if database else TOOLS
    found = [one.code for one in plan(guest(files, paths=paths), hyperv()).problems]
    assert ("domain-controller" in found) is is_one


def test_lvm_and_md_look_at_all_disks():
    files = {
        **GRUB,
        **FSTAB,
        "/etc/lvm/lvm.conf": 'devices {\n\tfilter = [ "a|/dev/sda3|", "r|.*|" ]\n}\n',
        "/etc/mdadm/mdadm.conf": "DEVICE /dev/sda1 /dev/sdb1\nARRAY /dev/md0 UUID=1\n",
    }
    found = edits(guest(files))
    assert written(found, "/etc/lvm/lvm.conf") == (
        'devices {\n\t# before p2v: filter = [ "a|/dev/sda3|", "r|.*|" ]\n}\n'
    )
    assert written(found, "/etc/mdadm/mdadm.conf") == "DEVICE partitions\nARRAY /dev/md0 UUID=1\n"
    files["/etc/mdadm/mdadm.conf"] = "ARRAY /dev/md0 UUID=1 devices=/dev/sda1,/dev/sdb1\n"
    files["/etc/lvm/lvm.conf"] = (
        'devices {\n  filter = [\n    "a|/dev/sda[1-3]|",\n    "r|.*|"\n  ]\n}\n'
    )
    found = edits(guest(files))
    assert written(found, "/etc/mdadm/mdadm.conf") == "ARRAY /dev/md0 UUID=1\n"
    assert written(found, "/etc/lvm/lvm.conf") == (
        'devices {\n  # before p2v: filter = [\n#    "a|/dev/sda[1-3]|",\n#    "r|.*|"\n#  ]\n}\n'
    )
    files["/etc/lvm/lvm.conf"] = 'devices {\n\tfilter = [ "a|.*|" ]\n}\n'
    assert written(edits(guest(files)), "/etc/lvm/lvm.conf") is None
