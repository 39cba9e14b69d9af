# SPDX-License-Identifier: GPL-3.0-or-later
"""Live captures: how long disks under load are frozen, and what it costs to catch up."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import corpus, ways
from bench.measure import median, run
from p2v.model.units import KiB, MiB

AGENT = ".venv/bin/p2v-agent"
LOAD = ("--rw=randwrite", "--bs=4k", "--size=64M", "--ioengine=psync", "--rate_iops=300",
        "--fdatasync=8", "--time_based", "--runtime=3600", "--minimal")  # fmt: skip
PIECE = 64 * KiB
CHANGED = 10 * MiB
"""One per cent of the source's used blocks."""
LARGER = 64
"""A server with so many GiB in use is what the figures are reckoned for; the source has one."""
READ = ("of=/dev/null", "bs=1M", "iflag=direct")
NO_DISCARD = {"ext4": ("-E", "nodiscard"), "xfs": ("-K", "-f"), "btrfs": ("-K", "-f")}


@contextmanager
def _attached(path: Path) -> Iterator[str]:
    """Attach a disk, to be written to."""
    loop = run(["losetup", "--show", "-f", "--direct-io=on", str(path)])[1].strip()
    subprocess.run(["partx", "-a", loop], check=False, capture_output=True)
    try:
        yield loop
    finally:
        subprocess.run(["partx", "-d", loop], check=False, capture_output=True)
        run(["losetup", "-d", loop])


@contextmanager
def _mounted(device: str, point: Path) -> Iterator[None]:
    """Mount a file system."""
    point.mkdir(exist_ok=True)
    run(["mount", device, str(point)])
    try:
        yield
    finally:
        run(["umount", str(point)])


@dataclass(frozen=True)
class Target:
    """Where the images go, as the agent is told, and in which format."""

    name: str
    words: tuple[str, ...]
    format: str
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    def argv(self, verb: str, *words: str, progress: str = "none") -> list[str]:
        """Return the agent's command line."""
        return [AGENT, verb, *words, *self.words, "--progress", progress, "--json"]

    def migrate(self, loop: str, *words: str, progress: str = "none") -> list[str]:
        """Return that of a live migration of `loop`."""
        given = ("--live", "--disk", loop, "--name", "bench", "--format", self.format)
        return self.argv("migrate", *given, "--no-convert", *words, progress=progress)

    def run(self, argv: list[str]) -> dict[str, Any]:
        """Run it to its end; return its document."""
        return dict(json.loads(run(argv, env=self.environment)[1]))


def _folder(path: Path) -> Target:
    path.mkdir(parents=True, exist_ok=True)
    return Target("--to DIR, raw", ("--to", str(path)), "raw")


def _served(server: ways.Converter) -> Target:
    return Target("TLS to VHDX", ("--server", server.url), "vhdx", server.environment)


def freezes(kind: str, runs: int, work: Path) -> list[str]:
    """Return a row: the windows of `runs` captures under random writes, in milliseconds."""
    seen = []
    for _ in range(runs):
        path, point = work / "live.img", work / "live"
        with path.open("wb") as file:  # no holes: else a flush of the disk is one of its host's too
            for _ in range(512):
                file.write(bytes(MiB))
        run([f"mkfs.{kind}", "-q", *NO_DISCARD[kind], str(path)])
        with _attached(path) as loop, _mounted(loop, point):
            fio = subprocess.Popen(
                ["fio", "--name=load", f"--directory={point}", *LOAD], stdout=subprocess.DEVNULL
            )
            try:
                time.sleep(2)
                target = _folder(work / "to")
                done = target.run(target.migrate(loop))
            finally:
                fio.terminate()
                fio.wait()
        seen.append(done["live"]["freeze_s"] * 1000)
        shutil.rmtree(work / "to")
        path.unlink()
    return [
        f"{kind}, 300 random writes a second",
        str(runs),
        f"{median(seen):.0f}",
        f"{max(seen):.0f}",
    ]


