# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are migrated while they are mounted and written to, and what their images hold.

Each image must be the disk at the instant of the freeze: clean after its journal was replayed,
with every record that was fsynced before, and nothing of what came after.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2v.model.errors import MigrationBusyError
from p2v.model.units import MiB
from tests.e2e import images
from tests.e2e.network import SEED
from tests.e2e.running import Agent, run, tool, wait_for
from tests.e2e.writers import Records, check_records, fio, writing_records

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
KINDS = {"ext4": 256, "xfs": 400, "btrfs": 400}
FORMATS = ("vhdx", "qcow2", "raw")


@dataclass
class Server:
    """A disk with a mounted file system, on a loop device."""

    kind: str
    loop: str
    point: Path
    room: Path

    def writers(self, name: str = "log", seed: int = 1) -> Any:
        return writing_records(self.point / "records", self.room / name, seed)


def attach(path: Path) -> str:
    """Return a loop device of the file that can be written to; its number may not have been."""
    loop = tool("losetup", "--show", "-f", path).strip()
    tool("blockdev", "--setrw", loop)
    return loop


@contextmanager
def serving(kind: str, room: Path) -> Iterator[Server]:
    """Make a disk with a table, a file system and files, and mount it."""
    path, point = room / f"{kind}.img", room / f"{kind}.mounted"
    with path.open("wb") as file:
        file.truncate((KINDS[kind] + 4) * MiB)
    tool("sh", "-c", f"echo '2048,{KINDS[kind]}M' | sfdisk -q --label gpt {path}")
    loop = attach(path)
    try:
        run(("partx", "-d", loop))
        tool("partx", "-a", loop)
        tool(f"mkfs.{kind}", "-q", f"{loop}p1")
        point.mkdir(exist_ok=True)
        tool("mount", f"{loop}p1", point)
        try:
            for number in range(20):
                (point / f"file-{number}").write_bytes(os.urandom(MiB // 2))
            os.sync()
            yield Server(kind, loop, point, room)
        finally:
            tool("umount", point)
    finally:
        run(("partx", "-d", loop))
        tool("losetup", "-d", loop)
        path.unlink()


@contextmanager
def restored(kind: str, image: Path, room: Path) -> Iterator[Path]:
    """Mount what is in the image, which replays its journal; then let its checker look at it."""
    raw, point = images.unpack(image, 512, room), room / "restored"
    loop = attach(raw)
    try:
        run(("partx", "-d", loop))
        tool("partx", "-a", loop)
        point.mkdir(exist_ok=True)
        tool("mount", *(["-o", "nouuid"] if kind == "xfs" else []), f"{loop}p1", point)
        try:
            yield point
        finally:
            tool("umount", point)
        checker = {
            "ext4": ("e2fsck", "-fn"),
            "xfs": ("xfs_repair", "-n"),
            "btrfs": ("btrfs", "check", "--check-data-csum"),
        }
        tool(*checker[kind], f"{loop}p1")
    finally:
        run(("partx", "-d", loop))
        tool("losetup", "-d", loop)
        raw.unlink()


def check(server_kind: str, image: Path, live: dict, records: Records, room: Path) -> int:
    """Check an image after its source was unmounted: btrfs mounts no twins."""
    images.check(image, 512)
    with restored(server_kind, image, room) as point:
        frozen_at, thawed_at = live["frozen_at"], live["frozen_at"] + live["freeze_s"]
        for number in range(20):
            assert (point / f"file-{number}").stat().st_size == MiB // 2
        return check_records(point / "records", records, frozen_at, thawed_at)


@pytest.mark.parametrize(("kind", "image"), list(zip(KINDS, FORMATS, strict=True)))
def test_a_disk_is_captured_while_it_is_written_to(shared_agent, room, kind, image):
    with (
        serving(kind, room) as server,
        fio(server.point / "fio"),
        server.writers() as records,
    ):
        done = shared_agent.migrate(server.loop, "--live", "--format", image)
    found = check(kind, Path(done["images"][0]), done["live"], records, room)
    assert found > 20


def restored_records(server: Server, done: dict, records: Records, room: Path) -> int:
    return check(server.kind, Path(done["images"][0]), done["live"], records, room)


RUNS = 2
MANY = int(os.environ.get("P2V_RUNS", "100"))
"""In a row, of each file system; a hundred take an hour or so on a busy machine."""


@pytest.mark.parametrize(
    ("kind", "runs"),
    [
        ("ext4", RUNS),
        *(
            pytest.param(kind, MANY, marks=[pytest.mark.slow, pytest.mark.timeout(9000)])
            for kind in KINDS
        ),
    ],
)
def test_runs_in_a_row_at_any_time_lose_nothing(shared_agent, room, kind, runs):
    dice = random.Random(f"{kind} {SEED}")
    for number in range(runs):
        with (
            serving(kind, room) as server,
            fio(server.point / "fio"),
            server.writers(f"log-{number}", number) as records,
        ):
            time.sleep(dice.uniform(0, 3))
            rate = dice.choice(["30M", "100M", "1G"])
            done = shared_agent.migrate(server.loop, "--live", "--format", "raw", "--bwlimit", rate)
        live = done["live"]
        found = restored_records(server, done, records, room)
        shutil.rmtree(Path(done["images"][0]).parent)
        print(
            f"run {number}: {found} records, frozen {live['freeze_s'] * 1000:.0f} ms,"
            f" {len(live['passes'])} passes, {live['freezes']} freezes, {live['troubles']}"
        )


# --- discards and zeros --------------------------------------------------------------------------


def test_what_is_discarded_and_zeroed_meanwhile_is_zeros_in_the_image(shared_agent, room):
    with serving("ext4", room) as server:
        mounted = server.point
        big = mounted / "big"
        big.write_bytes(os.urandom(48 * MiB))
        gone = mounted / "gone"
        gone.write_bytes(os.urandom(32 * MiB))
        os.sync()
        words = ("--live", "--format", "raw", "--bwlimit", "20M", "--cutover", "wait")
        migrating = Live(shared_agent, server.loop, *words)
        migrating.wait_for_phase("waiting")
        gone.unlink()
        tool("fallocate", "--punch-hole", "--offset", 8 * MiB, "--length", 8 * MiB, big)
        tool("fallocate", "--zero-range", "--offset", 24 * MiB, "--length", 4 * MiB, big)
        os.sync()
        tool("fstrim", mounted)
        wanted = big.read_bytes()
        migrating.cut_over()
        done = migrating.end()
        tool("umount", mounted)
        image = Path(done["images"][0])
        try:
            # Unmounting wrote to the journal and to the superblock; the file's blocks stay.
            with restored("ext4", image, room) as point:
                assert (point / "big").read_bytes() == wanted
                assert not (point / "gone").exists()
            assert image.stat().st_blocks * 512 < 110 * MiB, "what was trimmed is stored"
        finally:
            tool("mount", f"{server.loop}p1", mounted)


def test_a_disk_without_file_system_that_is_discarded_meanwhile_is_what_it_is(shared_agent, room):
    """`blkdiscard` and `blkdiscard -z` beside a mounted partition: the tracker knows them all."""
    with serving("ext4", room) as server:
        rest = (KINDS["ext4"] + 1) * MiB
        with Path(server.loop).open("r+b", buffering=0) as disk:
            disk.seek(rest)
            disk.write(os.urandom(2 * MiB))
            os.fsync(disk.fileno())
        words = ("--live", "--format", "raw", "--cutover", "wait")
        migrating = Live(shared_agent, server.loop, *words)
        migrating.wait_for_phase("waiting")
        tool("blkdiscard", "-f", "-o", rest, "-l", MiB // 2, server.loop)
        tool("blkdiscard", "-f", "-z", "-o", rest + MiB, "-l", MiB // 2, server.loop)
        migrating.cut_over()
        image = Path(migrating.end()["images"][0])
        with Path(server.loop).open("rb") as disk, image.open("rb") as copy:
            disk.seek(rest)
            copy.seek(rest)
            assert disk.read(2 * MiB) == copy.read(2 * MiB)


# --- the cut-over, later and after a reboot ------------------------------------------------------


class Live:
    """A live migration in a process of its own, and what it says of itself."""

    def __init__(self, agent: Agent, *words: object, code: str = "") -> None:
        options = [str(word) for word in words]
        if options[0] in ("sync", "migrate"):
            argv = [*options, "--server", agent.address, "--progress", "json", "--json"]
        else:
            argv = [*agent.words(*options), "--progress", "json"]
        program = code + "\nfrom agent.cli.main import main\nraise SystemExit(main())\n"
        self.agent = agent
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*agent.prefix, sys.executable, "-c", program, *argv],
            env=dict(agent.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        agent.started.append(self.process)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._said: list[str] = []

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said(line)

    def said(self, line: str) -> None:
        if line.startswith("{"):
            self.lines.append(json.loads(line))
        else:
            self._said.append(line)

    @property
    def id(self) -> str:
        wait_for(lambda: self.lines or self.process.poll() is not None)
        return str(self.lines[0]["migration"])

    def wait_for_phase(self, *phases: str) -> None:
        def reached() -> bool:
            assert self.process.poll() is None, "".join(self._said)
            return any(line["phase"] in phases for line in self.lines)

        wait_for(reached, 120, 0.02)

    def cut_over(self) -> None:
        done = self.agent.run("cutover", self.id)
        assert done.code == 0, done.err

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        assert self.process.stdout is not None
        self.out = self.process.stdout.read()
        code = self.process.wait(200)
        self._reader.join()
        return code

    def end(self) -> dict[str, Any]:
        code = self.wait()
        assert code == 0, self.out + "".join(self._said)
        return dict(json.loads(self.out))

    def resume(self, verb: str = "migrate", *words: str) -> Live:
        """Go on with it, once the converter has noticed that its agent is gone."""
        first = ("migrate", "--resume", self.id) if verb == "migrate" else ("sync", self.id)
        for _ in range(60):
            again = Live(self.agent, *first, *words)
            with suppress(subprocess.TimeoutExpired):
                if again.process.wait(4) == MigrationBusyError.exit_code:
                    again.wait()
                    continue
            return again
        raise AssertionError("the lease is never free")


def test_an_image_is_kept_warm_until_the_command(shared_agent, room):
    with serving("ext4", room) as server, server.writers() as records:
        words = ("--live", "--format", "qcow2", "--cutover", "wait")
        migrating = Live(shared_agent, server.loop, *words)
        migrating.wait_for_phase("waiting")
        late = server.point / "late"
        late.write_bytes(os.urandom(MiB))
        migrating.cut_over()
        done = migrating.end()
    image = Path(done["images"][0])
    with restored("ext4", image, room) as point:
        assert (point / "late").stat().st_size == MiB
    assert restored_records(server, done, records, room) > 0


def test_a_migration_goes_on_after_a_reboot_with_what_differs(shared_agent, room):
    """`sync` twice without a cut-over, then with one: the tracker is gone each time."""
    with serving("ext4", room) as server, server.writers() as records:
        first = Live(shared_agent, server.loop, "--live", "--format", "vhdx", "--cutover", "later")
        assert first.end()["state"] == "receiving"
        (server.point / "later").write_bytes(os.urandom(MiB))
        again = first.resume("sync").end()
        assert again["state"] == "receiving"
        assert again["counters"]["same"] > again["counters"]["sent"] > 0
        done = first.resume("sync", "--cutover", "now").end()
        assert done["state"] == "finished"
    with restored("ext4", Path(done["images"][0]), room) as point:
        assert (point / "later").stat().st_size == MiB
    assert restored_records(server, done, records, room) > 0


# --- kills ---------------------------------------------------------------------------------------

_DIE = "import os\nimport agent.live.capture as c\nc.LiveCapture._take = lambda *_: os.kill({}, 9)"
_HANG = (
    "import time\nimport agent.live.capture as c\nc.LiveCapture._take = lambda *_: time.sleep(999)"
)


def writable_again(records: Records, since: float) -> float:
    """Return how long after `since` a record was written whose write began after it."""

    def noted() -> float | None:
        after = [end for _, begun, end in records.notes() if end > since and begun > since]
        return min(after) if after else None

    return float(wait_for(noted, 60, 0.01)) - since


def test_an_agent_that_is_killed_while_all_is_frozen_leaves_it_thawed(shared_agent, room):
    with serving("ext4", room) as server, server.writers() as records:
        words = ("--live", "--format", "raw")
        dying = Live(shared_agent, server.loop, *words, code=_DIE.format("os.getpid()"))
        assert dying.wait() == -9
        print(f"written to again {writable_again(records, time.time()) * 1000:.0f} ms later")
        done = dying.resume().end()
    assert restored_records(server, done, records, room) > 0


@pytest.mark.slow
def test_an_agent_that_hangs_while_all_is_frozen_loses_the_freeze(shared_agent, room):
    with serving("ext4", room) as server, server.writers() as records:
        words = ("--live", "--format", "raw", "--freeze-limit", "1")
        hanging = Live(shared_agent, server.loop, *words, code=_HANG)
        hanging.wait_for_phase("delta", "final")
        watchdog = wait_for(lambda: tool("pgrep", "-x", "p2v-thaw", codes=(0, 1)), 60, 0.01)
        began = time.time()
        print(f"{watchdog.strip()}: written to again {writable_again(records, began):.2f} s later")
        hanging.kill()
        done = hanging.resume().end()
    assert restored_records(server, done, records, room) > 0


@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in range(1, 10))]
)
@pytest.mark.parametrize("victim", ["agent", "converter"])
def test_a_kill_at_any_time_loses_nothing(converter, agent, room, victim, turn):
    dice = random.Random(f"{victim} {turn} {SEED}")
    with serving("ext4", room) as server, fio(server.point / "fio"), server.writers() as records:
        wait = ("--cutover", "wait")  # else it may be over before the second kill
        words = ("--live", "--format", dice.choice(FORMATS), "--bwlimit", "12M", *wait)
        migrating = Live(agent, server.loop, *words)
        for phase in ("full", dice.choice(["delta", "full"])):
            migrating.wait_for_phase(phase, "delta", "waiting")
            time.sleep(dice.uniform(0, 2))
            if victim == "agent":
                migrating.kill()
                migrating = migrating.resume("migrate", *wait)
            else:
                converter.kill()
                converter.start()
        migrating.wait_for_phase("waiting")
        migrating.cut_over()
        done = migrating.end()
    found = restored_records(server, done, records, room)
    print(f"{victim} killed twice: {found} records, {done['live']['freezes']} freezes")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2, 40])
