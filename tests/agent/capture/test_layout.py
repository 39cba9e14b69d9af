# SPDX-License-Identifier: GPL-3.0-or-later
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture.chunkset import ChunkSet
from agent.capture.layout import Kind, Layout, Region
from p2v.wire.chunk import CHUNK_SIZE

KiB = 1024
SECTOR = 512
MAX = 8 * CHUNK_SIZE


@st.composite
def layouts(draw):
    size = draw(st.integers(1, MAX // SECTOR)) * SECTOR
    cuts = sorted(set(draw(st.lists(st.integers(0, size // SECTOR), max_size=8))))
    regions = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        offset, length = start * SECTOR, (end - start) * SECTOR
        kind = draw(st.sampled_from(["free", "swap", "excluded"]))
        used, header = None, b""
        if kind == "free":
            used = ChunkSet(offset, length)
            for _ in range(draw(st.integers(0, 3))):
                at = draw(st.integers(0, length - 1))
                used.add(offset + at, draw(st.integers(1, length - at)))
        elif kind == "swap":
            header = bytes([7]) * min(length, draw(st.sampled_from([4 * KiB, 64 * KiB])))
        regions.append(Region(offset, length, kind, used, header))
    return Layout(size, tuple(regions))


def carried_out(layout: Layout, disk: bytes) -> bytes:
    image = bytearray()
    for piece in layout.pieces():
        assert piece.offset == len(image), "a gap, or out of order"
        assert piece.offset % CHUNK_SIZE == 0
        assert piece.end == layout.size or piece.length % CHUNK_SIZE == 0
        if piece.kind is Kind.ZERO:
            image += bytes(piece.length)
        elif piece.kind is Kind.LITERAL:
            assert len(piece.data) == piece.length
            image += piece.data
        else:
            # In chunks, as the pipeline does.
            for at in range(piece.offset, piece.end, CHUNK_SIZE):
                chunk = bytearray(disk[at : min(at + CHUNK_SIZE, piece.end)])
                piece.apply(at, chunk)
                image += chunk
    assert len(image) == layout.size
    return bytes(image)


@settings(deadline=None, max_examples=150)
@given(layouts())
def test_every_byte_is_what_its_region_says(layout):
    disk = bytes([255]) * layout.size
    image = carried_out(layout, disk)
    at = 0
    for region in layout.regions:
        assert image[at : region.offset] == disk[at : region.offset]
        part = image[region.offset : region.end]
        if region.used is None:
            assert part == region.header + bytes(region.length - len(region.header))
        else:
            for first, count in region.used.runs():
                start, end = first * CHUNK_SIZE, (first + count) * CHUNK_SIZE
                start, end = max(start, region.offset), min(end, region.end)
                assert image[start:end] == disk[start:end]
        at = region.end
    assert image[at:] == disk[at:]


def test_free_chunks_are_not_read():
    used = ChunkSet(CHUNK_SIZE, 6 * CHUNK_SIZE)
    used.add(3 * CHUNK_SIZE + 5, 1)
    layout = Layout(8 * CHUNK_SIZE, (Region(CHUNK_SIZE, 6 * CHUNK_SIZE, "free", used),))
    kinds = [(p.offset // CHUNK_SIZE, p.length // CHUNK_SIZE, p.kind) for p in layout.pieces()]
    assert kinds == [
        (0, 1, Kind.READ),
        (1, 2, Kind.ZERO),
        (3, 1, Kind.READ),
        (4, 3, Kind.ZERO),
        (7, 1, Kind.READ),
    ]
    assert layout.copied() == 3 * CHUNK_SIZE


def test_an_excluded_partitions_bytes_are_blanked_in_the_chunks_at_its_edges():
    start, end = CHUNK_SIZE + 100 * KiB, 3 * CHUNK_SIZE + 20 * KiB
    layout = Layout(4 * CHUNK_SIZE, (Region(start, end - start, "excluded"),))
    disk = random.Random(1).randbytes(layout.size)
    image = carried_out(layout, disk)
    assert image == disk[:start] + bytes(end - start) + disk[end:]
    assert [p.kind for p in layout.pieces()] == [Kind.READ, Kind.READ, Kind.ZERO, Kind.READ]


def test_an_excluded_tail_of_a_disk_that_ends_within_a_chunk_is_not_read():
    size = 2 * CHUNK_SIZE + 4 * KiB
    layout = Layout(size, (Region(CHUNK_SIZE, size - CHUNK_SIZE, "excluded"),))
    assert [(p.kind, p.length) for p in layout.pieces()] == [
        (Kind.READ, CHUNK_SIZE),
        (Kind.ZERO, CHUNK_SIZE + 4 * KiB),
    ]
