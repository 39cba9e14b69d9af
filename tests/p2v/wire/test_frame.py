# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames and messages on the wire: exact bytes, and every way in which they can be wrong."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import native
from p2v.model.errors import ProtocolError
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.frame import (
    ACK_SIZE,
    HEADER_SIZE,
    Ack,
    AckKind,
    Frame,
    Kind,
    WireCodec,
    parse_ack,
    parse_frame,
)

SIZE = 10 * CHUNK_SIZE + 512
DIGEST = bytes(range(32))


def data_frame(**changes):
    values = {
        "kind": Kind.DATA,
        "disk": 0,
        "offset": CHUNK_SIZE,
        "length": CHUNK_SIZE,
        "sequence": 7,
        "codec": WireCodec.ZSTD,
        "payload": 1000,
        "digest": DIGEST,
    }
    return Frame(**(values | changes))


def resealed(header: bytes, offset: int, value: bytes) -> bytes:
    """The header with bytes changed and its checksum made right again."""
    body = bytearray(header[:-4])
    body[offset : offset + len(value)] = value
    return bytes(body) + struct.pack("<I", native.crc32c(bytes(body)))


def test_a_header_has_the_documented_layout():
    header = data_frame().pack()
    assert len(header) == HEADER_SIZE == 80
    assert header[:8] == b"P2VF\x01\x01\x01\x00"
    assert struct.unpack_from("<HHIQQQ", header, 8) == (0, 0, 1000, CHUNK_SIZE, CHUNK_SIZE, 7)
    assert header[40:72] == DIGEST
    assert struct.unpack_from("<I", header, 76)[0] == native.crc32c(header[:76])


def test_a_frame_survives_packing_and_parsing():
    frame = data_frame()
    assert parse_frame(frame.pack(), [SIZE]) == frame


@pytest.mark.parametrize(
    "frame",
    [
        data_frame(offset=10 * CHUNK_SIZE, length=512, payload=100),
        Frame(Kind.ZERO, 0, 0, SIZE, 1),
        Frame(Kind.ZERO, 0, CHUNK_SIZE, 2 * CHUNK_SIZE, 1),
        Frame(Kind.FLUSH, sequence=9),
        Frame(Kind.FORGET, 0, CHUNK_SIZE, SIZE - CHUNK_SIZE, 1),
        data_frame(codec=WireCodec.NONE, payload=CHUNK_SIZE),
        data_frame(kind=Kind.PAGES, codec=WireCodec.NONE, payload=CHUNK_SIZE + 100),
    ],
    ids=["partial last chunk", "whole disk zero", "zero run", "flush", "forget", "raw", "pages"],
)
def test_valid_frames_are_taken(frame):
    assert parse_frame(frame.pack(), [SIZE]) == frame


@pytest.mark.parametrize(
    "frame",
    [
        data_frame(disk=1),
        data_frame(offset=CHUNK_SIZE + 512),
        data_frame(offset=11 * CHUNK_SIZE),
        data_frame(offset=1 << 63),
        data_frame(length=CHUNK_SIZE - 1),
        data_frame(length=2 * CHUNK_SIZE),
        data_frame(length=0),
        data_frame(payload=0),
        data_frame(payload=CHUNK_SIZE + 1),
        data_frame(codec=WireCodec.NONE, payload=CHUNK_SIZE - 1),
        data_frame(offset=10 * CHUNK_SIZE),
        Frame(Kind.ZERO, 0, 0, SIZE + CHUNK_SIZE, 1),
        Frame(Kind.ZERO, 0, 0, CHUNK_SIZE + 512, 1),
        Frame(Kind.ZERO, 0, 0, CHUNK_SIZE, 1, payload=5),
        Frame(Kind.ZERO, 0, 0, (1 << 64) - CHUNK_SIZE, 1),
        Frame(Kind.FORGET, 0, 0, CHUNK_SIZE + 512, 1),
        Frame(Kind.FORGET, 0, 0, CHUNK_SIZE, 1, payload=5),
        Frame(Kind.FLUSH, payload=1),
        Frame(Kind.FLUSH, length=CHUNK_SIZE),
    ],
    ids=lambda frame: f"{frame.kind.name}-{frame.offset}-{frame.length}-{frame.payload}",
)
def test_a_frame_off_the_grid_or_with_a_wrong_length_is_refused(frame):
    with pytest.raises(ProtocolError):
        parse_frame(frame.pack(), [SIZE])


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0, b"XXXX", "starts with"),
        (4, b"\x02", "frame version 2"),
        (5, b"\x09", "9 is not a valid Kind"),
        (6, b"\x09", "9 is not a valid WireCodec"),
        (7, b"\x01", "reserved"),
        (10, b"\x01", "reserved"),
        (72, b"\x01", "reserved"),
    ],
)
def test_a_header_of_another_kind_is_refused_with_the_reason(offset, value, says):
    with pytest.raises(ProtocolError, match=says):
        parse_frame(resealed(data_frame().pack(), offset, value), [SIZE])


@given(position=st.integers(0, 79), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(position, bit):
    header = bytearray(data_frame().pack())
    header[position] ^= 1 << bit
    with pytest.raises(ProtocolError):
        parse_frame(header, [SIZE])


@given(st.binary(min_size=76, max_size=76))
def test_no_header_gets_past_the_grid(body):
    header = body + struct.pack("<I", native.crc32c(body))
    try:
        frame = parse_frame(b"P2VF\x01" + header[5:], [SIZE])
    except ProtocolError:
        return
    assert frame.offset + frame.length <= SIZE


def test_messages_survive_packing_and_parsing():
    packed = Ack(AckKind.ERROR, 5, "süß").pack()
    ack, length = parse_ack(packed[:ACK_SIZE])
    assert (ack.kind, ack.sequence) == (AckKind.ERROR, 5)
    assert packed[ACK_SIZE:].decode() == "süß"
    assert length == 5


@given(st.binary(min_size=ACK_SIZE, max_size=ACK_SIZE))
def test_random_bytes_are_no_message(header):
    with pytest.raises(ProtocolError):
        parse_ack(header)
