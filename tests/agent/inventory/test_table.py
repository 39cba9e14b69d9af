# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables written by sfdisk and sgdisk, read back; then damaged and hostile ones."""

import json
import os
import random
import struct

import pytest

from agent.inventory.gpt import read_gpt
from agent.inventory.mbr import read_mbr
from agent.inventory.table import read_table
from agent.inventory.volume.window import VolumeDamagedError, open_window

MiB = 1 << 20
SIZE = 64 * MiB


@pytest.fixture
def disk(tmp_path, run):
    def make(script=None, size=SIZE):
        path = tmp_path / "disk"
        with path.open("wb") as file:
            file.truncate(size)
        if script is not None:
            (tmp_path / "script").write_text(script)
            run("sh", "-c", f"sfdisk -q {path} < {tmp_path / 'script'}")
        return path

    return make


GPT = """label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name=boot
size=16MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI \u00fc"
size=3000KiB, type=L
"""
MBR = """label: dos
size=4MiB, type=83, bootable
size=40MiB, type=5
x5 : size=8MiB, type=82
x6 : size=8MiB, type=8e
x7 : size=8MiB, type=7
"""


def oracle(path, run):
    table = json.loads(run("sfdisk", "--json", path))["partitiontable"]
    nodes = {str(path) + str(n): n for n in range(1, 200)}
    return table, {
        (nodes[p["node"]], p["start"] * 512, p["size"] * 512): p for p in table["partitions"]
    }


def test_a_gpt_is_what_sfdisk_says(disk, run):
    path = disk(GPT)
    table = read_table(path, SIZE, 512, block=False)
    expected, parts = oracle(path, run)
    assert (table.kind, table.said) == ("gpt", ())
    assert table.uuid == expected["id"].lower()
    assert {(p.number, p.start, p.size) for p in table.partitions} == set(parts)
    for part in table.partitions:
        known = parts[part.number, part.start, part.size]
        assert part.type_id == known["type"].lower()
        assert part.uuid_in_table == known["uuid"].lower()
        assert part.name == known.get("name", "")
    assert [p.flags for p in table.partitions] == [("bios_grub",), ("boot", "esp"), ()]
    assert [p.type_name for p in table.partitions] == [
        "BIOS boot",
        "EFI System",
        "Linux filesystem",
    ]


def test_an_mbr_with_logical_partitions_is_what_sfdisk_says(disk, run):
    path = disk(MBR)
    table = read_table(path, SIZE, 512, block=False)
    expected, parts = oracle(path, run)
    assert (table.kind, table.said) == ("msdos", ())
    assert table.uuid == expected["id"].removeprefix("0x")
    found = {(p.number, p.start, p.size): p for p in table.partitions}
    extended = {key for key, p in parts.items() if p["type"] == "5"}
    assert set(found) == set(parts) - extended
    for key, part in found.items():
        assert part.type_id == f"{int(parts[key]['type'], 16):#04x}"
    assert [p.number for p in table.partitions] == [1, 5, 6, 7]
    assert table.partitions[0].flags == ("boot",)


@pytest.mark.root
@pytest.mark.parametrize("script", [GPT, MBR], ids=["gpt", "mbr"])
def test_sectors_of_4096_bytes(disk, run, loop, script):
    path = disk()
    with loop("-b", 4096, path) as device:
        (path.parent / "script").write_text(script)
        run("sh", "-c", f"sfdisk -q {device} < {path.parent / 'script'}")
        table = read_table(device, SIZE, 4096, block=True)
        rows = json.loads(run("sfdisk", "--json", device))["partitiontable"]["partitions"]
    assert table.sector == 4096
    expected = [(p["start"] * 4096, p["size"] * 4096) for p in rows if p["type"] != "5"]
    assert [(p.start, p.size) for p in table.partitions] == expected
    assert all(p.type_id for p in table.partitions)
    if script == GPT:  # an image file of such a disk tells its sector size by its GPT
        assert read_table(path, SIZE, 512, block=False) == table


def test_no_table_at_all(disk, run):
    path = disk()
    assert read_table(path, SIZE, 512, block=False).kind == "none"
    for make in (("mkfs.ext4", "-qF"), ("mkfs.fat",), ("mkswap", "-q"), ("mkfs.ntfs", "-qfF")):
        run(*make, path)
        assert read_table(path, SIZE, 512, block=False).kind == "none"


def test_reading_changes_nothing(disk):
    path = disk(GPT)
    with path.open("r+b") as file:
        file.seek(SIZE - 512)
        file.write(bytes(512))  # libparted would offer to repair the copy
    before = path.read_bytes()
    table = read_table(path, SIZE, 512, block=False)
    assert path.read_bytes() == before
    assert len(table.partitions) == 3
    assert any("backup GPT" in said for said in table.said)


def test_a_gpt_whose_first_header_is_damaged_is_read_from_its_copy(disk):
    path = disk(GPT)
    whole = read_table(path, SIZE, 512, block=False)
    with path.open("r+b") as file:
        file.seek(512 + 16)
        file.write(b"\xff")
    table = read_table(path, SIZE, 512, block=False)
    assert table.partitions == whole.partitions
    assert table.said


def test_a_gpt_that_is_damaged_beyond_reading_is_not_taken_for_none(disk):
    path = disk(GPT)
    with path.open("r+b") as file:
        for at in (512 + 16, SIZE - 512 + 16):
            file.seek(at)
            file.write(b"\xff")
    table = read_table(path, SIZE, 512, block=False)
    assert (table.kind, table.partitions) == ("damaged", ())
    assert table.said


def test_a_disk_that_has_grown_is_read_and_said(disk):
    path = disk(GPT)
    os.truncate(path, SIZE + 8 * MiB)
    table = read_table(path, SIZE + 8 * MiB, 512, block=False)
    assert len(table.partitions) == 3
    assert table.said


def test_a_ring_of_logical_partitions_ends(disk):
    path = disk(MBR)
    with path.open("r+b") as file:
        start = struct.unpack_from("<I", path.read_bytes(), 446 + 16 + 8)[0]
        file.seek(start * 512 + 446 + 16)
        file.write(struct.pack("<B3xB3xII", 0, 5, 0x800, 0x4000))
        file.seek((start + 0x800) * 512)
        ebr = bytearray(512)
        struct.pack_into("<B3xB3xII", ebr, 446 + 16, 0, 5, 0x800, 0x4000)
        ebr[510:] = b"\x55\xaa"
        file.write(ebr)
    read_table(path, SIZE, 512, block=False)
    with open_window(path, 0, SIZE) as window:
        assert len(read_mbr(window, 512).types) < 10


@pytest.mark.parametrize("script", [GPT, MBR], ids=["gpt", "mbr"])
@pytest.mark.parametrize("seed", range(4))
def test_a_hostile_table_ends_in_words(disk, script, seed):
    """Noise over the table, checksums made right where that is what keeps noise out."""
    path, rng = disk(script), random.Random(seed)
    with path.open("r+b") as file:
        for _ in range(20):
            at = rng.choice([rng.randrange(446, 510), rng.randrange(512, 4096)])
            file.seek(at)
            file.write(rng.randbytes(2))
    table = read_table(path, SIZE, 512, block=False)
    for part in table.partitions:
        assert 0 <= part.start < part.start + part.size <= SIZE
    for reader in (read_gpt, read_mbr):
        try:
            with open_window(path, 0, SIZE) as window:
                reader(window, 512)
        except VolumeDamagedError:
            pass


def test_a_disk_of_one_sector_or_none(disk):
    for size in (512, 1024):
        assert read_table(disk(size=size), size, 512, block=False).partitions == ()
