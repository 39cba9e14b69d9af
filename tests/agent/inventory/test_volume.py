# SPDX-License-Identifier: GPL-3.0-or-later
"""The bounded readers of file systems' first structures, held against those systems' own tools."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.inventory.volume.state import volume_state
from agent.inventory.volume.window import VolumeDamagedError

MiB = 1 << 20
MAKE = {
    "ext2": ("mkfs.ext2", "-qF"),
    "ext4": ("mkfs.ext4", "-qF", "-b", "4096"),
    "xfs": ("mkfs.xfs", "-qf"),
    "btrfs": ("mkfs.btrfs", "-qf"),
    "ntfs": ("mkfs.ntfs", "-qfF"),
    "vfat": ("mkfs.fat", "-F32"),
    "exfat": ("mkfs.exfat",),
}
OFFSET = 1537 * 512
SIZE = 304 * MiB  # the least that mkfs.xfs takes is 300


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    import subprocess

    made = {}
    for kind, argv in MAKE.items():
        path = tmp_path_factory.mktemp("volumes") / kind
        with path.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run([*argv, path], check=True, capture_output=True)
        made[kind] = path
    return made


def tool_used(kind, path, run):
    if kind.startswith("ext"):
        text = run("dumpe2fs", "-h", path)
        count = {k: int(v) for k, v in re.findall(r"^(Block count|Free blocks|Block size):\s+(\d+)",
                                                  text, re.MULTILINE)}  # fmt: skip
        return (count["Block count"] - count["Free blocks"]) * count["Block size"]
    if kind == "xfs":
        text = run("xfs_db", "-r", "-c", "sb 0", "-c", "print dblocks fdblocks blocksize", path)
        blocks, free, size = (int(v) for v in re.findall(r"= (\d+)", text))
        return (blocks - free) * size
    if kind == "btrfs":
        text = run("btrfs", "inspect-internal", "dump-super", path)
        return int(re.search(r"^bytes_used\s+(\d+)", text, re.MULTILINE)[1])
    if kind == "ntfs":
        text = run("ntfsresize", "--info", "-f", "--no-progress-bar", path)
        return int(re.search(r"Space in use\s*:\s*(\d+) MB", text)[1]) * 1_000_000
    return None


@pytest.mark.parametrize("kind", ["ext2", "ext4", "xfs", "btrfs", "ntfs"])
def test_used_space_is_what_the_file_systems_own_tool_says(kind, volumes, run):
    state = volume_state(volumes[kind], 0, SIZE, kind)
    expected = tool_used(kind, volumes[kind], run)
    if kind == "ntfs":  # whole megabytes
        assert abs(state.used - expected) <= 1_000_000
    else:
        assert state.used == expected
    assert (state.unclean, state.hibernated, state.shared) == ("", False, False)


@pytest.mark.parametrize("kind", ["vfat", "exfat"])
def test_an_empty_fat_uses_next_to_nothing(kind, volumes):
    state = volume_state(volumes[kind], 0, SIZE, kind)
    assert 0 <= state.used < 8 * MiB
    assert state.unclean == ""


@pytest.mark.parametrize(
    ("size", "argv"),
    [
        (2, ("-F12",)),
        (32, ("-F16",)),
        (64, ("-F32",)),
        (64, ("-F32", "-S", "4096")),  # fewer clusters than the specification gives a FAT32
        (600, ("-F32", "-s", "8")),
    ],
)
def test_a_new_fat_is_clean_and_a_mounted_one_is_not(size, argv, tmp_path, run):
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(size * MiB)
    run("mkfs.fat", *argv, path)
    assert volume_state(path, 0, size * MiB, "vfat").unclean == ""
    with path.open("r+b") as file:
        file.seek(0x41 if argv[0] == "-F32" else 0x25)
        file.write(b"\x01")  # what Linux sets while it is mounted
    assert volume_state(path, 0, size * MiB, "vfat").unclean == "it was not unmounted cleanly"


@pytest.mark.parametrize("kind", MAKE)
def test_a_volume_is_read_the_same_in_the_middle_of_a_disk(kind, volumes, tmp_path):
    disk = tmp_path / "disk"
    with disk.open("wb") as file, volumes[kind].open("rb") as volume:
        file.truncate(OFFSET + SIZE + 4096)
        for at in range(0, SIZE, MiB):
            if (piece := volume.read(MiB)) != bytes(MiB):
                file.seek(OFFSET + at)
                file.write(piece)
    expected = volume_state(volumes[kind], 0, SIZE, kind)
    assert volume_state(disk, OFFSET, SIZE, kind) == expected


@pytest.mark.parametrize("kind", MAKE)
def test_another_content_is_refused(kind, volumes):
    other = "xfs" if kind != "xfs" else "ext4"
    with pytest.raises(VolumeDamagedError):
        volume_state(volumes[other], 0, SIZE, kind)


@pytest.mark.parametrize("kind", MAKE)
def test_a_volume_that_is_cut_off_is_refused_or_read(kind, volumes):
    for size in (0, 100, 512, 1100, 4096, 70_000):
        try:
            state = volume_state(volumes[kind], 0, size, kind)
        except VolumeDamagedError:
            continue
        assert state.used is None or state.used >= 0


@pytest.mark.parametrize("kind", MAKE)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 30))
def test_noise_gives_an_answer_or_a_refusal(kind, seed, volumes, tmp_path_factory):
    """Bytes of a valid volume's first structures change; nothing else may escape, nor take long."""
    rng = random.Random(seed)
    original = volumes[kind]
    interesting = {"btrfs": 65536, "ext2": 1024, "ext4": 1024}.get(kind, 0)
    spots = [interesting + rng.randrange(600) for _ in range(rng.randrange(1, 6))]
    if kind == "ntfs":  # the first records of the master file table
        spots += [4 * 4096 + rng.randrange(8 * 1024) for _ in range(4)]
    with original.open("r+b") as file:
        kept = []
        for spot in spots:
            file.seek(spot)
            kept.append((spot, file.read(1)))
            file.seek(spot)
            file.write(bytes([rng.randrange(256)]))
        file.flush()
        try:
            volume_state(original, 0, SIZE, kind)
        except VolumeDamagedError:
            pass
        finally:
            for spot, byte in reversed(kept):
                file.seek(spot)
                file.write(byte)


