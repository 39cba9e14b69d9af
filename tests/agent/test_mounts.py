# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from agent.mounts import device_number, mounts, stacked_on, swaps, writers_of

MiB = 1 << 20
MOUNTINFO = (
    "27 1 254:0 / / rw,relatime - ext4 /dev/vda ro,discard\n"
    "28 27 8:17 /sub /mnt/a\\040b\\134c ro shared:5 master:1 - xfs /dev/sdb1 rw\n"
    "29 27 0:40 /@ /data rw - btrfs /dev/sdc rw,space_cache\n"
    "broken line\n"
)


def test_mountinfo_is_understood():
    root, bind, btrfs = mounts(MOUNTINFO)
    assert (root.device, root.point, root.type, root.writable) == ((254, 0), "/", "ext4", False)
    assert (bind.point, bind.writable) == ("/mnt/a b\\c", True), "a read-only bind mount"
    assert (btrfs.device, btrfs.source) == ((0, 40), "/dev/sdc")


def test_swaps_are_understood():
    text = "Filename Type Size Used Priority\n/dev/sda3 partition 1 0 -2\n/a\\040b file 1 0 -3\n"
    assert swaps(text) == ("/dev/sda3", "/a b")


def test_the_running_systems_tables_are_understood():
    assert any(mount.point == "/" for mount in mounts())
    assert isinstance(swaps(), tuple)


def test_a_file_is_no_device(tmp_path):
    assert device_number(tmp_path) is None
    assert device_number("a\0b") is None


@pytest.mark.root
def test_devices_stacked_on_a_disk_are_its_writers(tmp_path, loop, mount, run):
    """A loop device over a partition of a loop device: three layers down to the image file."""
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(32 * MiB)
    run("sh", "-c", f"printf 'label: dos\\nsize=24MiB\\n' | sfdisk -q {path}")
    with loop(path, partitions=True) as disk, loop(f"{disk}p1") as upper:
        names = set(stacked_on(device_number(disk)).values())
        assert names == {disk.name, f"{disk.name}p1", upper.name}
        run("mkfs.ext4", "-q", upper)
        assert writers_of(path) == ()
        with mount(upper, tmp_path / "m") as point:
            said = (f"{upper.name} is mounted read-write on {point}",)
            assert writers_of(path) == writers_of(disk) == writers_of(upper) == said
