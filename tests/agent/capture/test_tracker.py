# SPDX-License-Identifier: GPL-3.0-or-later
"""The promise of the tracker: no write is lost, or there is a doubt. Real disks, real kernel."""

import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path

import pytest

from agent.capture.classic import ClassicMarks
from agent.capture.dirty import DirtySet
from agent.capture.leaves import leaves_of, read_leaf, starts_of
from agent.capture.marks import CoreMarks
from agent.capture.tracker import LiveTracker, Tracked, Way, choose
from p2v.model.errors import NoSuchDiskError
from tests.agent.capture.tracking import (
    GRANULE,
    WAYS,
    Disk,
    KiB,
    Load,
    MiB,
    bits,
    differing,
    granules,
    keeps_its_promise,
    mirror_like,
    needs_bits,
    sound,
    sysfs_like,
    tracked,
    wait_for,
)

pytestmark = pytest.mark.root
SIZE = 64 * MiB
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def make_disk(tmp_path, loop):
    with ExitStack() as stack:

        def make(size=SIZE, name="disk"):
            image = tmp_path / f"{name}.img"
            with image.open("wb") as file:
                file.truncate(size)
            return image, stack.enter_context(loop(image))

        yield make


@pytest.mark.parametrize("make", WAYS)
def test_every_way_to_change_a_disk_is_seen_and_nothing_else(make_disk, make):
    _, device = make_disk()
    with Disk(device) as disk, tracked(make, device) as tracker:
        check_operations(disk, tracker, device.name)
        assert sound(tracker.doubt(device.name))


