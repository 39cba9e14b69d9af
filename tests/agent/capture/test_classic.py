# SPDX-License-Identifier: GPL-3.0-or-later
"""Classic programs: formats, levels, generations, and what tells that something was missed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.capture.audit import Audit, account, audits
from agent.capture.classic import ClassicMarks
from agent.capture.classic_program import Layout, Region, build, units
from agent.capture.leaves import read_leaf
from agent.capture.marks import granule_for
from agent.capture.tracepoint import Tracepoint, parse_format, tracefs
from tests.agent.capture.tracking import (
    GRANULE,
    Disk,
    KiB,
    MiB,
    bits,
    granules,
    keeps_its_promise,
    sound,
    tracked,
)

SIZE = 64 * MiB
REPOSITORY = Path(__file__).parents[3]

# Linux 4.19; later kernels add fields and move others.
FORMAT = """name: block_rq_complete
ID: 872
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;

	field:dev_t dev;	offset:8;	size:4;	signed:0;
	field:sector_t sector;	offset:16;	size:8;	signed:0;
	field:unsigned int nr_sector;	offset:24;	size:4;	signed:0;
	field:int error;	offset:28;	size:4;	signed:1;
	field:char rwbs[8];	offset:32;	size:8;	signed:1;
	field:__data_loc char[] cmd;	offset:40;	size:4;	signed:1;

print fmt: "%d,%d %s (%s) %llu + %u [%d]", ((unsigned int) ((REC->dev) >> 20))
"""


def test_fields_are_found_by_name():
    fields = parse_format(FORMAT)
    assert fields["sector"] == (16, 8)
    assert fields["rwbs"] == (32, 8)
    assert fields["cmd"] == (40, 4)
    point = Tracepoint(872, fields)
    assert point.offset("dev", 4) == 8
    for name, size in (("dev", 8), ("nothing", 1)):
        with pytest.raises(ValueError, match=f"no field {name}"):
            point.offset(name, size)


def test_a_program_fits_the_verifier_of_old_kernels():
    """4096 instructions at most, forward jumps only, whatever the number of disks."""
    begins, _ = units(1 << 25)
    regions = tuple(Region(number << 20, number << 12, 1 << 12, True) for number in range(64))
    layout = Layout(pages=3, counts=4, state=5, levels=begins, shift=7, regions=regions)
    code = build(Tracepoint(1, parse_format(FORMAT)), layout, completes=True)
    assert len(code) // 8 <= 4096
    backward = 0
    for at in range(0, len(code), 8):
        offset = int.from_bytes(code[at + 2 : at + 4], "little", signed=True)
        if code[at] & 7 == 5 and code[at] not in (0x85, 0x95):
            backward += offset < 0
    assert backward == len(regions)  # after a range beyond the end was cut, once a disk


def test_levels_lie_one_after_the_other():
    assert units(4096) == ((0, 4096, 4352, 4368), 4369)
    assert units(1) == ((0, 1, 2, 3), 4)


def test_granules_grow_so_that_marks_stay_within_bounds():
    budget = 32 * MiB
    assert granule_for([1], budget) == GRANULE
    assert granule_for([2 << 40], budget) == GRANULE
    assert granule_for([(2 << 40) + 1], budget) == 2 * GRANULE
    assert granule_for([1 << 40] * 16, budget) == 8 * GRANULE


@pytest.mark.root
@pytest.mark.parametrize(
    ("first", "count", "unit"),
    [(3, 17, 1), (3, 200, 16), (100, 256, 16), (5, 3000, 256), (7, 60_000, 4096)],
)
def test_a_long_range_is_marked_whole_and_little_more(tmp_path, loop, first, count, unit):
    size = 5 << 30
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(size)
    start, end = first // unit * unit, -(-(first + count) // unit) * unit
    with (
        loop(image) as device,
        Disk(device) as disk,
        tracked(ClassicMarks, device) as tracker,
    ):

        def check():
            disk.discard(first * GRANULE, count * GRANULE)
            marked = granules(tracker.swap(device.name))
            assert marked == set(range(start, min(end, size // GRANULE)))

        keeps_its_promise(tracker, device.name, check=check)


@pytest.fixture
def device(tmp_path, loop):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    with loop(image) as found:
        yield found


@pytest.mark.root
def test_generations_come_round_and_at_worst_repeat_a_mark(device):
    with Disk(device) as disk, tracked(ClassicMarks, device) as tracker:

        def check():
            for number in range(300):
                disk.write((1 + number % 900) * GRANULE)
                found = granules(tracker.swap(device.name))
                assert 1 + number % 900 in found
                assert len(found) <= 2

        keeps_its_promise(tracker, device.name, check=check)


@pytest.mark.root
def test_a_completion_that_is_missed_is_a_doubt(device):
    """With the completion hook absent for a while, as if its program had been skipped."""

    def hooked(leaves):
        return ClassicMarks(leaves, events=("block/block_rq_issue",))

    with Disk(device) as disk, tracked(hooked, device) as tracker:
        assert tracker.doubt(device.name) is None
        disk.write(0)
        assert "more written sectors than the tracker saw" in tracker.doubt(device.name)
        tracker.restart(device.name)
        assert tracker.doubt(device.name) is None
        disk.read(0, 4 * KiB)
        assert tracker.doubt(device.name) is None
        disk.discard(0, GRANULE)
        assert tracker.doubt(device.name)


@pytest.mark.root
@pytest.mark.parametrize("make", [ClassicMarks, bits])
def test_all_that_completes_is_accounted_for(device, make):
    stat = Path(f"/sys/block/{device.name}/stat")
    with Disk(device) as disk, tracked(make, device) as tracker:
        for _ in range(10):  # a completion may be missed, but then there is a doubt
            tracker.restart(device.name)
            before = account(stat)
            for number in range(100):
                disk.write(number * GRANULE, 8 * KiB)
            disk.discard(0, MiB)
            disk.zero(MiB, MiB)
            assert account(stat) - before == (100 * 8 * KiB + 2 * MiB) // 512
            if (doubt := tracker.doubt(device.name)) is None:
                return
            assert sound(doubt)
        pytest.fail(doubt)


class Counted:
    """A disk's account, and what the tracker saw; both grow while they are read, if it is busy."""

    def __init__(self, stat):
        self.stat = stat
        self.busy = True
        self._seen = self._accounted = 0
        self.write(1000, missed=1000)  # before tracking began

    def write(self, sectors, missed=0):
        self._seen += sectors - missed
        self._accounted += sectors
        self.stat.write_text(f"0 0 0 0 0 0 {self._accounted} 0 0 0 0\n")

    def seen(self):
        if self.busy:
            self.write(8)
        seen = self._seen
        if self.busy:
            self.write(8)
        return seen


