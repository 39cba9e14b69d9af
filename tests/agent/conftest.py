# SPDX-License-Identifier: GPL-3.0-or-later
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

MiB = 1 << 20


def sh(*argv: object) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr.decode()}"
    return done.stdout.decode()


def forget_partitions(device: Path) -> None:
    subprocess.run(["partx", "--delete", device], capture_output=True, check=False)


@contextmanager
def attached(*argv: object, partitions: bool = False) -> Iterator[Path]:
    """A loop device, made by losetup with these arguments.

    Partitions are added by partx: not every kernel is built to read tables itself.
    """
    device = Path(sh("losetup", "--find", "--show", *argv).strip())
    try:
        if partitions:
            forget_partitions(device)  # those of what was attached before can still be there
            sh("partx", "--add", device)
        yield device
    finally:
        if partitions:  # they would outlive what was attached
            forget_partitions(device)
        sh("losetup", "-d", device)


@contextmanager
def mounted(device: Path, point: Path, *options: str) -> Iterator[Path]:
    point.mkdir(exist_ok=True)
    sh("mount", *options, device, point)
    try:
        yield point
    finally:
        sh("umount", point)


@pytest.fixture(scope="session")
def loop() -> Callable[..., AbstractContextManager[Path]]:
    return attached


@pytest.fixture(scope="session")
def mount() -> Callable[..., AbstractContextManager[Path]]:
    return mounted


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    return sh
