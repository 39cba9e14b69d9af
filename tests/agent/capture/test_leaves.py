# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices are watched for a disk, on trees of devices as sysfs shows them."""

from pathlib import Path

import pytest

from agent.capture.leaves import SYSFS, Carrier, kernel_name, leaves_of, read_leaf, starts_of
from p2v.model.errors import NoSuchDiskError


class Sysfs:
    """A sysfs that is made up device by device."""

    def __init__(self, root):
        self.root = root
        self._minor = 0
        for name in ("block", "class/block", "devices"):
            (root / name).mkdir(parents=True)

    def disk(self, name, *, mq=True, scheduler=None, below=(), segments="1"):
        folder = self.root / "devices" / name
        for part in ("slaves", "queue"):
            (folder / part).mkdir(parents=True)
        if mq:
            (folder / "mq").mkdir()
        if scheduler:
            (folder / "queue/scheduler").write_text(scheduler)
        (folder / "queue/max_discard_segments").write_text(f"{segments}\n")
        (folder / "dev").write_text(f"8:{self._minor}\n")
        (folder / "size").write_text("2048\n")
        self._minor += 1
        for lower in below:
            (folder / "slaves" / lower).symlink_to((self.root / "class/block" / lower).resolve())
        (self.root / "block" / name).symlink_to(folder)
        (self.root / "class/block" / name).symlink_to(folder)

    def partition(self, disk, name):
        folder = self.root / "devices" / disk / name
        folder.mkdir()
        (folder / "partition").write_text("1\n")
        (folder / "start").write_text("2048\n")
        (self.root / "class/block" / name).symlink_to(folder)

    def array(self, name, level, **offsets):
        """Make it an array, whose data is on its members from `offsets` on, in sectors."""
        self.disk(name, mq=False, below=list(offsets))
        folder = self.root / "devices" / name / "md"
        folder.mkdir()
        (folder / "level").write_text(f"{level}\n")
        for member, offset in offsets.items():
            (folder / f"dev-{member}").mkdir()
            (folder / f"dev-{member}" / "offset").write_text(f"{offset}\n")

    def starts(self, name):
        disk = read_leaf(name, self.root)
        return starts_of(disk, leaves_of(disk, self.root), self.root)

    def names(self, name):
        return [leaf.name for leaf in leaves_of(read_leaf(name, self.root), self.root)]


@pytest.fixture
def sysfs(tmp_path):
    return Sysfs(tmp_path)


def test_a_disk_with_a_queue_is_its_own_leaf(sysfs):
    sysfs.disk("sda")
    leaf = read_leaf("sda", sysfs.root)
    assert (leaf.carrier, leaf.size, leaf.number) == (Carrier.REQUESTS, 1 << 20, (8, 0))
    assert leaves_of(leaf, sysfs.root) == (leaf,)


def test_a_queue_of_the_older_kind_is_known_by_its_scheduler(sysfs):
    sysfs.disk("sda", mq=False, scheduler="noop deadline [cfq]\n")
    sysfs.disk("ram0", mq=False, scheduler="none\n")
    assert read_leaf("sda", sysfs.root).carrier is Carrier.REQUESTS
    assert read_leaf("ram0", sysfs.root).carrier is Carrier.NONE


def test_volumes_lead_to_the_disks_below_through_partitions_and_arrays(sysfs):
    for disk in ("sda", "sdb"):
        sysfs.disk(disk)
        sysfs.partition(disk, f"{disk}2")
    sysfs.disk("md0", mq=False, below=["sda2", "sdb2"])
    sysfs.disk("dm-0", mq=False, below=["md0"])
    assert sysfs.names("dm-0") == ["sda", "sdb"]


def test_where_a_mirror_begins_on_its_members_is_known(sysfs):
    for disk in ("sda", "sdb"):
        sysfs.disk(disk)
        sysfs.partition(disk, f"{disk}2")
    assert sysfs.starts("sda") == (0,)
    sysfs.array("md0", "raid1", sda2=16, sdb=0)
    assert sysfs.starts("md0") == ((2048 + 16) * 512, 0)


def test_of_no_other_array_or_volume_it_is(sysfs):
    sysfs.disk("sda")
    sysfs.disk("sdb")
    sysfs.array("md0", "raid0", sda=16, sdb=16)
    sysfs.disk("dm-0", mq=False, below=["sda"])
    sysfs.array("md1", "raid1", **{"dm-0": 0, "sdb": 0})
    for partition in ("sda1", "sda2"):
        sysfs.partition("sda", partition)
    sysfs.array("md2", "raid1", sda1=0, sda2=0)
    for name in ("md0", "dm-0", "md1", "md2"):
        assert sysfs.starts(name) is None


def test_two_partitions_of_one_disk_are_one_leaf(sysfs):
    sysfs.disk("sda")
    sysfs.partition("sda", "sda1")
    sysfs.partition("sda", "sda2")
    sysfs.disk("dm-0", mq=False, below=["sda1", "sda2"])
    assert sysfs.names("dm-0") == ["sda"]


def test_one_device_that_nobody_sees_spoils_the_whole(sysfs):
    sysfs.disk("sda")
    sysfs.disk("pmem0", mq=False)
    sysfs.disk("dm-0", mq=False, below=["sda", "pmem0"])
    assert sysfs.names("pmem0") == []
    assert sysfs.names("dm-0") == []


def test_an_nvme_multipath_disk_is_watched_through_its_paths(sysfs):
    sysfs.disk("nvme3n2", mq=False)
    sysfs.disk("nvme4n1")
    head = read_leaf("nvme3n2", sysfs.root)
    assert (head.carrier, head.nvme) == (Carrier.PATHS, (3, 2))
    assert leaves_of(head, sysfs.root) == (head,)
    assert read_leaf("nvme4n1", sysfs.root).nvme is None


@pytest.mark.parametrize(("segments", "scatters"), [("1", False), ("0", False), ("256", True)])
def test_a_discard_of_several_ranges_is_foreseen(sysfs, segments, scatters):
    sysfs.disk("sda", segments=segments)
    assert read_leaf("sda", sysfs.root).scatters is scatters


def test_a_device_that_is_made_anew_is_another(sysfs):
    sysfs.disk("sda")
    before = read_leaf("sda", sysfs.root)
    assert read_leaf("sda", sysfs.root) == before
    folder = (sysfs.root / "block/sda").resolve()
    folder.rename(folder.with_name("gone"))
    (sysfs.root / "block/sda").unlink()
    (sysfs.root / "class/block/sda").unlink()
    with pytest.raises(FileNotFoundError):
        read_leaf("sda", sysfs.root)
    sysfs.disk("sda")
    assert read_leaf("sda", sysfs.root).identity != before.identity


@pytest.mark.root
def test_this_kernels_own_devices_are_understood(tmp_path, loop):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with loop(image) as device:
        link = tmp_path / "by-id"
        link.symlink_to(device)
        assert kernel_name(link) == device.name
        leaf = read_leaf(device.name)
        assert (leaf.carrier, leaf.size) == (Carrier.REQUESTS, 1 << 20)
        for other in SYSFS.glob("block/zram*"):
            assert leaves_of(read_leaf(other.name)) == ()
    with pytest.raises(NoSuchDiskError):
        kernel_name(image)


@pytest.mark.root
def test_a_partition_is_no_disk(tmp_path, loop, run):
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(8 << 20))
    run("sgdisk", "--new=1:2048:4096", image)
    with loop(image, partitions=True) as device, pytest.raises(NoSuchDiskError):
        kernel_name(Path(f"{device}p1"))
