# SPDX-License-Identifier: GPL-3.0-or-later
from dataclasses import replace

import pytest

from agent.plan import Choices, make_plan
from p2v.model import planfile
from p2v.model.errors import NoSuchDiskError, UsageError
from p2v.model.machine import (
    Cpus,
    Disk,
    Firmware,
    FirmwareKind,
    Machine,
    Memory,
    OperatingSystem,
    Partition,
    Problem,
    Severity,
    Smart,
    Smbios,
)
from p2v.model.plan import ImageFormat, Treatment

MiB, GiB, TiB = 1 << 20, 1 << 30, 1 << 40

ROOT = Partition(2, 2 * MiB, 4 * GiB, "/dev/sda2", content="ext4", uuid="aa", used=GiB)
BOOT = Partition(1, MiB, MiB, "/dev/sda1", flags=("bios_grub",))
SWAP = Partition(3, 5 * GiB, GiB, "/dev/sda3", content="swap", uuid="bb")
SDA = Disk("sda", "/dev/sda", 8 * GiB, table="gpt", partitions=(BOOT, ROOT, SWAP))
SDB = Disk("sdb", "/dev/sdb", 8 * GiB, table="none")


def machine(*disks, problems=()):
    return Machine(
        name="box",
        firmware=Firmware(FirmwareKind.BIOS),
        smbios=Smbios(),
        cpus=Cpus(),
        memory=Memory(GiB),
        os=OperatingSystem(),
        disks=disks,
        problems=problems,
    )


def with_root(**changes):
    return replace(SDA, partitions=(BOOT, replace(ROOT, **changes), SWAP))


def plan_of(disk, **choices):
    return make_plan(machine(disk), Choices(disks=(disk.name,), **choices))


def treatments(plan):
    return {p.number: p.treatment for p in plan.disks[0].partitions}


def test_used_blocks_and_no_swap_by_default():
    plan = plan_of(SDA)
    assert treatments(plan) == {1: Treatment.COPY, 2: Treatment.USED, 3: Treatment.SWAP}
    assert all(partition.reason for partition in plan.disks[0].partitions)
    assert plan.name == "box"
    assert plan.warnings == ()
    assert planfile.load(planfile.dump(plan)) == plan


def test_all_blocks_means_swap_too_but_not_what_is_excluded():
    plan = plan_of(SDA, all_blocks=True, exclude=("sda2",))
    assert treatments(plan) == {1: Treatment.COPY, 2: Treatment.EXCLUDE, 3: Treatment.COPY}


@pytest.mark.parametrize("name", ["sda", "/dev/sda"])
def test_a_disk_goes_by_name_or_path(name):
    assert make_plan(machine(SDA, SDB), Choices(disks=(name,))).disks[0].path == "/dev/sda"


def test_an_image_file_goes_by_any_path_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = replace(SDA, name="disk.img", path=str(tmp_path / "disk.img"))
    for name in ("disk.img", "./disk.img", str(tmp_path / "disk.img")):
        assert make_plan(machine(image), Choices(disks=(name,))).disks[0].name == "disk.img"


@pytest.mark.parametrize("name", ["sda3", "/dev/sda3", "sda:3", "/dev/sda:3"])
def test_a_partition_goes_by_node_or_number(name):
    assert treatments(plan_of(SDA, exclude=(name,)))[3] is Treatment.EXCLUDE


def test_an_unknown_disk_is_named():
    with pytest.raises(NoSuchDiskError, match="sdz"):
        make_plan(machine(SDA), Choices(disks=("sdz",)))


def test_an_unknown_partition_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match=r"'sda9' to exclude; there are: sda1, sda2, sda3"):
        plan_of(SDA, exclude=("sda9",))


def test_a_partition_of_a_disk_that_is_not_chosen_cannot_be_excluded():
    with pytest.raises(UsageError, match="no partition 'sda2'"):
        make_plan(machine(SDA, SDB), Choices(disks=("sdb",), exclude=("sda2",)))


def test_no_disk_or_one_twice_is_refused():
    with pytest.raises(UsageError, match="sda, sdb"):
        make_plan(machine(SDA, SDB), Choices(disks=()))
    with pytest.raises(UsageError, match="chosen twice"):
        make_plan(machine(SDA), Choices(disks=("sda", "/dev/sda")))