def catching_up(target: Target, runs: int, work: Path) -> list[list[str]]:
    """Return rows: the full pass, and what 1 % of the used blocks costs, tracked and not.

    A pass takes a time of its own however little changed, and some for what did. The source is
    small, so that its own time counts for more than on a larger disk: both are told.
    """
    disk = corpus.linux_disk()
    path, point = work / "source.img", work / "live"
    subprocess.run(["cp", "--sparse=always", str(disk.path), str(path)], check=True)
    fulls, deltas, least, scans, reads = [], [], [], [], []
    for _ in range(runs):
        with _attached(path) as loop:
            with _mounted(f"{loop}p{disk.partition}", point):
                least.append(_tracked(target, loop, point, PIECE)[1])
                full, delta = _tracked(target, loop, point, CHANGED)
                left_open = _left_open(target, loop, point)
            scans.append(_seconds(target.run, target.argv("sync", left_open)))
            reads.append(_seconds(run, ["dd", f"if={loop}", *READ]))
        fulls.append(full)
        deltas.append(delta)
    path.unlink()
    whole, read, fixed = median(fulls), median(reads), median(least)
    each = (median(deltas) - fixed) / (CHANGED / MiB)
    larger = fixed + each * LARGER * CHANGED / MiB
    return [
        [f"{target.name}: full pass, mounted", f"{whole:.2f}", "1.00"],
        [f"{target.name}: 1 % changed, tracked", f"{median(deltas):.3f}", _share(deltas, fulls)],
        [f"{target.name}: one change of 64 KiB, tracked", f"{fixed:.3f}", _share(least, fulls)],
        [
            f"{target.name}: 1 % of {LARGER} GiB changed, tracked: reckoned, "
            f"{fixed * 1000:.0f} ms and {each * 1000:.1f} ms a MiB changed",
            f"{larger:.2f}",
            f"{larger / (LARGER * whole):.3f}",
        ],
        [
            f"{target.name}: 1 % changed, tracker gone: the whole run of `sync`",
            f"{median(scans):.2f}",
            f"{_share(scans, fulls)}; {_share(scans, reads)} of reading the disk",
        ],
        ["reading the whole disk with dd", f"{read:.2f}", _share(reads, fulls)],
    ]


def _seconds(action: Callable[[list[str]], object], argv: list[str]) -> float:
    begun = time.monotonic()
    action(argv)
    return time.monotonic() - begun


def _share(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median of the ratios, pair by pair."""
    return f"{median([a / b for a, b in zip(ours, theirs, strict=True)]):.3f}"


def _tracked(target: Target, loop: str, point: Path, changed: int) -> tuple[float, float]:
    """Capture, change something while the image waits, catch up; return both passes' seconds.

    A run in which the tracker was in doubt, and all was compared, is made again: it tells nothing.
    """
    while True:
        full, *others = _passes(target, loop, point, changed)
        caught_up = max(others, key=lambda each: int(each["bytes"]))
        if caught_up["bytes"] < full["bytes"]:
            return full["seconds"], caught_up["seconds"]


def _passes(target: Target, loop: str, point: Path, changed: int) -> list[dict[str, Any]]:
    agent = subprocess.Popen(
        target.migrate(loop, "--cutover", "wait", progress="json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=target.environment,
    )
    assert agent.stderr is not None
    for line in agent.stderr:
        found = json.loads(line) if line.startswith("{") else {}
        if found.get("phase") == "waiting":
            break
    _change(point / "srv/data/random", changed)
    run([AGENT, "cutover", str(found["migration"])])
    done = json.loads(agent.communicate()[0])
    shutil.rmtree(Path(done["images"][0]).parent)
    return list(done["live"]["passes"])


def _left_open(target: Target, loop: str, point: Path) -> str:
    """Capture without an end, and change 1 %; return the migration."""
    done = target.run(target.migrate(loop, "--cutover", "later"))
    _change(point / "srv/data/random")
    return str(done["migration"])


def _change(path: Path, share: int = CHANGED) -> None:
    """Overwrite so many bytes at random places of a file, in place."""
    dice = random.Random(1)
    pieces = dice.sample(range(path.stat().st_size // PIECE), share // PIECE)
    with path.open("r+b", buffering=0) as file:
        for piece in pieces:
            file.seek(piece * PIECE)
            file.write(os.urandom(PIECE))
        os.fsync(file.fileno())


FREEZE_HEAD = ["freeze window", "runs", "median ms", "worst ms"]
CATCH_UP_HEAD = ["Linux server, 6 GiB, 1 GiB used", "s", "of the full pass"]


def tables(runs: int, work: Path) -> Iterator[tuple[Sequence[str], list[list[str]]]]:
    """Yield both tables, head and rows."""
    yield FREEZE_HEAD, [freezes(kind, 4 * runs, work) for kind in ("ext4", "xfs")]
    with ways.converter(work / "live-data") as server:
        rows = catching_up(_served(server), runs, work)
    yield CATCH_UP_HEAD, rows[:-1] + catching_up(_folder(work / "to"), runs, work)
