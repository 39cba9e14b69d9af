# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
from __future__ import annotations

import threading

import pytest

from p2v.model.errors import ImageError, NoRoomError, ProtocolError, StoreError
from p2v.service import applier as applier_module
from p2v.service.applier import Applier
from p2v.service.receiver import Receiver
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.frame import Frame, Kind

DATA = b"\xa5" * CHUNK_SIZE


class Log:
    """Notes what a registry is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def paused(self, id, problem) -> None:
        self.told.append(f"{id} paused: {problem.code}")

    def resumed(self, id) -> None:
        self.told.append(f"{id} resumed")


@pytest.fixture
def receiver(tmp_path, make_plan):
    receiver = Receiver.create(tmp_path, make_plan(size=8 * CHUNK_SIZE))
    yield receiver
    receiver.close()


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def applier(receiver, log, stop, monkeypatch):
    monkeypatch.setattr(applier_module, "ROOM_POLL_S", 0.01)
    return Applier(log, "m", receiver, stop)


def frame(chunk, sequence) -> Frame:
    offset = chunk * CHUNK_SIZE
    return Frame(
        Kind.DATA, 0, offset, CHUNK_SIZE, sequence, payload=CHUNK_SIZE, digest=digest(DATA)
    )


def without_room(monkeypatch, receiver, times, then=lambda: None) -> None:
    """Let the image find no room so many times."""
    image = receiver._disks[0].image
    write, left = image.write, [times]

    def full(offset, data) -> None:
        if left[0]:
            left[0] -= 1
            then()
            raise NoRoomError(path="/srv", needed=len(data))
        write(offset, data)

    monkeypatch.setattr(image, "write", full)


def test_nothing_is_durable_before_a_checkpoint(applier):
    applier.apply(frame(0, 1), DATA)
    assert applier.durable() is None


def test_a_flush_makes_all_before_it_durable_once(applier):
    for number in range(3):
        applier.apply(frame(number, number + 1), DATA)
    applier.apply(Frame(Kind.FLUSH, sequence=4), b"")
    assert applier.durable() == 4
    assert applier.durable() is None


def test_a_checkpoint_of_another_session_counts_too(applier, receiver):
    applier.apply(frame(0, 1), DATA)
    applier.apply(frame(1, 2), DATA)
    receiver.checkpoint()
    applier.apply(frame(2, 3), DATA)
    assert applier.durable() == 2


def test_marks_do_not_pile_up(applier, receiver):
    for number in range(8):
        applier.apply(frame(number, number + 1), DATA)
        receiver.checkpoint()
        applier.durable()
    assert len(applier._marks) == 0


def test_a_full_store_pauses_the_migration_until_there_is_room(applier, receiver, log, monkeypatch):
    without_room(monkeypatch, receiver, 3)
    applier.apply(frame(0, 1), DATA)
    assert log.told == ["m paused: no-room", "m resumed"]
    applier.apply(Frame(Kind.FLUSH, sequence=2), b"")
    assert applier.durable() == 2
    assert receiver.missing(0) == 7


def test_a_database_that_is_full_too_ends_no_session(applier, receiver, log, monkeypatch):
    def full(id, *_problem) -> None:
        raise StoreError(problem="database or disk is full")

    monkeypatch.setattr(log, "paused", full)
    without_room(monkeypatch, receiver, 3)
    applier.apply(frame(0, 1), DATA)
    assert log.told == ["m resumed"]
    assert receiver.stats.frames == 1


def test_the_pause_is_noted_as_soon_as_the_database_can(applier, receiver, log, monkeypatch):
    paused = log.paused

    def full_once(id, problem) -> None:
        monkeypatch.setattr(log, "paused", paused)
        raise StoreError(problem="database or disk is full")

    monkeypatch.setattr(log, "paused", full_once)
    without_room(monkeypatch, receiver, 3)
    applier.apply(frame(0, 1), DATA)
    assert log.told == ["m paused: no-room", "m resumed"]


def test_a_paused_sender_ends_when_nobody_wants_it_any_more(
    applier, receiver, log, stop, monkeypatch
):
    without_room(monkeypatch, receiver, 1000, stop.set)
    with pytest.raises(NoRoomError):
        applier.apply(frame(0, 1), DATA)
    assert log.told == ["m paused: no-room"]
    assert applier.durable() is None


def test_a_damaged_frame_is_not_tried_again(applier, log):
    with pytest.raises(ProtocolError):
        applier.apply(frame(0, 1), bytes(CHUNK_SIZE))
    assert log.told == []


def test_a_store_that_fails_is_not_waited_for(applier, receiver, log, monkeypatch):
    def broken(offset, data) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(receiver._disks[0].image, "write", broken)
    with pytest.raises(ImageError):
        applier.apply(frame(0, 1), DATA)
    assert log.told == []
