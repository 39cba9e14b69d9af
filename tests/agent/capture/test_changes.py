# SPDX-License-Identifier: GPL-3.0-or-later
"""A disk, its image and what is sent between them: after each pass they must be equal."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture.changes import Changes
from agent.capture.chunkset import ChunkSet
from agent.capture.layout import Kind, Layout, Region
from native import apply_pages, pack_pages
from p2v.model.extent import Extent
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.pages import PAGE_SIZE

GRANULE = 64 << 10
SIZE = 9 * CHUNK_SIZE + 4608


def merged(granules: set[int], size: int = SIZE) -> list[Extent]:
    found: list[Extent] = []
    for number in sorted(granules):
        offset = number * GRANULE
        length = min(GRANULE, size - offset)
        if found and found[-1].end == offset:
            found[-1] = Extent(found[-1].offset, found[-1].length + length)
        else:
            found.append(Extent(offset, length))
    return found


def whole(layout: Layout, disk: bytes) -> bytearray:
    image = bytearray(layout.size)
    for piece in layout.pieces():
        if piece.kind is Kind.LITERAL:
            image[piece.offset : piece.end] = piece.data
        elif piece.kind is Kind.READ:
            part = bytearray(disk[piece.offset : piece.end])
            piece.apply(piece.offset, part)
            image[piece.offset : piece.end] = part
    return image


def send(changes: Changes, disk: bytes, image: bytearray, written: list[Extent]) -> int:
    """Bring what changed into the image as a converter does; return the bytes that were sent."""
    sent, end = 0, 0
    for change in changes.of(written):
        piece = change.piece
        assert piece.offset >= end and piece.offset % CHUNK_SIZE == 0
        assert piece.end == SIZE or piece.length % CHUNK_SIZE == 0
        end = piece.end
        part = bytearray(disk[piece.offset : piece.end])
        piece.apply(piece.offset, part)
        if change.pages:
            assert piece.length <= CHUNK_SIZE
            body = pack_pages(part, change.pages, PAGE_SIZE)
            target = image[piece.offset : piece.end]
            apply_pages(target, change.pages, body, PAGE_SIZE)
            assert target == part, "the pages do not make the chunk"
            sent += len(body)
        else:
            sent += len(part)
        image[piece.offset : piece.end] = part
    return sent


@st.composite
def layouts(draw):
    regions = []
    cuts = sorted(draw(st.sets(st.integers(0, SIZE // 512), max_size=6)))
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        offset, length = start * 512, (end - start) * 512
        kind = draw(st.sampled_from(["free", "swap", "excluded"]))
        used = ChunkSet(offset, length) if kind == "free" else None
        if used is not None and draw(st.booleans()):
            at = draw(st.integers(0, length - 1))
            used.add(offset + at, draw(st.integers(1, length - at)))
        header = b"\x07" * min(length, 4096) if kind == "swap" else b""
        regions.append(Region(offset, length, kind, used, header))
    return Layout(SIZE, tuple(regions))


_granules = st.sets(st.integers(0, (SIZE - 1) // GRANULE), max_size=30)


@settings(deadline=None, max_examples=200)
@given(layouts(), st.lists(_granules, min_size=1, max_size=4), st.integers(0, 1 << 30))
def test_after_each_pass_the_image_holds_what_was_written(layout, passes, seed):
    dice = random.Random(seed)
    disk = bytearray(dice.randbytes(SIZE))
    image = whole(layout, disk)
    changes = Changes(layout)
    blank = [region for region in layout.regions if region.used is None]
    ever: set[int] = set()
    for granules in passes:
        ever |= granules
        for extent in merged(granules):
            disk[extent.offset : extent.end] = dice.randbytes(extent.length)
        send(changes, disk, image, merged(granules))
        for extent in merged(ever):
            for at in range(extent.offset, extent.end, 512):
                if not any(region.offset <= at < region.end for region in blank):
                    assert image[at : at + 512] == disk[at : at + 512]
        for region in blank:
            body = image[region.offset + len(region.header) : region.end]
            assert not any(body), "what is left out was sent"


def test_a_chunk_that_was_free_is_sent_whole_the_first_time_and_by_pages_then():
    used = ChunkSet(0, 4 * CHUNK_SIZE)
    used.add(0, CHUNK_SIZE)
    layout = Layout(4 * CHUNK_SIZE, (Region(0, 4 * CHUNK_SIZE, "free", used),))
    changes = Changes(layout)
    written = [Extent(0, GRANULE), Extent(2 * CHUNK_SIZE + GRANULE, GRANULE)]
    first, second = changes.of(written)
    assert first.pages == ((0, 16),) and second.pages == ()
    assert [change.pages for change in changes.of(written)] == [((0, 16),), ((16, 16),)]
    assert [change.pages for change in changes.of(written, whole=True)] == [(), ()]


def test_most_of_a_chunk_is_sent_as_all_of_it():
    changes = Changes(Layout(4 * CHUNK_SIZE))
    (change,) = changes.of([Extent(CHUNK_SIZE, 3 * GRANULE)])
    assert change.pages == () and change.piece.length == CHUNK_SIZE


def test_neighbouring_chunks_that_changed_wholly_are_one_piece():
    changes = Changes(Layout(SIZE))
    (change,) = changes.of([Extent(CHUNK_SIZE, 5 * CHUNK_SIZE)])
    assert (change.piece.offset, change.piece.length) == (CHUNK_SIZE, 5 * CHUNK_SIZE)


def test_two_places_of_one_chunk_are_one_change():
    changes = Changes(Layout(SIZE))
    (change,) = changes.of([Extent(0, GRANULE), Extent(2 * GRANULE, GRANULE)])
    assert change.pages == ((0, 16), (32, 16))


def test_what_is_written_to_a_swap_is_not_sent():
    swap = Region(CHUNK_SIZE, 3 * CHUNK_SIZE, "swap", header=b"\7" * 4096)
    changes = Changes(Layout(SIZE, (swap,)))
    assert list(changes.of([Extent(2 * CHUNK_SIZE, GRANULE)])) == []