def test_a_disk_too_large_for_the_format_is_refused():
    huge = replace(SDB, size=64 * TiB + 512)
    with pytest.raises(UsageError, match=r"holds at most 64\.0 TiB"):
        plan_of(huge)
    assert plan_of(huge, format=ImageFormat.QCOW2).disks[0].size == 64 * TiB + 512
    plan_of(replace(SDB, size=64 * TiB))


def test_only_qcow2_is_compressed():
    with pytest.raises(UsageError, match="qcow2"):
        plan_of(SDA, compress_image=True)
    assert plan_of(SDA, compress_image=True, format=ImageFormat.QCOW2).compress_image


@pytest.mark.parametrize(
    ("changes", "treatment", "warning"),
    [
        ({"content": "BitLocker"}, Treatment.COPY, "recovery key"),
        ({"content": "crypto_LUKS"}, Treatment.COPY, "passphrase is needed"),
        ({"content": "ldm"}, Treatment.COPY, "dynamic disk"),
        ({"unclean": "its journal is full"}, Treatment.COPY, "needs recovery (its journal"),
        ({"writable": True, "mount_point": "/srv"}, Treatment.USED, "mounted read-write on /srv"),
        ({"content": "swap", "hibernated": True}, Treatment.SWAP, "holds a hibernation image"),
        ({"content": "f2fs"}, Treatment.COPY, None),
        ({"content": "btrfs", "group": "uuid"}, Treatment.COPY, None),
        ({"content": ""}, Treatment.COPY, None),
    ],
)
def test_each_content_has_its_treatment_and_warning(changes, treatment, warning):
    plan = plan_of(with_root(**changes))
    assert treatments(plan)[2] is treatment
    assert (plan.warnings == ()) is (warning is None)
    if warning is not None:
        (said,) = plan.warnings
        assert said.startswith("sda2 ")
        assert warning in said


def test_a_live_capture_has_nothing_against_a_mounted_disk():
    assert plan_of(with_root(writable=True, mount_point="/"), live=True).warnings == ()


def test_leaving_out_a_boot_partition_is_warned_of():
    (said,) = plan_of(SDA, exclude=("sda1",)).warnings
    assert "sda1 (bios_grub) is left out: the virtual machine will probably not boot" in said
    disk = with_root(mount_point="/boot")
    assert "sda2 (/boot) is left out" in plan_of(disk, exclude=("sda2",)).warnings[0]


def test_leaving_out_data_is_warned_of_with_fstab():
    (said,) = plan_of(SDA, exclude=("sda2",)).warnings
    assert "nofail" in said


@pytest.mark.parametrize(
    ("content", "what"), [("LVM2_member", "volume group"), ("linux_raid_member", "md array")]
)
def test_a_set_that_is_split_is_warned_of(content, what):
    first = with_root(content=content, group="vg0")
    other = Partition(0, 0, 8 * GiB, "/dev/sdb", content=content, group="vg0")
    second = replace(SDB, partitions=(other,))
    whole = make_plan(machine(first, second), Choices(disks=("sda", "sdb")))
    assert whole.warnings == ()
    for choices in (Choices(("sda",)), Choices(("sda", "sdb"), exclude=("sdb",))):
        warnings = make_plan(machine(first, second), choices).warnings
        assert any(f"{what} vg0 is incomplete without sdb" in said for said in warnings)


def test_what_the_inventory_says_of_a_chosen_disk_is_in_the_plan():
    problems = (
        Problem(Severity.ERROR, "table-damaged", "sda", "The table is damaged.", "All is copied."),
        Problem(Severity.ERROR, "table-damaged", "sdb", "Not this one."),
    )
    plan = make_plan(machine(SDA, SDB, problems=problems), Choices(disks=("sda",)))
    assert plan.warnings == ("sda: The table is damaged. All is copied.",)


def test_a_disk_that_expects_to_die_is_warned_of():
    failing = replace(SDA, smart=Smart(passed=False))
    assert "failing" in plan_of(failing).warnings[0]


def test_what_the_inventory_says_of_a_partition_is_in_the_plan():
    problem = Problem(Severity.WARNING, "volume-damaged", "sda:2", "It is torn.", "All is copied.")
    plan = make_plan(machine(SDA, SDB, problems=(problem,)), Choices(disks=("sda",)))
    assert plan.warnings == ("sda:2: It is torn. All is copied.",)
