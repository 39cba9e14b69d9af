# SPDX-License-Identifier: GPL-3.0-or-later
import json
import re

import pytest

from agent.cli.main import main
from agent.inventory.collect import collect
from agent.inventory.content import Content, parse_blkid, read_content
from agent.plan import Choices, make_plan
from p2v.model import planfile
from p2v.model.machine import Machine, Severity
from p2v.model.plan import Treatment

MiB = 1 << 20
SIZE = 200 * MiB
SCRIPT = """label: gpt
size=1MiB, type=21686148-6449-6E6F-744E-656564454649
size=64MiB, type=L, name=root
size=32MiB, type=S
size=32MiB, type=AF9B60A0-1431-4F62-BC68-3311714A69AD
"""
SWAP_UUID = "5facb19f-a714-4517-92ce-0f5aaf32958b"


@pytest.fixture(scope="module")
def built(tmp_path_factory, run):
    """GPT: BIOS boot, ext4 with a label made to annoy, swap, a Windows dynamic disk's part."""
    tmp_path = tmp_path_factory.mktemp("built")
    path, part = tmp_path / "disk.img", tmp_path / "part"
    with path.open("wb") as file:
        file.truncate(SIZE)
    (tmp_path / "script").write_text(SCRIPT)
    run("sh", "-c", f"sfdisk -q {path} < {tmp_path / 'script'}")
    rows = json.loads(run("sfdisk", "--json", path))["partitiontable"]["partitions"]
    makes = {
        2: ("mkfs.ext4", "-qF", "-b", "4096", "-L", 'a "b\x1b[1m'),
        3: ("mkswap", "-q", "-U", SWAP_UUID, "-L", "sw"),
        4: ("mkfs.ntfs", "-qfF"),
    }
    for number, argv in makes.items():
        with part.open("wb") as file:
            file.truncate(rows[number - 1]["size"] * 512)
        part.chmod(0o600)
        run(*argv, part)
        with path.open("r+b") as file:
            file.seek(rows[number - 1]["start"] * 512)
            file.write(part.read_bytes())
    run("fallocate", "--dig-holes", path)
    return path


@pytest.fixture
def disk(built, tmp_path, run):
    path = tmp_path / "disk.img"
    run("cp", "--sparse=always", built, path)
    return path


def test_an_image_file_is_a_disk(disk, run):
    machine = collect([str(disk)])
    (found,) = machine.disks
    assert (found.name, found.path, found.size) == ("disk.img", str(disk), SIZE)
    assert (found.table, found.logical_sector, found.holders) == ("gpt", 512, ())
    boot, root, swap, dynamic = found.partitions
    assert (boot.content, boot.flags) == ("", ("bios_grub",))
    assert (root.content, root.label, root.name) == ("ext4", 'a "b\x1b[1m', "root")
    assert 0 < root.used < 16 * MiB
    assert (root.path, root.mount_point, root.writable, root.unclean) == ("", "", False, "")
    assert (swap.content, swap.uuid, swap.label) == ("swap", SWAP_UUID, "sw")
    assert swap.hibernated is False
    assert dynamic.content == "ldm", "an NTFS may span the disks of a dynamic group"
    assert machine.problems == ()
    assert Machine.from_json(json.loads(json.dumps(machine.to_json()))) == machine


@pytest.mark.root
def test_a_mounted_disk_shows_where_and_how_full(disk, run, loop, mount, tmp_path):
    with loop(disk, partitions=True) as device:
        before = collect([device.name]).disks[0]
        assert before.partitions[1].path == f"{device}p2"
        with mount(f"{device}p2", tmp_path / "m") as point:
            (point / "file").write_bytes(bytes(range(256)) * 40_000)
            run("sync")
            (root,) = [p for p in collect([str(device)]).disks[0].partitions if p.number == 2]
            assert (root.mount_point, root.writable, root.unclean) == (str(point), True, "")
            assert root.used >= before.partitions[1].used + 10_240_000
            run("mount", "-o", "remount,ro", point)
            (root,) = [p for p in collect([device.name]).disks[0].partitions if p.number == 2]
            assert (root.mount_point, root.writable) == (str(point), False)


@pytest.mark.root
@pytest.mark.parametrize(
    ("make", "content"), [(("mkfs.xfs", "-q"), "xfs"), (("mkswap", "-q"), "swap"), (None, "")]
)
def test_a_disk_without_a_table_has_at_most_number_0(make, content, tmp_path, run, loop):
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(304 * MiB)
    with loop(path) as device:
        if make:
            run(*make, device)
        (found,) = collect([device.name]).disks
    assert found.table == "none"
    expected = [(0, 0, 304 * MiB, content)] if content else []
    assert [(p.number, p.start, p.size, p.content) for p in found.partitions] == expected


def test_a_damaged_table_is_a_problem_and_the_disk_is_copied_whole(disk, capsys):
    with disk.open("r+b") as file:
        for at in (512 + 16, SIZE - 512 + 16):
            file.seek(at)
            file.write(b"\xff")
    (problem,) = collect([str(disk)]).problems
    assert (problem.severity, problem.code) == (Severity.ERROR, "table-damaged")
    assert main(["plan", "--disk", str(disk)]) == 0
    out, err = capsys.readouterr()
    plan = planfile.load(out)
    assert plan.disks[0].partitions == ()
    assert "The partition table cannot be read" in err


