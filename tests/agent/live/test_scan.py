# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparisons of a real disk that is mounted and written to, where nobody may follow it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace

import pytest

from agent.live import method
from agent.live.cutover import Cutover, When
from agent.live.settings import LiveSettings
from agent.migration import migrate
from agent.stream.local import LocalConverter
from p2v.model.errors import NotLiveError
from p2v.model.migration import MigrationState
from p2v.model.plan import Capture, ImageFormat, Plan, PlannedDisk
from tests.agent.conftest import MiB, attached

pytestmark = pytest.mark.root
LATER = LiveSettings(Cutover(When.LATER))
SIZE = 64 * MiB


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


@pytest.fixture
def disk(tmp_path, run):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.ext4", "-q", image)
    with attached(image) as loop:
        yield loop


@pytest.fixture
def plan(disk):
    planned = PlannedDisk("disk", str(disk), SIZE)
    return Plan("old01", (planned,), ImageFormat.RAW, live=True, capture=Capture.SCAN)


def test_comparisons_prepare_what_is_finished_when_nobody_writes(
    disk, plan, folder, mount, tmp_path
):
    with mount(disk, tmp_path / "mnt") as point:
        (point / "first").write_bytes(os.urandom(4 * MiB))
        with closing(LocalConverter(folder)) as converter:
            begun = migrate(converter, plan, live=LATER)
        assert begun.migration.state is MigrationState.RECEIVING
        assert any("of no instant" in note for note in begun.notes)
        assert len(begun.report["scan"]["passes"]) >= 2
        (point / "second").write_bytes(os.urandom(MiB))
    with closing(LocalConverter(folder)) as converter:
        done = migrate(converter, plan, resume=begun.migration.id)
    assert done.migration.state is MigrationState.FINISHED
    assert done.counters.same > 60 * MiB
    with (
        attached(done.migration.images[0]) as copy,
        mount(disk, tmp_path / "mnt", "-o", "ro") as source,
        mount(copy, tmp_path / "copy", "-o", "ro") as target,
    ):
        for name in ("first", "second"):
            assert (target / name).read_bytes() == (source / name).read_bytes()


def test_they_end_nothing_and_say_what_does(disk, plan, folder, mount, tmp_path):
    with (
        mount(disk, tmp_path / "mnt"),
        closing(LocalConverter(folder)) as converter,
        pytest.raises(NotLiveError, match=r"--cutover later.*from the p2v ISO"),
    ):
        migrate(converter, plan)


def test_snapshots_do_not_wait_for_a_cut_over(disk, plan, folder, mount, tmp_path):
    lvm = replace(plan, capture=Capture.LVM)
    waiting = LiveSettings(Cutover(When.WAIT))
    with (
        mount(disk, tmp_path / "mnt"),
        closing(LocalConverter(folder)) as converter,
        pytest.raises(NotLiveError, match="cannot wait for a cut-over"),
    ):
        migrate(converter, lvm, live=waiting)


def test_they_come_last_and_all_that_was_better_is_named(
    disk, plan, folder, mount, tmp_path, monkeypatch
):
    def refuse(plan, *_):
        raise NotLiveError(disk="disk", problem="the kernel is too old")

    monkeypatch.setattr(method, "open_live", refuse)
    auto = replace(plan, capture=Capture.AUTO)
    with mount(disk, tmp_path / "mnt"), closing(LocalConverter(folder)) as converter:
        done = migrate(converter, auto, live=LATER)
        assert any("change tracker: the kernel is too old" in note for note in done.notes)
        assert any("LVM snapshots:" in note for note in done.notes)
        with pytest.raises(NotLiveError, match=r"change tracker.*LVM snapshots.*comparisons"):
            migrate(converter, auto)