@pytest.fixture
def counted(tmp_path):
    return Counted(tmp_path / "stat")


def test_a_difference_is_never_overstated(counted):
    audit = Audit(counted.stat, counted.seen)
    assert audit.missed() == 0
    counted.write(80)
    assert audit.missed() == 0
    counted.write(800, missed=800)
    assert 0 < audit.missed() <= 800


def test_an_account_that_was_opened_on_a_busy_disk_hides_nothing(counted):
    audit = Audit(counted.stat, counted.seen)
    counted.busy = False
    before = audit.missed()
    counted.write(8, missed=8)
    assert audit.missed() >= before + 8


def test_what_was_found_to_be_missed_stays_found(counted):
    counted.busy = False
    audit = Audit(counted.stat, counted.seen)
    counted.write(8, missed=8)
    assert audit.missed() == 8
    counted.busy = True
    assert audit.missed() == 8


def test_an_account_without_discards_is_that_of_an_older_kernel(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("1 0 8 0 1 0 16 0 0 0 0\n")
    assert account(stat) == 16
    stat.write_text("1 0 8 0 1 0 16 0 0 0 0 5 0 32 0 0 0\n")
    assert account(stat) == 48


@pytest.mark.root
def test_a_disk_that_keeps_no_account_has_no_audit(device):
    leaf = read_leaf(device.name)
    switch = Path(f"/sys/block/{device.name}/queue/iostats")
    assert audits(leaf)
    switch.write_text("0")
    try:
        assert not audits(leaf)
    finally:
        switch.write_text("1")


@pytest.mark.root
def test_what_one_disk_does_is_no_doubt_about_another(device, tmp_path, loop):
    other = tmp_path / "other.img"
    other.write_bytes(bytes(MiB))
    with loop(other) as second, tracked(ClassicMarks, device, second) as tracker:
        with Disk(second) as disk:
            disk.write(0)
        assert tracker.doubt(device.name) is None
        assert not tracker.swap(device.name)


@pytest.mark.root
def test_tracefs_is_mounted_aside_and_taken_away():
    """In a mount namespace where nothing has it mounted."""
    script = """
import os
from pathlib import Path
from agent.capture.tracepoint import read_tracepoint, tracefs
nowhere = (Path("/nonexistent"),)
with tracefs(nowhere) as folder:
    assert read_tracepoint(folder, "block/block_rq_issue").offset("sector", 8)
    assert str(folder) in Path("/proc/self/mounts").read_text()
assert str(folder) not in Path("/proc/self/mounts").read_text()
assert not folder.exists()
"""
    argv = ["unshare", "-m", sys.executable, "-c", script]
    subprocess.run(argv, cwd=REPOSITORY, check=True, env={**os.environ})


@pytest.mark.root
def test_a_mounted_tracefs_is_used_where_it_is(tmp_path):
    (tmp_path / "events/block").mkdir(parents=True)
    with tracefs((tmp_path / "absent", tmp_path)) as folder:
        assert folder == tmp_path