def test_ambiguous_contents_are_a_problem_and_copied_whole(tmp_path, run):
    path, other = tmp_path / "disk", tmp_path / "other"
    for file in (path, other):
        with file.open("wb") as image:
            image.truncate(304 * MiB)
    run("mkfs.xfs", "-q", path)
    run("mkfs.ext4", "-qF", other)
    with path.open("r+b") as image, other.open("rb") as source:
        source.seek(1024)
        image.seek(1024)
        image.write(source.read(1024))
    machine = collect([str(path)])
    assert machine.disks[0].partitions[0].content == "unknown"
    assert [problem.code for problem in machine.problems] == ["content-ambiguous"]
    plan = make_plan(machine, Choices(disks=(str(path),)))
    assert plan.disks[0].partitions[0].treatment is Treatment.COPY


def test_the_plan_verb_prints_a_plan_that_can_be_carried_out(disk, capsys):
    assert main(["plan", "--disk", str(disk), "--exclude", "disk.img:4", "--name", "box"]) == 0
    out, err = capsys.readouterr()
    plan = planfile.load(out)
    assert plan.name == "box"
    assert [p.treatment for p in plan.disks[0].partitions] == [
        Treatment.COPY,
        Treatment.USED,
        Treatment.SWAP,
        Treatment.EXCLUDE,
    ]
    assert err.startswith("warning: disk.img:4 ") or err == ""
    assert main(["plan", "--disk", str(disk), "--json"]) == 0
    assert planfile.from_json(json.loads(capsys.readouterr().out)).disks[0].size == SIZE


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["plan", "--disk", "no-such"], 23, "'no-such' is no disk or image file here"),
        (["plan"], 2, "no disk is chosen"),
        (["plan", "--disk", "DISK", "--exclude", "sda1"], 2, "there are: disk.img:1, disk.img:2"),
        (["plan", "--disk", "DISK", "--bwlimit", "fast"], 2, "'fast' is not a size"),
        (["plan", "--disk", "DISK", "--format", "vdi"], 2, "invalid choice: 'vdi'"),
        (["inventory", "--disk", "no-such"], 23, "no-such"),
        (["inventory", "--load-window", "nan"], 2, "'nan' is no number of seconds"),
        (["frobnicate"], 2, "invalid choice"),
        ([], 2, "VERB"),
    ],
)
def test_mistakes_are_said_in_a_sentence(argv, code, said, disk, capsys):
    assert main([str(disk) if word == "DISK" else word for word in argv]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_the_inventory_verb_prints_tables_or_one_document(disk, capsys):
    assert main(["inventory", "--disk", str(disk), "--load-window", "0.05", "--json"]) == 0
    machine = Machine.from_json(json.loads(capsys.readouterr().out))
    assert machine.load is not None
    assert 0.05 <= machine.load.window_s < 5
    assert main(["inventory", "--disk", str(disk), "--load-window", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"2\s+64\.0 MiB.*ext4\s+a \"b\\x1b\[1m", out), "a label steers no terminal"
    assert "\x1b" not in out


# --- contents ------------------------------------------------------------------------------------


def test_a_bitlocker_volume_is_recognised(tmp_path):
    """The signature and the fields that libblkid checks ([MS-FVE] is not public)."""
    path = tmp_path / "volume"
    boot = bytearray(MiB)
    boot[:11] = b"\xeb\x58\x90-FVE-FS-"
    boot[160:176] = bytes.fromhex("3bd667492e29d84a8399f6a339e3d001")
    boot[176:184] = (65536).to_bytes(8, "little")
    boot[65536:65544] = b"-FVE-FS-"
    boot[65546:65548] = (2).to_bytes(2, "little")
    path.write_bytes(boot)
    assert read_content(path, 0, MiB).kind == "BitLocker"


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (("mkfs.ext4", "-qF"), "ext4"),
        (("mkfs.fat",), "vfat"),
        (("mkfs.ntfs", "-qfF"), "ntfs"),
        (("mkfs.exfat",), "exfat"),
        (("mkswap", "-q"), "swap"),
    ],
)
def test_contents_are_recognised_in_the_middle_of_a_disk(make, kind, tmp_path, run):
    volume, disk = tmp_path / "volume", tmp_path / "disk"
    with volume.open("wb") as file:
        file.truncate(16 * MiB)
    run(*make, volume)
    disk.write_bytes(bytes(63 * 512) + volume.read_bytes() + bytes(MiB))
    assert read_content(disk, 63 * 512, 16 * MiB).kind == kind
    assert read_content(disk, 63 * 512 + 16 * MiB, 4096) == Content()


def test_an_md_member_names_its_array():
    text = b"ID_FS_UUID_ENC=aa-bb\nID_FS_UUID_SUB=cc\nID_FS_TYPE=linux_raid_member\n"
    found = parse_blkid(text)
    assert (found.kind, found.group) == ("linux_raid_member", "aa-bb")


def test_a_hibernated_swap_is_a_swap(tmp_path, run):
    path = tmp_path / "swap"
    path.write_bytes(bytes(8 * MiB))
    run("mkswap", "-q", path)
    with path.open("r+b") as file:
        file.seek(4086)
        file.write(b"S1SUSPEND\0")
    found = read_content(path, 0, 8 * MiB)
    assert (found.kind, found.hibernated) == ("swap", True)
