# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.layout import Kind, Piece
from agent.stream import work as work_module
from agent.stream.work import BLOCK_SIZE, Block, Work, blocks
from p2v.model.errors import UnreachableError
from p2v.model.extent import Extent
from p2v.wire.chunk import CHUNK_SIZE, GROUP_SIZE


def read(first, count) -> Piece:
    return Piece(first * CHUNK_SIZE, count * CHUNK_SIZE, Kind.READ)


def work_of(*pieces, known=None) -> Work:
    return Work(blocks(0, pieces), known)


def test_pieces_are_cut_at_blocks_of_the_disk():
    found = [(b.offset // CHUNK_SIZE, b.length // CHUNK_SIZE) for b in blocks(0, [read(3, 10)])]
    assert found == [(3, 1), (4, 4), (8, 4), (12, 1)]


def test_zeros_are_one_block_however_long():
    zeros = Piece(0, 1 << 46, Kind.ZERO, "free")
    assert list(blocks(7, [zeros])) == [Block(7, zeros)]


def test_what_must_be_blanked_stays_with_its_bytes():
    piece = Piece(0, 8 * CHUNK_SIZE, Kind.READ, blank=(Extent(512, 512),))
    assert all(block.piece.blank == piece.blank for block in blocks(0, [piece]))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_blocks_cover_the_pieces_once_and_in_order(counts):
    at, pieces = 0, []
    for count in counts:
        pieces.append(read(at, count))
        at += count
    position = 0
    for block in blocks(0, pieces):
        assert block.offset == position and 0 < block.length <= BLOCK_SIZE
        position += block.length
    assert position == at * CHUNK_SIZE


def test_what_came_back_is_taken_first_and_nothing_twice():
    work = work_of(read(0, 12))
    first, second = work.take()[0], work.take()[0]
    work.put_back([first, second])
    taken = []
    while (found := work.take()) is not None:
        taken.append(found[0].offset // BLOCK_SIZE)
    assert taken == [0, 1, 2]


def test_a_group_is_asked_for_once():
    asked = []

    def known(disk, group) -> bytes:
        asked.append((disk, group))
        return bytes([group])

    work = work_of(read(0, 16), known=known)
    assert [work.take()[1] for _ in range(4)] == [b"\0"] * 4
    assert asked == [(0, 0)]


def test_zeros_ask_for_nothing():
    def known(disk, group) -> bytes:
        raise AssertionError("asked")

    assert work_of(Piece(0, CHUNK_SIZE, Kind.ZERO), known=known).take()[1] is None


def test_groups_that_are_kept_are_few():
    work = work_of(
        *(Piece(group * GROUP_SIZE, CHUNK_SIZE, Kind.READ) for group in range(50)),
        known=lambda disk, group: bytes(32),
    )
    while work.take() is not None:
        assert len(work._groups) <= 4


def test_a_block_whose_digests_cannot_be_had_is_not_lost():
    answers = [UnreachableError(server="x", problem="gone"), b"digests"]

    def known(disk, group) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    work = work_of(read(0, 1), known=known)
    with pytest.raises(UnreachableError):
        work.take()
    assert work.take() == (Block(0, read(0, 1)), b"digests")
    assert work.take() is None


def test_blocks_are_announced_batch_by_batch_before_they_are_taken(monkeypatch):
    monkeypatch.setattr(work_module, "BATCH", 2)
    announced, taken = [], []
    work = work_of(read(0, 12))
    while (found := work.take(lambda blocks: announced.append(len(blocks)))) is not None:
        taken.append((found[0].offset // BLOCK_SIZE, sum(announced)))
    assert taken == [(0, 2), (1, 2), (2, 3)]


def test_what_could_not_be_announced_is_not_lost():
    def announce(blocks) -> None:
        raise UnreachableError(server="x", problem="gone")

    work = work_of(read(0, 8))
    with pytest.raises(UnreachableError):
        work.take(announce)
    assert [work.take(announce)[0].offset for _ in range(2)] == [0, BLOCK_SIZE]


def test_lanes_share_the_blocks():
    work, taken, lock = work_of(read(0, 4000)), [], threading.Lock()

    def lane() -> None:
        while (found := work.take()) is not None:
            with lock:
                taken.append(found[0].offset)

    lanes = [threading.Thread(target=lane) for _ in range(4)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join(20)
    assert sorted(taken) == [number * BLOCK_SIZE for number in range(1000)]
