# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of many terabytes that hold little: memory and time must not grow with them."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from p2v.images.compare import compare_images
from p2v.model.units import GiB, MiB, TiB
from tests.e2e.running import P2V, run

AGENT_MEMORY = 200 * MiB
CONVERTER_MEMORY = 300 * MiB
SECONDS = 60.0
"""Ample for a busy machine; alone it takes five."""
DENSE = 96 * MiB
SCATTERED = 200
"""Places all over the disk, each in a GiB of its own."""


@pytest.fixture
def sparse() -> Iterator[Path]:
    """A file in memory: few file systems hold one of 64 TiB."""
    path = Path(f"/dev/shm/p2v-{os.getpid()}.img")
    yield path
    path.unlink(missing_ok=True)


def make_disk(path: Path, size: int) -> None:
    """Write a sparse disk with a dense beginning, data here and there, and a used last sector."""
    random = Random(size)
    with path.open("wb") as disk:
        disk.truncate(size)
        for offset in range(0, DENSE, MiB):
            os.pwrite(disk.fileno(), random.randbytes(MiB), offset)
        for number in range(SCATTERED):
            place = (number + 1) * (size // (SCATTERED + 1)) // 4096 * 4096
            os.pwrite(disk.fileno(), random.randbytes(4096), place)
        os.pwrite(disk.fileno(), b"\x55\xaa" * 256, size - 512)


def memory_of(pid: int) -> int:
    """Return the peak of a process's resident memory in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def finish(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    """Wait for a process; return what it said, and its peak as seen a few times a second.

    Not the kernel's ru_maxrss: that begins with what its parent had when it forked, pytest's all.
    """
    peak = 0
    while True:
        with contextlib.suppress(OSError, AssertionError):
            peak = max(peak, memory_of(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=0.2)
            return out, err, peak


def sizes() -> list[object]:
    """8 TiB by default, and what the format can hold at most."""
    return [
        pytest.param(8 * TiB, id="8TiB"),
        pytest.param(16 * TiB, id="16TiB", marks=pytest.mark.slow),
        pytest.param(64 * TiB, id="64TiB", marks=pytest.mark.slow),
    ]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("image", ["vhdx", "qcow2"])
@pytest.mark.parametrize("size", sizes())
def test_a_huge_disk_with_little_on_it_takes_little(converter, agent, sparse, size, image):
    make_disk(sparse, size)
    begun = time.monotonic()
    process = agent.start(*agent.words(sparse, "--format", image, "--all-blocks"))
    out, err, agents = finish(process)
    seconds = time.monotonic() - begun
    assert process.returncode == 0, out + err
    (folder,) = (converter.data / "migrations").iterdir()
    (path,) = folder.glob(f"*.{image}")
    taken = sum(each.stat().st_blocks * 512 for each in folder.iterdir())
    state = path.with_name(path.name + ".digests").stat().st_blocks * 512
    converters = memory_of(converter.process.pid)
    print(
        f"\n{size // TiB} TiB to {image}: {seconds:.1f} s, agent {agents // MiB} MiB, "
        f"converter {converters // MiB} MiB, folder {taken // MiB} MiB, digests {state // MiB} MiB"
    )
    assert agents <= AGENT_MEMORY
    assert converters <= CONVERTER_MEMORY
    assert seconds <= SECONDS
    assert state <= size // 5000
    assert taken <= DENSE + GiB + size // 5000
    assert compare_images(sparse, path).same
    assert run([*P2V, "image", "check", path]).code == 0
