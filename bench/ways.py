# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to copy a disk: this project's and its peers'. Each leaves a durable image, or fails.

A peer that would leave its image in the page cache is followed by `sync` of that file: this
project's migrations are durable when they end, and comparing with a write cache says nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.measure import Cost, cpu_of, peak_of, reset_peak, run

Way = Callable[[], Cost]


@dataclass(frozen=True)
class Converter:
    """A running `p2v serve`."""

    process: subprocess.Popen[bytes]
    data: Path
    url: str
    environment: dict[str, str]


@contextmanager
def converter(data: Path) -> Iterator[Converter]:
    """Run a converter with its store in `data`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data.mkdir(parents=True)
    argv = [".venv/bin/p2v", "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        token = _token(data, process)
        environment = os.environ | {
            "P2V_TOKEN": token["token"],
            "P2V_FINGERPRINT": token["fingerprint"],
        }
        yield Converter(process, data, f"https://127.0.0.1:{port}", environment)
    finally:
        process.terminate()
        process.wait(60)


def _token(data: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    argv = [".venv/bin/p2v", "pair", "--token", "--json", "--data", str(data)]
    for _ in range(100):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"the converter did not start: {done.stderr}")


def ours(server: Converter, disk: str, *options: str) -> Way:
    """Return the way of this project: disk -> agent -> TLS on loopback -> converter -> image."""

    def way() -> Cost:
        pid = server.process.pid
        cpu = cpu_of(pid)
        reset_peak(pid)
        argv = [".venv/bin/p2v-agent", "migrate", "--server", server.url, "--disk", disk]
        argv += ["--name", "bench", "--no-convert", "--progress", "none", "--json", *options]
        cost, out = run(
            ["time", "-f", "%M", "-o", str(server.data / "rss"), *argv], env=server.environment
        )
        result = json.loads(out)
        shutil.rmtree(Path(result["images"][0]).parent)
        return replace(
            cost,
            cpu_s=cost.cpu_s + cpu_of(pid) - cpu,
            peak=int((server.data / "rss").read_text().split()[-1]) * 1024,
            peak_other=peak_of(pid),
            wire=result["counters"]["wire"],
        )

    return way


def embedded(folder: Path, disk: str, *options: str) -> Way:
    """Return the way of this project without a network: `--to DIR`."""

    def way() -> Cost:
        folder.mkdir(parents=True, exist_ok=True)
        argv = [".venv/bin/p2v-agent", "migrate", "--to", str(folder), "--disk", disk]
        argv += ["--name", "bench", "--no-convert", "--progress", "none", "--json", *options]
        cost, _ = run(argv)
        shutil.rmtree(folder)
        return cost

    return way


def command(target: Path, argv: Sequence[str]) -> Way:
    """Return the way of a command that writes `target`; it is synced and deleted."""

    def way() -> Cost:
        script = '"$@" && sync "$TARGET"'
        cost, _ = run(["sh", "-c", script, "sh", *argv], env=os.environ | {"TARGET": str(target)})
        target.unlink()
        return cost

    return way


def qemu_img(disk: str, target: Path, *options: str) -> Way:
    """Return `qemu-img convert` of the disk."""
    return command(target, ["qemu-img", "convert", "-f", "raw", *options, disk, str(target)])


def nbdcopy(disk: str, target: Path) -> Way:
    """Return nbdkit + nbdcopy of the disk to a raw file."""
    return command(target, ["nbdcopy", "--", "[", "nbdkit", "-r", "file", disk, "]", str(target)])


def partclone(partition: str, kind: str, target: Path) -> Way:
    """Return partclone | zstd -1 | TCP | zstd -d | partclone.restore, on loopback."""
    script = f"""set -eu
    truncate -s $(blockdev --getsize64 {partition}) {target}
    nc -l -N 127.0.0.1 $PORT | zstd -dcq | partclone.restore -q -C -s - -O {target} -L /dev/null &
    sleep 0.2
    partclone.{kind} -q -c -s {partition} -o - -L /dev/null | zstd -1 -cq | nc -N 127.0.0.1 $PORT
    wait"""

    def way() -> Cost:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {"PORT": str(port), "TARGET": str(target)}
        cost, _ = run(["bash", "-c", f'{script}\nsync "$TARGET"'], env=environment)
        target.unlink()
        return replace(cost, wall_s=cost.wall_s - 0.2)

    return way
