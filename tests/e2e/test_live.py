# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are migrated while they are mounted and written to, and what their images hold.

Each image must be the disk at the instant of the freeze: clean after its journal was replayed,
with every record that was fsynced before, and nothing of what came after.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from p2v.model.units import MiB
from tests.e2e import images
from tests.e2e.running import run, tool
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


@contextmanager
def serving(kind: str, room: Path) -> Iterator[Server]:
    """Make a disk with a table, a file system and files, and mount it."""
    path, point = room / f"{kind}.img", room / f"{kind}.mounted"
    with path.open("wb") as file:
        file.truncate((KINDS[kind] + 4) * MiB)
    tool("sh", "-c", f"echo '2048,{KINDS[kind]}M' | sfdisk -q --label gpt {path}")
    loop = tool("losetup", "--show", "-f", path).strip()
    try:
        run(("partx", "-d", loop))
        tool("partx", "-a", loop)
        tool(f"mkfs.{kind}", "-q", f"{loop}p1")
        point.mkdir()
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
    loop = tool("losetup", "--show", "-f", raw).strip()
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
