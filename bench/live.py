# SPDX-License-Identifier: GPL-3.0-or-later
"""Live captures: how long disks under load are frozen, and what it costs to catch up."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import corpus
from bench.measure import median, run
from p2v.model.units import KiB, MiB

AGENT = ".venv/bin/p2v-agent"
LOAD = ("--rw=randwrite", "--bs=4k", "--size=64M", "--ioengine=psync", "--rate_iops=300",
        "--fdatasync=8", "--time_based", "--runtime=3600", "--minimal")  # fmt: skip
PIECE = 64 * KiB
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


def _migrate(folder: Path, *words: str) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    argv = [AGENT, *words, "--to", str(folder), "--progress", "none", "--json"]
    return dict(json.loads(run(argv)[1]))


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
                words = ("--live", "--disk", loop, "--name", "bench", "--format", "raw")
                done = _migrate(work / "to", "migrate", *words)
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


def catching_up(work: Path) -> list[list[str]]:
    """Return rows: the full pass, and what 1 % of the used blocks costs, tracked and not."""
    disk = corpus.linux_disk()
    path, point, folder = work / "source.img", work / "live", work / "to"
    subprocess.run(["cp", "--sparse=always", str(disk.path), str(path)], check=True)
    with _attached(path) as loop:
        with _mounted(f"{loop}p{disk.partition}", point):
            full, delta, migration = _tracked(loop, point, folder)
        start = time.monotonic()
        _migrate(folder, "sync", migration)
        scan = time.monotonic() - start
        start = time.monotonic()
        run(["dd", f"if={loop}", "of=/dev/null", "bs=1M", "iflag=direct"])
        read = time.monotonic() - start
    shutil.rmtree(folder)
    path.unlink()
    return [
        ["full pass, mounted", f"{full:.2f}", "1.00"],
        ["1 % changed, tracked", f"{delta:.2f}", f"{delta / full:.3f}"],
        ["1 % changed, tracker gone: the whole run of `sync`", f"{scan:.2f}", f"{scan / full:.2f}"],
        ["reading the whole disk with dd", f"{read:.2f}", f"{read / full:.2f}"],
    ]


def _tracked(loop: str, point: Path, folder: Path) -> tuple[float, float, str]:
    """Capture, change 1 % while the image waits, catch up; then leave it open and change again."""
    folder.mkdir(parents=True)
    argv = [AGENT, "migrate", "--live", "--disk", loop, "--name", "bench", "--to", str(folder)]
    argv += ["--format", "raw", "--cutover", "wait", "--progress", "json", "--json"]
    agent = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert agent.stderr is not None
    for line in agent.stderr:
        found = json.loads(line) if line.startswith("{") else {}
        if found.get("phase") == "waiting":
            break
    _change(point / "srv/data/random")
    run([AGENT, "cutover", str(found["migration"])])
    out, _ = agent.communicate()
    passes = json.loads(out)["live"]["passes"]
    caught_up = max(passes[1:], key=lambda each: int(each["bytes"]))
    shutil.rmtree(folder)
    words = ("--live", "--disk", loop, "--name", "bench", "--format", "raw", "--cutover", "later")
    again = _migrate(folder, "migrate", *words)
    _change(point / "srv/data/random")
    return passes[0]["seconds"], caught_up["seconds"], str(again["migration"])


def _change(path: Path, share: int = 10 * MiB) -> None:
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
    yield CATCH_UP_HEAD, catching_up(work)