@pytest.mark.parametrize("feature", ["-E", "-O"])
def test_an_ext_with_errors_says_so(feature, tmp_path, run):
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(8 * MiB)
    run("mkfs.ext4", "-qF", path)
    words = {"-E": ("set_super_value state 2", "errors"), "-O": ("dirty", "unmounted cleanly")}
    command, said = words[feature]
    run("debugfs", "-w", "-R", command, path)
    assert said in volume_state(path, 0, 8 * MiB, "ext4").unclean


@pytest.mark.root
def test_the_members_of_a_btrfs_know_that_they_are_several(tmp_path, run):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(128 * MiB)
    run("mkfs.btrfs", "-q", *paths)
    states = [volume_state(path, 0, 128 * MiB, "btrfs") for path in paths]
    uuid = re.search(r"^UUID=(.*)$", run("blkid", "-p", "-o", "export", paths[0]), re.MULTILINE)[1]
    assert [(state.shared, state.group) for state in states] == [(True, uuid)] * 2


@pytest.mark.root
def test_a_physical_volume_names_its_group(tmp_path, run, loop):
    path = tmp_path / "pv"
    with path.open("wb") as file:
        file.truncate(32 * MiB)
    with loop(path) as device:
        lvm = ("--config", "global{use_lvmlockd=0} devices{use_devicesfile=0}")
        run("pvcreate", *lvm, "-qq", "-ff", "-y", device)
        assert volume_state(path, 0, 32 * MiB, "LVM2_member").group == ""
        run("vgcreate", *lvm, "-qq", "vg-p2v.test", device)
        run("sync")
        try:
            assert volume_state(path, 0, 32 * MiB, "LVM2_member").group == "vg-p2v.test"
            for _ in range(4):  # the text moves through the area with every change
                run("vgchange", *lvm, "-qq", "--addtag", "x", "vg-p2v.test")
                run("vgchange", *lvm, "-qq", "--deltag", "x", "vg-p2v.test")
            run("sync")
            assert volume_state(device, 0, 32 * MiB, "LVM2_member").group == "vg-p2v.test"
        finally:
            run("vgremove", *lvm, "-qq", "-f", "vg-p2v.test")


def test_contents_without_a_reader_have_no_state(tmp_path):
    assert volume_state(tmp_path, 0, 0, "f2fs") is None
