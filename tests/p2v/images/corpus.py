# SPDX-License-Identifier: GPL-3.0-or-later
"""VHDX files that other programs wrote, fetched once and kept in the cache folder.

They belong to other projects and are not part of this one: those of Windows come with the source
archive of dissect.hypervisor (AGPL-3.0) on PyPI, those of QEMU and Disk2vhd with Debian's source
of QEMU (GPL-2.0). The archives are pinned by their hash.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE = Path(__file__).parents[3] / ".cache" / "corpus"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_DEBIAN = f"deb-src [signed-by={_KEYRING}] http://deb.debian.org/debian bookworm main\n"
_DISSECT = (
    "dissect_hypervisor-3.20.tar.gz",
    "90f4d46a6d6b81045c6fc123600bb8c12afa58c464ecaa67d5ca9435fcff7957",
    "tests/_data/disk/vhdx/",
)
_QEMU = (
    "qemu_7.2+dfsg.orig.tar.xz",
    "91aca71520040edc40b8d437aa3004dae614f58e286cf653ee8996c07af2962f",
    "tests/qemu-iotests/sample_images/",
)


class UnreachableError(Exception):
    """The archive cannot be fetched here; the message says why."""


def windows(name: str) -> Path:
    """Return a VHDX that Windows wrote: `fixed.vhdx`, `dynamic.vhdx` or `differencing.avhdx`."""
    return _sample(name + ".gz", *_DISSECT, _fetch_dissect)


def iotest(name: str) -> Path:
    """Return one of QEMU's sample images, such as `iotest-dirtylog-10G-4M.vhdx`."""
    return _sample(name + ".bz2", *_QEMU, _fetch_qemu)


def _sample(
    packed: str, archive: str, digest: str, folder: str, fetch: Callable[[Path, str], None]
) -> Path:
    """Return a sample, unpacked in the cache; all samples of its archive are put there at once."""
    target = CACHE / Path(packed).stem
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        fetch(work, archive)
        with (work / archive).open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != digest:
            raise UnreachableError(f"{archive} has sha256 {actual}, expected {digest}")
        with tarfile.open(work / archive) as tar:
            for member in tar:
                path = Path(member.name)
                if member.isfile() and folder in member.name and "vhdx." in path.name:
                    _unpack(tar, member, work / path.stem)
        for path in work.glob("*vhdx"):
            path.rename(CACHE / path.name)
    return target


def _unpack(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    opener = {".gz": gzip.open, ".bz2": bz2.open}[Path(member.name).suffix]
    packed = tar.extractfile(member)
    assert packed is not None
    with opener(packed, "rb") as source, target.open("wb") as out:
        shutil.copyfileobj(source, out)


def _fetch_dissect(folder: Path, archive: str) -> None:
    requirement = archive.removesuffix(".tar.gz").replace("_", ".").replace("-", "==")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    _run(folder, *pip, "-d", ".", requirement)


def _fetch_qemu(folder: Path, archive: str) -> None:
    """Fetch with a package list of our own, so that the system's sources stay as they are."""
    (folder / "sources.list").write_text(_DEBIAN)
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]
    _run(folder, *apt, "update")
    _run(folder, *apt, "source", "--download-only", "--tar-only", "qemu")


def _run(folder: Path, *command: str) -> None:
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=180, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreachableError(str(error)) from error
    if result.returncode:
        last = (result.stderr or result.stdout).strip().splitlines()[-1:]
        raise UnreachableError(f"{command[0]} failed: {last}")
