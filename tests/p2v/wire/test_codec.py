# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads: what goes in comes out, and nothing more than was declared."""

import contextlib
import os

import lzf
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from p2v.model.errors import ProtocolError
from p2v.wire import pages
from p2v.wire.chunk import CHUNK_SIZE
from p2v.wire.codec import Decoder, Encoder
from p2v.wire.frame import WireCodec

TEXT = (b"All human beings are born free and equal in dignity and rights. " * 4100)[:CHUNK_SIZE]
ENCODERS = [(WireCodec.NONE, 0), (WireCodec.LZF, 0), *((WireCodec.ZSTD, n) for n in (-5, 1, 9))]


@pytest.mark.parametrize("choice", ENCODERS, ids=str)
@pytest.mark.parametrize("data", [TEXT, os.urandom(CHUNK_SIZE), b"x", TEXT[:513]], ids=len)
def test_a_chunk_survives_every_codec(choice, data):
    codec, payload = Encoder(*choice).encode(memoryview(data))
    assert len(payload) <= len(data)
    assert bytes(Decoder().decode(codec, payload, len(data))) == data


def test_random_bytes_are_sent_as_they_are():
    data = os.urandom(CHUNK_SIZE)
    for choice in ENCODERS:
        codec, payload = Encoder(*choice).encode(data)
        assert codec is WireCodec.NONE
        assert payload is data


def test_text_is_sent_shorter():
    for choice in ENCODERS[1:]:
        assert len(Encoder(*choice).encode(TEXT)[1]) < CHUNK_SIZE // 4


def test_the_reference_libraries_read_the_payloads():
    assert lzf.decompress(bytes(Encoder(WireCodec.LZF).encode(TEXT)[1]), CHUNK_SIZE) == TEXT
    assert zstandard.decompress(Encoder(WireCodec.ZSTD).encode(TEXT)[1]) == TEXT
    assert Decoder().decode(WireCodec.LZF, lzf.compress(TEXT), CHUNK_SIZE) == TEXT


@pytest.mark.parametrize("codec", [WireCodec.ZSTD, WireCodec.LZF])
@pytest.mark.parametrize("length", [CHUNK_SIZE - 1, CHUNK_SIZE + 1, 1])
def test_a_payload_that_is_longer_or_shorter_than_declared_is_refused(codec, length):
    payload = Encoder(codec).encode(TEXT)[1]
    with pytest.raises(ProtocolError):
        Decoder().decode(codec, payload, length)


def test_a_zstd_bomb_is_refused_before_it_is_unpacked():
    bomb = zstandard.compress(bytes(1 << 30))
    with pytest.raises(ProtocolError, match="1073741824 bytes"):
        Decoder().decode(WireCodec.ZSTD, bomb, CHUNK_SIZE)


def test_a_zstd_frame_without_its_size_is_refused():
    packed = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(ProtocolError):
        Decoder().decode(WireCodec.ZSTD, packed, CHUNK_SIZE)


@given(payload=st.binary(max_size=2000), codec=st.sampled_from([WireCodec.ZSTD, WireCodec.LZF]))
def test_garbage_ends_in_a_protocol_error_or_the_declared_length(payload, codec):
    with contextlib.suppress(ProtocolError):
        assert len(Decoder().decode(codec, payload, 4096)) == 4096


@given(st.data())
def test_changed_pages_turn_the_old_chunk_into_the_new(data):
    old = bytearray(TEXT)
    new = bytearray(old)
    for page in data.draw(st.sets(st.integers(0, 63), min_size=1, max_size=8)):
        new[page * 4096 + 5] ^= 0xFF
    runs = pages.native.changed_pages(old, new)
    encoder = Encoder(
        data.draw(st.sampled_from([WireCodec.NONE, WireCodec.ZSTD, WireCodec.LZF])), 1
    )
    codec, payload = pages.pack(new, runs, encoder)
    pages.apply(old, codec, payload, Decoder())
    assert old == new


@given(st.binary(max_size=300))
def test_garbage_pages_leave_a_protocol_error(payload):
    chunk = bytearray(CHUNK_SIZE)
    with contextlib.suppress(ProtocolError):
        pages.apply(chunk, WireCodec.NONE, payload, Decoder())
    assert len(chunk) == CHUNK_SIZE