def check_operations(disk, tracker, name):
    for change, expected in [
        (lambda: disk.write(4 * KiB), {0}),
        (lambda: disk.write(GRANULE - 4 * KiB, 8 * KiB), {0, 1}),
        (lambda: disk.write(10 * GRANULE, GRANULE), {10}),
        (lambda: disk.discard(20 * GRANULE, 3 * GRANULE), {20, 21, 22}),
        (lambda: disk.zero(30 * GRANULE, 2 * GRANULE), {30, 31}),
        (lambda: disk.zero(disk.size - 4 * KiB, 4 * KiB), {disk.size // GRANULE - 1}),
        (lambda: disk.read(0, MiB), set()),
        (lambda: os.fsync(disk.fd), set()),
    ]:

        def check(change=change, expected=expected):
            change()
            assert granules(tracker.swap(name)) == expected
            assert not tracker.swap(name)

        keeps_its_promise(tracker, name, check=check)


@pytest.mark.parametrize("make", WAYS)
@pytest.mark.parametrize("kind", ["ext4", pytest.param("xfs", marks=pytest.mark.slow)])
def test_whatever_a_file_system_changes_is_marked(make_disk, mount, run, tmp_path, make, kind):
    image, device = make_disk({"ext4": SIZE, "xfs": 304 * MiB}[kind])
    with tracked(make, device) as tracker:
        for change in (make_file_system, use_file_system, trim_file_system, freeze_file_system):

            def check(change=change):
                before = tmp_path / "before.img"
                subprocess.run(["cp", "--sparse=always", image, before], check=True)
                change(kind, device, tmp_path, mount, run)
                marked = granules(tracker.swap(device.name))
                changed = differing(before, image)
                assert changed
                assert changed <= marked

            keeps_its_promise(tracker, device.name, check=check)
        assert sound(tracker.doubt(device.name))


def make_file_system(kind, device, tmp_path, mount, run):
    run(f"mkfs.{kind}", "-q", device)


def use_file_system(kind, device, tmp_path, mount, run):
    dice = random.Random(7)
    with mount(device, tmp_path / "mnt") as point:
        with (point / "mapped").open("wb+") as file:
            file.truncate(4 * MiB)
            with mmap.mmap(file.fileno(), 4 * MiB) as mapped:
                for _ in range(40):
                    at = dice.randrange(1024) * 4 * KiB
                    mapped[at : at + 100] = dice.randbytes(100)
                mapped.flush()
        fd = os.open(point / "direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        os.truncate(fd, 4 * MiB)
        with mmap.mmap(-1, 4 * KiB) as block:
            for _ in range(40):
                block[:] = dice.randbytes(4 * KiB)
                os.pwrite(fd, block, dice.randrange(1024) * 4 * KiB)
        os.close(fd)
        for number in range(30):
            (point / f"file{number}").write_bytes(dice.randbytes(dice.randrange(200 * KiB)))
        for number in range(0, 30, 2):
            (point / f"file{number}").unlink()
        with (point / "file1").open("rb+") as file:
            run("fallocate", "--punch-hole", "--offset", 4096, "--length", 8192, file.name)
        os.sync()


def trim_file_system(kind, device, tmp_path, mount, run):
    with mount(device, tmp_path / "mnt") as point:
        assert "0 B" not in run("fstrim", "-v", point)


def freeze_file_system(kind, device, tmp_path, mount, run):
    with mount(device, tmp_path / "mnt") as point:
        (point / "late").write_bytes(random.randbytes(300 * KiB))
        run("fsfreeze", "-f", point)
        run("fsfreeze", "-u", point)


@pytest.mark.parametrize("make", WAYS)
def test_several_disks_are_kept_apart(make_disk, make):
    devices = [make_disk(size, f"disk{size}")[1] for size in (3 * MiB, 300 * MiB, 40 * MiB + 512)]
    with tracked(make, *devices) as tracker, ExitStack() as stack:
        disks = [stack.enter_context(Disk(device)) for device in devices]

        def check():
            for number, disk in enumerate(disks):
                disk.write(number * GRANULE)
            disks[1].discard(96 * MiB, 96 * MiB)  # whole units of every level
            disks[2].write(40 * MiB, 512)
            assert granules(tracker.swap(devices[1].name)) == {1, *range(1536, 3072)}
            assert tracker.dirty_bytes(devices[0].name) == GRANULE
            assert granules(tracker.swap(devices[0].name)) == {0}
            last = list(tracker.swap(devices[2].name))[-1]
            assert (last.offset, last.length) == (40 * MiB, 512)

        keeps_its_promise(tracker, *(device.name for device in devices), check=check)
        assert all(sound(tracker.doubt(device.name)) for device in devices)


@contextmanager
def held_back(make_disk, mount, run, tmp_path):
    """A disk whose writes are issued but do not complete while the file system below is frozen."""
    _, outer = make_disk(128 * MiB, "outer")
    run("mkfs.ext4", "-q", outer)
    with mount(outer, tmp_path / "outer") as point:
        (point / "inner.img").write_bytes(bytes(16 * MiB))
        inner = Path(run("losetup", "--find", "--show", point / "inner.img").strip())

        @contextmanager
        def frozen():
            run("fsfreeze", "-f", point)
            try:
                yield
            finally:
                run("fsfreeze", "-u", point)

        try:
            yield inner, frozen
        finally:
            run("losetup", "-d", inner)


def check_in_flight(make, held):
    """A write on its way is marked when it sets out and again when it has arrived."""
    device, frozen = held
    with Disk(device) as disk, tracked(make, device) as tracker:
        for _ in range(3):  # a completion may be missed, but not without a doubt
            tracker.restart(device.name)
            early, late = write_while_frozen(disk, tracker, device.name, frozen)
            assert early == {5}
            if late or tracker.doubt(device.name) is None:
                break
        assert late == {5}


def write_while_frozen(disk, tracker, name, frozen):
    early = set()

    def set_out():
        early.update(granules(tracker.swap(name)))
        return early

    writer = threading.Thread(target=disk.write, args=(5 * GRANULE,), name="writer")
    try:
        with frozen():
            writer.start()
            wait_for(set_out, timeout_s=2)
            assert not tracker.swap(name)
    finally:
        writer.join()
    return early, granules(tracker.swap(name))


@pytest.mark.parametrize("make", WAYS)
def test_a_write_that_is_on_its_way_is_marked_twice(make_disk, mount, run, tmp_path, make):
    with held_back(make_disk, mount, run, tmp_path) as held:
        check_in_flight(make, held)


def mutant(tmp_path, old, new):
    """The programs with one thing broken on purpose."""
    folder = REPOSITORY / "native/tracker"
    source = (folder / "tracker.bpf.c").read_text()
    assert old in source
    (tmp_path / "mutant.bpf.c").write_text(source.replace(old, new))
    headers = Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "")
    argv = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-I", folder, "-I", headers]
    subprocess.run([*argv, "-c", "mutant.bpf.c", "-o", "mutant.o"], cwd=tmp_path, check=True)
    program = (tmp_path / "mutant.o").read_bytes()
    return lambda leaves: bits(leaves, program=program)


@needs_bits
@pytest.mark.parametrize("hook", ["ISSUE", "COMPLETE"])
def test_without_one_of_its_hooks_a_write_is_lost(make_disk, mount, run, tmp_path, hook):
    marking = "bits ? note_bits(request, completed)"
    broken = mutant(tmp_path, marking, f"hook == {hook} ? 0 : {marking}")
    with (
        held_back(make_disk, mount, run, tmp_path) as held,
        pytest.raises(AssertionError),
    ):
        check_in_flight(broken, held)


@needs_bits
@pytest.mark.parametrize("blind", ["OP_DISCARD", "9 /* write zeroes */", "OP_WRITE"])
def test_without_one_of_the_operations_a_change_is_lost(make_disk, tmp_path, blind):
    broken = mutant(tmp_path, "if (op == OP_READ ||", f"if (op == OP_READ || op == {blind} ||")
    _, device = make_disk()
    with (
        Disk(device) as disk,
        tracked(broken, device) as tracker,
        pytest.raises(AssertionError),
    ):
        check_operations(disk, tracker, device.name)


def converge(tracker, disk, device, copy, load, passes):
    """Copy as a migration does: whatever was written since is read again, until nothing was."""
    tracker.restart(device.name)
    for at in range(0, disk.size, MiB):
        copy[at : at + MiB] = disk.read(at, min(MiB, disk.size - at))
    for _ in range(passes):
        for extent in tracker.swap(device.name):
            copy[extent.offset : extent.end] = disk.read(extent.offset, extent.length)
    load.stop()
    for extent in tracker.swap(device.name):
        copy[extent.offset : extent.end] = disk.read(extent.offset, extent.length)
    assert not tracker.swap(device.name)


EVER_SHORTER = (20, 20, 10, 5, 2, 1, 1, 1, 1, 1)
"""How much each try does. Classic programs say that they missed a write whenever a program of
somebody else's ran on their CPU just then, which the longer tries never escape on some machines."""


@pytest.mark.parametrize("make", WAYS)
def test_a_copy_of_a_disk_under_load_ends_identical_or_in_doubt(make_disk, make):
    image, device = make_disk(16 * MiB)
    with Disk(device) as disk, tracked(make, device) as tracker:
        for passes in EVER_SHORTER:
            copy = bytearray(disk.size)
            with Load(disk) as load:
                converge(tracker, disk, device, copy, load, passes)
            doubt = tracker.doubt(device.name)
            assert load.writes > 5 * passes
            if doubt is None:
                assert copy == image.read_bytes()
                return
        pytest.fail(f"every copy was in doubt: {doubt}")


@pytest.mark.parametrize("make", WAYS)
def test_many_swaps_under_load_together_hold_every_change(make_disk, tmp_path, make):
    swaps = 5 if make is ClassicMarks else 50  # each waits for the programs that run
    image, device = make_disk()
    before = tmp_path / "before.img"
    with Disk(device) as disk, tracked(make, device) as tracker:
        for times in EVER_SHORTER:
            shutil.copyfile(image, before)
            tracker.restart(device.name)
            union = DirtySet(SIZE, GRANULE)
            with Load(disk) as load:
                done = 0
                while done < swaps * times or load.writes < 100 * times:
                    union.merge(tracker.swap(device.name))
                    done += 1
            union.merge(tracker.swap(device.name))
            lost = differing(before, image) - granules(union)
            if (doubt := tracker.doubt(device.name)) is None:
                assert not lost
                return
        pytest.fail(f"every run was in doubt: {doubt}")


class Interrupted(CoreMarks):
    """Something is written while marks are collected: after they were read."""

    late = False
    """Whether marks are cleared only then, in a step of its own: what must not be."""

    def write(self):
        """Set by the test."""

    def collect(self, into):
        super().collect(into)
        self.write()
        if self.late:
            super().collect([bytearray(len(bits)) for bits in into])


@needs_bits
@pytest.mark.parametrize("late", [False, True])
def test_marks_that_are_cleared_after_they_were_read_lose_a_write(make_disk, late):
    _, device = make_disk()
    with Disk(device) as disk, tracked(Interrupted, device) as tracker:
        tracker.restart(device.name)
        tracker._marks.late = late
        tracker._marks.write = lambda: disk.write(7 * GRANULE)
        tracker.swap(device.name)
        del tracker._marks.write
        assert (granules(tracker.swap(device.name)) == {7}) is not late


@needs_bits
def test_reading_before_swapping_loses_a_write(make_disk):
    """Why a granule is cleared before it is read: the other order, with a write in between."""
    image, device = make_disk(4 * MiB)
    with Disk(device) as disk, tracked(bits, device) as tracker:
        for in_order in (True, False):
            disk.write(0)
            if in_order:
                tracker.swap(device.name)
                copy = disk.read(0, GRANULE)
                disk.write(0)
            else:
                copy = disk.read(0, GRANULE)
                disk.write(0)
                tracker.swap(device.name)
            lost = copy != image.read_bytes()[:GRANULE] and not tracker.swap(device.name)
            assert lost is not in_order


@pytest.mark.parametrize("make", WAYS)
def test_counting_takes_nothing_away(make_disk, make):
    _, device = make_disk()
    with Disk(device) as disk, tracked(make, device) as tracker:

        def check():
            disk.write(0)
            assert [tracker.dirty_bytes(device.name) for _ in range(3)] == [GRANULE] * 3
            disk.write(GRANULE)
            assert tracker.dirty_bytes(device.name) == 2 * GRANULE
            assert granules(tracker.swap(device.name)) == {0, 1}
            assert tracker.dirty_bytes(device.name) == 0

        keeps_its_promise(tracker, device.name, check=check)


@pytest.mark.parametrize("make", WAYS)
def test_a_mirror_is_tracked_through_its_members(make_disk, tmp_path, make):
    """Members of real disks, under a mirror that only sysfs knows of."""
    members = [make_disk(8 * MiB, name)[1] for name in ("one", "other")]
    sysfs, name = mirror_like(tmp_path / "sysfs", *members, offset=MiB)
    disk = read_leaf(name, sysfs)
    leaves = leaves_of(disk, sysfs)
    tracked = Tracked(disk, leaves, starts_of(disk, leaves, sysfs))
    with LiveTracker([tracked], make, sysfs=sysfs) as tracker, ExitStack() as stack:
        one, other = (stack.enter_context(Disk(member)) for member in members)

        def check():
            assert tracker.doubt(name) is None
            one.write(0)  # its own, before the data
            assert not tracker.swap(name)
            one.write(MiB + 5 * GRANULE)
            other.write(MiB + 5 * GRANULE)
            other.write(MiB + 9 * GRANULE + 4 * KiB)
            assert {at // GRANULE for at in tracker.marked(name, 8 * GRANULE, MiB)} == {9}
            one.write(8 * MiB - 4 * KiB, 4 * KiB)
            assert granules(tracker.swap(name)) == {5, 9, 7 * 16 - 1}

        keeps_its_promise(tracker, name, check=check)
        (sysfs / "block/md9/md/level").write_text("raid5\n")
        assert "on other disks" in tracker.doubt(name)


@pytest.mark.parametrize("make", WAYS)
def test_what_was_written_in_a_range_is_known_and_not_forgotten(make_disk, make):
    devices = [make_disk(size, f"disk{size}")[1] for size in (5 * MiB, 400 * MiB)]
    name = devices[1].name
    with tracked(make, *devices) as tracker, Disk(devices[0]) as other, Disk(devices[1]) as disk:

        def check():
            other.write(0)
            for granule in (1, 7, 64, 6399):
                disk.write(granule * GRANULE)
            tracker.dirty_bytes(name)  # the marks so far are kept elsewhere from now on
            for granule in (9, 66):
                disk.write(granule * GRANULE)
            disk.discard(2048 * GRANULE, 1024 * GRANULE)
            for first, count, wanted in [
                (0, 4, {1}),
                (4, 4, {7}),
                (0, 128, {1, 7, 9, 64, 66}),
                (63, 3, {64}),
                (2047, 3, {2048, 2049}),
                (3070, 4, {3070, 3071}),
                (6396, 4, {6399}),
                (100, 4, set()),
            ]:
                marked = tracker.marked(name, first * GRANULE, count * GRANULE)
                assert {at // GRANULE for at in marked} == wanted
            assert {1, 7, 9, 64, 66, 2048, 3071, 6399} <= granules(tracker.swap(name))
            assert not tracker.marked(name, 0, disk.size)
            assert tracker.marked(devices[0].name, 0, MiB) == {0}

        keeps_its_promise(tracker, *(device.name for device in devices), check=check)


@pytest.mark.parametrize("make", WAYS)
def test_a_write_beyond_the_known_end_and_a_resize_are_doubts(make_disk, run, make):
    image, device = make_disk()
    with tracked(make, device) as tracker:
        os.truncate(image, SIZE + MiB)
        run("losetup", "--set-capacity", device)
        assert f"resized from {SIZE} to {SIZE + MiB}" in tracker.doubt(device.name)
        with Disk(device) as disk:
            disk.write(SIZE + GRANULE)
            os.truncate(image, SIZE)
            run("losetup", "--set-capacity", device)
            assert "beyond the end" in tracker.doubt(device.name)
            tracker.restart(device.name)
            assert tracker.doubt(device.name) is None


def test_another_disk_under_the_same_name_is_a_doubt(make_disk, run, tmp_path):
    image, device = make_disk()
    with tracked(bits, device) as tracker:
        assert tracker.doubt(device.name) is None
        run("losetup", "-d", device)
        run("losetup", device, image)
        assert "another disk" in tracker.doubt(device.name)
        tracker.restart(device.name)
        assert "another disk" in tracker.doubt(device.name)


def test_a_restart_forgets_marks_and_doubts(make_disk):
    _, device = make_disk()
    with Disk(device) as disk, tracked(bits, device) as tracker:
        disk.write(0)
        tracker.restart(device.name)
        assert not tracker.swap(device.name)
        disk.write(0)
        assert tracker.swap(device.name)


KILLED = """
import sys
from agent.capture.tracker import LiveTracker, Tracked
from tests.agent.capture.tracking import *
make = {"classic": ClassicMarks, "bytes": in_bytes}[sys.argv[2]]
with tracked(make, Path(sys.argv[1])) as tracker:
    print("ready", flush=True)
    sys.stdin.read()
"""


def programs(run):
    return {
        line.split(":")[0]
        for line in run("bpftool", "prog", "list").splitlines()
        if line[:1].isdigit()
    }


@pytest.mark.parametrize("way", ["classic", "bytes"])
def test_a_killed_tracker_leaves_nothing_in_the_kernel(make_disk, run, way):
    _, device = make_disk()
    argv = [sys.executable, "-c", KILLED, str(device), way]
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        own = set()
        for info in Path(f"/proc/{child.pid}/fdinfo").iterdir():
            lines = info.read_text().split()
            if "prog_id:" in lines:
                own.add(lines[lines.index("prog_id:") + 1])
        assert own
        assert own <= programs(run)
        child.send_signal(signal.SIGKILL)
    wait_for(lambda: not own & programs(run))


def test_the_best_way_is_chosen_and_said(make_disk):
    _, device = make_disk()
    choice = choose([device])
    assert choice.way is Way.TYPED
    assert choice.untracked == ()
    assert choice.reasons[0].startswith(f"{device.name}: tracked by typed programs")
    with choice.tracker as tracker, Disk(device) as disk:
        disk.write(0)
        assert tracker.dirty_bytes(device.name) == GRANULE


CHOOSE = """
import os, sys
from pathlib import Path
from agent.capture.tracker import choose
if len(sys.argv) > 3:
    os.setuid(int(sys.argv[3]))  # here: who it becomes may not be able to read this folder
choice = choose([sys.argv[1]], sysfs=Path(sys.argv[2]))
print(choice.way.name, *choice.untracked, *choice.reasons, sep="\\n")
"""


def chosen_by(wrapper, device, sysfs="/sys", *user):
    script = [sys.executable, "-c", CHOOSE, str(device), str(sysfs), *user]
    done = subprocess.run(
        [*wrapper, *script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_types_classic_programs_are_used(make_disk, tmp_path):
    """In a mount namespace in which the kernel's types are hidden, as on a kernel without."""
    _, device = make_disk()
    hide = f'mount --bind {tmp_path} /sys/kernel/btf; exec "$@"'
    way, *reasons = chosen_by(["unshare", "-m", "sh", "-c", hide, "sh"], device)
    assert way == "CLASSIC"
    assert "brings no types" in reasons[0]
    assert reasons[1].startswith(f"{device.name}: tracked by classic programs")
    assert "comparison" in reasons[2]


def test_what_was_built_without_clang_uses_classic_programs_and_says_why(make_disk, monkeypatch):
    _, device = make_disk()
    monkeypatch.setattr(resources, "files", lambda _package: Path("/nonexistent"))
    choice = choose([device])
    with choice.tracker:
        assert choice.way is Way.CLASSIC
        assert "built without clang" in choice.reasons[0]


def test_without_rights_nothing_is_tracked_and_the_reason_is_said(make_disk):
    _, device = make_disk()
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    way, untracked, *reasons = chosen_by(bare, device)
    assert (way, untracked) == ("NONE", device.name)
    assert all("Operation not permitted" in reason for reason in reasons)
    way, _, *reasons = chosen_by([], device, "/sys", "65534")
    assert way == "NONE"
    assert all("only root" in reason for reason in reasons)


def test_a_kernel_that_is_locked_down_is_named(make_disk, tmp_path):
    _, device = make_disk()
    sysfs = sysfs_like(
        tmp_path,
        kernel__security__lockdown="none integrity [confidentiality]\n",
        kernel__btf__vmlinux="",
    )
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    _, _, *reasons = chosen_by(bare, device, sysfs)
    assert all("locked down (confidentiality)" in reason for reason in reasons)


def test_only_whole_disks_are_tracked(make_disk, tmp_path):
    with pytest.raises(NoSuchDiskError):
        choose(["/dev/no-such-disk"])
    image, _ = make_disk()
    with pytest.raises(NoSuchDiskError):
        choose([image])
