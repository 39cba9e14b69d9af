# SPDX-License-Identifier: GPL-3.0-or-later
"""fstab: names that last, and nothing that a boot waits for in vain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.guest.linux import fstab
from p2v.guest.linux.facts import TextFile
from tests.p2v.guest.linux.making import DATA, ROOT, SWAP, guest, hyperv, problems, written


def planned(text, **facts):
    return list(fstab.plan(guest({fstab.FSTAB: text}, **facts), hyperv(), ()))


def fixed(text, **facts):
    return written(planned(text, **facts), fstab.FSTAB)


@pytest.mark.parametrize(
    "name",
    ["/dev/sda3", "/dev/hda3", "/dev/nvme0n1p3", "/dev/cciss/c0d0p3", "/dev/vda3", "/dev/xvda3",
     "/dev/loop0p3", "/dev/mmcblk0p3", "/dev/disk/by-id/ata-Samsung_850-part3",
     "/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part3"],
)  # fmt: skip
def test_names_of_the_hardware_become_uuids(name):
    assert fixed(f"{name} / ext4 errors=remount-ro 0 1\n") == (
        f"UUID={ROOT} / ext4 errors=remount-ro 0 1\n"
    )


@pytest.mark.parametrize(
    "line",
    [f"UUID={ROOT} / ext4 defaults 0 1", f"UUID={ROOT.upper()} / ext4 defaults",
     "LABEL=root / ext4", "PARTUUID=aaaa-03 / ext4 defaults 0 1",
     f"/dev/disk/by-uuid/{ROOT} / ext4 defaults 0 1",
     "# /dev/sda3 / ext4", "", "proc /proc proc defaults 0 0", "tmpfs /tmp tmpfs defaults",
     "nas:/export /mnt nfs defaults 0 0", "//nas/share /mnt cifs credentials=/x 0 0"],
)  # fmt: skip
def test_lines_that_are_right_stay_as_they_are(line):
    assert fixed(line + "\n") is None


def test_spacing_and_other_lines_are_kept():
    text = f"# old disk\n/dev/sda3\t/   ext4\tdefaults  0\t1\nUUID={SWAP} none swap sw 0 0\n"
    assert fixed(text) == text.replace("/dev/sda3", f"UUID={ROOT}")


def test_a_volume_that_was_left_out_is_not_waited_for_and_not_checked():
    assert fixed("UUID=dead-beef /backup ext4 defaults 0 2\n") == (
        "UUID=dead-beef /backup ext4 defaults,nofail,x-systemd.device-timeout=1s 0 0\n"
    )


def test_a_line_without_options_gets_them():
    assert fixed("LABEL=gone /backup ext4\n") == (
        "LABEL=gone /backup ext4 defaults,nofail,x-systemd.device-timeout=1s\n"
    )


def test_a_line_that_was_made_harmless_before_stays():
    once = fixed("UUID=dead-beef /backup ext4 defaults 0 2\n")
    assert fixed(once) == once or fixed(once) is None


def test_a_volume_that_the_system_needs_is_named():
    outcomes = planned("UUID=dead-beef /var ext4 defaults 0 2\n")
    assert problems(outcomes) == ["volume-left-out"]


def test_the_second_disk_is_found_by_its_letter():
    from p2v.guest.facts import Volume
    from tests.p2v.guest.linux.making import VOLUMES

    second = (*VOLUMES, Volume("/dev/sdb1", "ext4", DATA[::-1]))
    assert fixed("/dev/sdb1 /mnt ext4\n", volumes=second, disks=2) == (
        f"UUID={DATA[::-1]} /mnt ext4\n"
    )


GRUB = "/boot/grub/grub.cfg"


@pytest.mark.parametrize(
    ("line", "files"),
    [("/dev/sdb4 /mnt ext4 defaults 0 2", {}),
     ("/dev/nvme1n1p4 /mnt ext4 defaults 0 2", {}),
     ("/dev/sda4 /mnt ext4 defaults 0 2", {GRUB: "linux /vmlinuz root=/dev/sdb3 ro\n"}),
     ("/dev/cciss/c0d1p4 /mnt ext4 defaults 0 2", {GRUB: "linux /k root=/dev/cciss/c0d0p3 ro\n"})],
)  # fmt: skip
def test_a_partition_of_a_disk_that_was_left_out_is_not_taken_for_one_of_the_only_disk(line, files):
    facts = guest({fstab.FSTAB: line + "\n", **files})
    once = written(fstab.plan(facts, hyperv(), ()), fstab.FSTAB)
    assert once is not None and "nofail" in once and once.startswith(line.split()[0])
    assert fixed(once) is None  # the kernel line is corrected meanwhile


@pytest.mark.parametrize("root", ["/dev/sdb3", "/dev/nvme1n1p3", "/dev/disk/by-id/wwn-0x5-part3"])
def test_the_only_disk_is_the_one_that_the_root_file_system_is_named_by(root):
    swap = root.removesuffix("3") + "2"
    assert fixed(f"{root} / ext4 defaults 0 1\n{swap} none swap sw 0 0\n") == (
        f"UUID={ROOT} / ext4 defaults 0 1\nUUID={SWAP} none swap sw 0 0\n"
    )


def test_a_mount_point_decides_where_the_disk_can_not_be_told():
    text = "/dev/disk/by-id/scsi-3600508b1001c-part7 /srv xfs defaults 0 0\n"
    assert fixed(text, disks=2) == f"UUID={DATA} /srv xfs defaults 0 0\n"


def test_the_name_of_an_opened_encrypted_volume_is_known_by_crypttab():
    files = {
        fstab.FSTAB: "/dev/mapper/sda3_crypt / ext4 defaults 0 1\n/dev/mapper/gone /x ext4 ro\n",
        "/etc/crypttab": f"# none\nsda3_crypt UUID={ROOT} none luks\ngone /dev/mapper/gone none\n",
    }
    text = written(fstab.plan(guest(files), hyperv(), ()), fstab.FSTAB)
    assert text.splitlines()[0] == "/dev/mapper/sda3_crypt / ext4 defaults 0 1"
    assert "nofail" in text.splitlines()[1]


def test_a_file_that_was_cut_is_left_alone_and_named():
    facts = guest()
    long = TextFile(fstab.FSTAB, "/dev/sda3 / ext4", cut=True)
    from dataclasses import replace

    facts = replace(facts, linux=replace(facts.linux, files=(long,)))
    outcomes = list(fstab.plan(facts, hyperv(), ()))
    assert problems(outcomes) == ["file-too-long"]
    assert written(outcomes, fstab.FSTAB) is None


@given(st.text())
def test_any_text_is_planned_and_its_plan_is_final(text):
    once = fixed(text)
    if once is not None:
        assert fixed(once) in (None, once)
        assert once.count("\n") == text.count("\n")
