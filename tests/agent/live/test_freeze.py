# SPDX-License-Identifier: GPL-3.0-or-later
"""Real file systems that are found, frozen together and thawed."""

from __future__ import annotations

import gc
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.live.filesystems import writable_on
from agent.live.freeze import frozen
from p2v.model.errors import FreezeError
from tests.agent.conftest import MiB, attached, mounted, sh

pytestmark = pytest.mark.root


@contextmanager
def file_system(folder: Path, name: str, kind: str = "ext4") -> Iterator[tuple[Path, Path]]:
    """A loop device and where its file system is mounted."""
    image = folder / f"{name}.img"
    with image.open("wb") as file:
        file.truncate(32 * MiB)
    sh(f"mkfs.{kind}", "-q", *(["-F"] if kind == "ntfs" else []), image)
    with attached(image) as loop, ExitStack() as stack:
        if kind == "ntfs":
            point = folder / name
            point.mkdir()
            sh("mount.ntfs-3g", loop, point)
            stack.callback(sh, "umount", point)
        else:
            point = stack.enter_context(mounted(loop, folder / name))
        yield loop, point


@pytest.fixture
def ext4(tmp_path):
    with file_system(tmp_path, "one") as found:
        yield found


def is_frozen(point: Path) -> bool:
    said = subprocess.run(["fsfreeze", "-f", point], capture_output=True, check=False).stderr
    if not said:
        sh("fsfreeze", "-u", point)
    return b"busy" in said


def test_what_is_on_the_disks_is_found_once_the_last_mounted_first(tmp_path, ext4):
    with file_system(tmp_path, "two") as (other, second):
        loop, first = ext4
        (first / "sub").mkdir()
        (tmp_path / "bind").mkdir()
        sh("mount", "--bind", first / "sub", tmp_path / "bind")
        try:
            with writable_on([loop, other]) as systems:
                assert [system.mount.point for system in systems] == [str(second), str(first)]
            with writable_on([loop]) as systems:
                assert [system.mount.point for system in systems] == [str(first)]
        finally:
            sh("umount", tmp_path / "bind")


def test_one_that_is_stacked_on_another_is_found_and_comes_first(tmp_path, ext4):
    loop, point = ext4
    with (point / "inner.img").open("wb") as file:
        file.truncate(8 * MiB)
    sh("mkfs.ext4", "-q", point / "inner.img")
    with attached(point / "inner.img") as inner, mounted(inner, tmp_path / "inner") as upper:
        with writable_on([loop, inner]) as systems:
            assert [system.mount.point for system in systems] == [str(upper), str(point)]
            with frozen(systems, 20):
                pass
        (upper / "file").write_bytes(b"written")


def test_what_is_mounted_read_only_is_not_frozen(tmp_path, ext4):
    loop, point = ext4
    sh("mount", "-o", "remount,ro", point)
    with writable_on([loop]) as systems:
        assert systems == ()


def test_one_that_is_hidden_below_another_mount_is_refused(tmp_path, ext4):
    loop, point = ext4
    sh("mount", "-t", "tmpfs", "none", point)
    try:
        with pytest.raises(FreezeError, match="hidden"), writable_on([loop]):
            pass
    finally:
        sh("umount", point)


def test_all_are_frozen_together_and_thawed(tmp_path, ext4):
    with file_system(tmp_path, "two") as (other, second):
        loop, first = ext4
        done = []
        with writable_on([loop, other]) as systems:
            with frozen(systems, 60) as freeze:
                assert not gc.isenabled()
                writer = threading.Thread(
                    target=lambda: done.append((first / "late").write_bytes(b"late"))
                )
                writer.start()
                assert is_frozen(first) and is_frozen(second)
                time.sleep(0.1)
                assert done == [] and freeze.check()
            writer.join(30)
        assert done == [4] and gc.isenabled()
        assert not is_frozen(first) and not is_frozen(second)
        assert freeze.seconds >= 0.1 and not freeze.late and freeze.unfrozen == []


def test_a_failure_inside_thaws(ext4):
    loop, point = ext4
    with pytest.raises(KeyError), writable_on([loop]) as systems, frozen(systems, 60):
        raise KeyError
    assert not is_frozen(point)


def test_one_that_somebody_else_has_frozen_is_left_to_them_and_the_others_thaw(tmp_path, ext4):
    with file_system(tmp_path, "two") as (other, second):
        loop, first = ext4
        sh("fsfreeze", "-f", first)
        try:
            with (
                writable_on([loop, other]) as systems,
                pytest.raises(FreezeError, match="somebody else"),
                frozen(systems, 60),
            ):
                pytest.fail("it went on")
            assert is_frozen(first) and not is_frozen(second)
        finally:
            sh("fsfreeze", "-u", first)


def test_one_that_knows_no_freezing_is_told(tmp_path, ext4):
    loop, _ = ext4
    with file_system(tmp_path, "ntfs", "ntfs") as (other, point):
        with writable_on([loop, other]) as systems, frozen(systems, 60) as freeze:
            assert [system.mount.point for system in freeze.unfrozen] == [str(point)]
            assert len(freeze.held) == 1
        (point / "file").write_bytes(b"written")


def test_a_freeze_that_takes_too_long_is_ended_and_told(ext4):
    loop, point = ext4
    with writable_on([loop]) as systems, frozen(systems, 0.2) as freeze:
        subprocess.run(["timeout", "30", "touch", point / "late"], check=True)
        assert not freeze.check()
    assert freeze.late
