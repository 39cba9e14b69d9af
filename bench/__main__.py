# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: runs this project and its peers in turn and prints a table of ratios."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import corpus, kernels, live, ways
from bench.measure import Cost, in_turn, median, ratio
from p2v.model.units import GiB, MiB


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    peer: str
    ours: Sequence[Cost]
    theirs: Sequence[Cost]
    data: int
    """Bytes of data that are moved: the used blocks."""

    def cells(self) -> list[str]:
        """Return the row's cells as text."""
        wall = median([cost.wall_s for cost in self.ours])
        wire = median([cost.wire for cost in self.ours])
        return [
            self.what,
            self.peer,
            f"{wall:.1f}",
            f"{median([cost.wall_s for cost in self.theirs]):.1f}" if self.theirs else "-",
            f"{ratio(self.ours, self.theirs):.2f}" if self.theirs else "-",
            self._cpu(self.ours),
            self._cpu(self.theirs),
            f"{wire / MiB:.0f}" if wire else "-",
            _peak(cost.peak for cost in self.ours),
            _peak(cost.peak_other for cost in self.ours),
        ]

    def _cpu(self, costs: Sequence[Cost]) -> str:
        if not costs or not self.data:
            return "-"
        return f"{median([cost.cpu_s for cost in costs]) / (self.data / GiB):.1f}"


def _peak(peaks: Iterable[int]) -> str:
    peak = max(peaks)
    return f"{peak / MiB:.0f}" if peak else "-"


HEAD = ["full pass", "peer", "s", "peer s", "ratio", "CPU s/GiB", "peer's", "wire MiB",
        "agent MiB", "converter MiB"]  # fmt: skip


def main() -> int:
    """Run the benchmarks and print the tables."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each way")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    args = parser.parse_args()
    work = corpus.CACHE / "bench"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        if args.only in "kernels":
            kernels.main()
            print()
        if args.only in "live":
            for head, rows in live.tables(args.runs, work):
                _table(head, rows)
                print()
        _table(HEAD, _rows(args.runs, args.only, work))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _rows(runs: int, only: str, work: Path) -> list[list[str]]:
    rows = []
    with ways.converter(work / "data") as server:
        for disk, pairs in _pairs(server, work, only):
            with corpus.attached(disk) as loop:
                for what, peer, make_ours, make_theirs, data in pairs:
                    if only and only not in what:
                        continue
                    one, two = make_ours(loop), make_theirs(loop) if make_theirs else None
                    one()  # warm-up: both sides read the source from the same cache after it
                    mine, theirs = in_turn(runs, one, two) if two else (*in_turn(runs, one), [])
                    rows.append(Row(f"{disk.name}: {what}", peer, mine, theirs, data).cells())
                    print("  ".join(rows[-1]), file=sys.stderr)
    return rows


Make = Callable[[str], ways.Way]
Pair = tuple[str, str, Make, Make | None, int]


def _pairs(server: ways.Converter, work: Path, only: str) -> list[tuple[corpus.Disk, list[Pair]]]:
    out = work / "peer"
    used = 1 * GiB
    zstd = ("-c", "-O", "qcow2", "-o", "compression_type=zstd", "-m", "8", "-W")
    linux: list[Pair] = [
        ("to VHDX", "qemu-img -O vhdx", lambda d: ways.ours(server, d),
         lambda d: ways.qemu_img(d, out, "-O", "vhdx"), used),
        ("to VHDX, --to DIR", "qemu-img -O vhdx", lambda d: ways.embedded(work / "to", d),
         lambda d: ways.qemu_img(d, out, "-O", "vhdx"), used),
        ("to zstd qcow2", "qemu-img -c zstd -m 8 -W",
         lambda d: ways.ours(server, d, "--format", "qcow2", "--compress-image", "--codec", "zstd"),
         lambda d: ways.qemu_img(d, out, *zstd), used),
        ("to raw", "nbdkit + nbdcopy", lambda d: ways.ours(server, d, "--format", "raw"),
         lambda d: ways.nbdcopy(d, out), used),
        ("to raw, zstd -1", "partclone | zstd -1 | nc",
         lambda d: ways.ours(server, d, "--format", "raw", "--codec", "zstd"),
         lambda d: ways.partclone(f"{d}p3", "ext4", out), used),
        ("to raw, auto", "partclone | zstd -1 | nc",
         lambda d: ways.ours(server, d, "--format", "raw"),
         lambda d: ways.partclone(f"{d}p3", "ext4", out), used),
    ]  # fmt: skip
    random: list[Pair] = [
        ("to VHDX", "qemu-img -O vhdx", lambda d: ways.ours(server, d),
         lambda d: ways.qemu_img(d, out, "-O", "vhdx"), 2 * GiB),
        ("to raw", "nbdkit + nbdcopy", lambda d: ways.ours(server, d, "--format", "raw"),
         lambda d: ways.nbdcopy(d, out), 2 * GiB),
    ]  # fmt: skip
    empty: list[Pair] = [("to VHDX", "-", lambda d: ways.ours(server, d), None, 0)]
    disks = [(corpus.linux_disk, linux), (corpus.random_disk, random), (corpus.empty_disk, empty)]
    return [(make(), pairs) for make, pairs in disks if any(only in pair[0] for pair in pairs)]


def _table(head: Sequence[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")


if __name__ == "__main__":
    sys.exit(main())
