# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads: a chunk compressed and decompressed, with every declared length checked first."""

from __future__ import annotations

import zstandard

import native
from p2v.model.errors import ProtocolError
from p2v.wire.frame import WireCodec

Buffer = bytes | bytearray | memoryview

MIN_GAIN = 1 / 32
"""A chunk that compression shortens by less is sent as it is: the reader's time costs more."""

MAX_WINDOW = 1 << 20
"""A zstd window above this is refused: a frame of one chunk needs none, and it costs memory."""


class Encoder:
    """Compresses chunks with one codec. Not thread-safe: one a thread."""

    def __init__(self, codec: WireCodec, level: int = 1) -> None:
        self.codec = codec
        self.level = level
        self._zstd = (
            zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
            if codec is WireCodec.ZSTD
            else None
        )

    def encode(self, chunk: Buffer) -> tuple[WireCodec, Buffer]:
        """Return `chunk` compressed, or as it is where that gains less than `MIN_GAIN`."""
        packed: Buffer | None = None
        if self._zstd is not None:
            packed = self._zstd.compress(chunk)
        elif self.codec is WireCodec.LZF:
            packed = native.lzf_compress(chunk)
        if packed is None or len(packed) > len(chunk) * (1 - MIN_GAIN):
            return WireCodec.NONE, chunk
        return self.codec, packed


class Decoder:
    """Decompresses payloads into at most the length that their frame declares. One a thread."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)

    def decode(self, codec: WireCodec, payload: Buffer, length: int) -> Buffer:
        """Return the `length` bytes that `payload` holds.

        Raises:
            ProtocolError: it holds more, fewer, or is damaged. Nothing is allocated beyond
                `length`.
        """
        if codec is WireCodec.NONE:
            data: Buffer = payload
        elif codec is WireCodec.LZF:
            try:
                data = native.lzf_decompress(payload, length)
            except ValueError as error:
                raise ProtocolError(problem=f"a damaged LZF payload ({error})") from None
        else:
            data = self._decode_zstd(payload, length)
        if len(data) != length:
            raise ProtocolError(problem=f"a payload of {len(data)} bytes, {length} were declared")
        return data

    def _decode_zstd(self, payload: Buffer, length: int) -> bytes:
        try:
            declared = zstandard.frame_content_size(payload)
            if declared != length:
                raise ProtocolError(
                    problem=f"a zstd frame of {declared} bytes, {length} were declared"
                )
            return self._zstd.decompress(payload, max_output_size=length)
        except zstandard.ZstdError as error:
            raise ProtocolError(problem=f"a damaged zstd payload ({error})") from None