def test_a_cable_that_is_pulled_while_passes_are_sent_loses_nothing(
    network, far_away, room, seconds
):
    _, agent = far_away
    with serving("ext4", room) as server, fio(server.point / "fio"), server.writers() as records:
        words = ("--live", "--format", "raw", "--bwlimit", "12M")
        migrating = Live(agent, server.loop, *words)
        migrating.wait_for_phase("full")
        for pause in (1.0, 3.0):
            time.sleep(pause)
            network.link("down")
            time.sleep(seconds)
            network.link("up")
        done = migrating.end()
    assert restored_records(server, done, records, room) > 0


# --- what cannot be frozen -----------------------------------------------------------------------


@contextmanager
def beside(server: Server, name: str) -> Iterator[Path]:
    """Mount an NTFS, by FUSE, which knows no freezing, on a second disk."""
    path, point = server.room / f"{name}.img", server.room / name
    with path.open("wb") as file:
        file.truncate(64 * MiB)
    tool("mkfs.ntfs", "-q", "-F", path)
    point.mkdir()
    loop = attach(path)
    try:
        tool("mount.ntfs-3g", loop, point)
        try:
            yield Path(loop)
        finally:
            tool("umount", point)
    finally:
        tool("losetup", "-d", loop)


def test_a_file_system_that_knows_no_freezing_is_written_out_and_captured_too(shared_agent, room):
    with (
        serving("ext4", room) as server,
        beside(server, "esp") as second,
        server.writers() as records,
    ):
        (room / "esp" / "file").write_bytes(b"before" * 1000)
        words = ("--disk", second, "--live", "--format", "raw", "--cutover", "wait")
        migrating = Live(shared_agent, server.loop, *words)
        migrating.wait_for_phase("waiting")
        (room / "esp" / "late").write_bytes(b"after" * 1000)
        migrating.cut_over()
        done = migrating.end()
    with images_of_second(done, room) as point:
        assert (point / "file").read_bytes() == b"before" * 1000
        assert (point / "late").read_bytes() == b"after" * 1000
    assert restored_records(server, done, records, room) > 0


@contextmanager
def images_of_second(done: dict, room: Path) -> Iterator[Path]:
    loop = tool("losetup", "--show", "-f", done["images"][1]).strip()
    point = room / "second"
    point.mkdir()
    try:
        tool("mount.ntfs-3g", "-o", "ro", loop, point)
        try:
            yield point
        finally:
            tool("umount", point)
    finally:
        tool("losetup", "-d", loop)
