# SPDX-License-Identifier: GPL-3.0-or-later
"""What is on a guest's screen: the picture, and the text that can be read off it.

A text console, whether the graphics card's own or one that the kernel draws, is a grid of cells of
one size, filled with the glyphs of one font. So the text is read by looking the cells up in the
fonts that consoles use; this finds each character or none, where OCR would guess.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from p2v.guest.rehearsal.font import Font, Glyph, console_fonts

UNKNOWN = "\ufffd"

_TEXT_MODE_WIDTH = 720  # the VGA text mode's cells have a ninth, empty, column
_HEADER = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s", re.ASCII)
_MAX_PIXELS = 8192 * 8192
_ANY_TO_ONE = b"0" + b"1" * 255
_SAMPLE_EVERY = 97
_TOLERANCE = 20  # a cell may differ from its glyph in one pixel of so many
_READABLE = 0.8


@dataclass(frozen=True, slots=True)
class Picture:
    """A screen: `pixels` are the lines from the top, three bytes (RGB) a pixel."""

    width: int
    height: int
    pixels: bytes = field(repr=False)

    def dominant(self) -> tuple[bytes, float]:
        """Return the commonest colour, and its share of the picture."""
        step = 3 * _SAMPLE_EVERY
        sample = Counter(self.pixels[at : at + 3] for at in range(0, len(self.pixels), step))
        colour, count = sample.most_common(1)[0]
        return colour, count / sample.total()

    def png(self) -> bytes:
        """Return the picture as a PNG file."""
        line = self.width * 3
        rows = (self.pixels[at : at + line] for at in range(0, len(self.pixels), line))
        data = zlib.compress(b"".join(b"\0" + row for row in rows))
        header = struct.pack(">2I5B", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


@dataclass(frozen=True, slots=True)
class Text:
    """What could be read of a picture.

    Attributes:
        lines: from the top, without trailing blanks; characters not known are U+FFFD.
        readable: whether most of what is on the screen is text in a known font.
    """

    lines: tuple[str, ...]
    readable: bool


NOTHING = Text((), False)
"""What a screen says on which nothing could be read."""


def parse_ppm(data: bytes) -> Picture:
    """Return the picture in a binary PPM file, which QEMU's screendump writes.

    Raises:
        ValueError: it is none, or cut short.
    """
    header = _HEADER.match(data)
    if header is None:
        raise ValueError("no PPM picture")
    width, height = int(header[1]), int(header[2])
    pixels = data[header.end() :]
    if not 0 < width * height <= _MAX_PIXELS or len(pixels) != width * height * 3:
        raise ValueError(f"a PPM picture of {width} x {height} with {len(pixels)} bytes")
    return Picture(width, height, pixels)


def read_text(picture: Picture) -> Text:
    """Read the text off a picture, with the font that explains most of it."""
    mask = _differing(picture)
    best, best_score = NOTHING, 0.0
    for width, height in sorted({(font.width, font.height) for font in console_fonts()}):
        grid = _cells(mask, picture.width, width, height)
        full = ((1 << width) - 1,) * height
        seen = Counter(cell for row in grid for cell in row if any(cell) and cell != full)
        for font in console_fonts():
            if (font.width, font.height) != (width, height) or not seen:
                continue
            names = {cell: _nearest(cell, font) for cell in seen}
            known = sum(count for cell, count in seen.items() if names[cell] != UNKNOWN)
            # Large cells are fewer: what counts is the share of the ink that is explained.
            if (score := known / seen.total()) > best_score:
                lines = tuple(_line(row, names) for row in grid)
                best, best_score = Text(_trimmed(lines), score >= _READABLE), score
    return best


def _differing(picture: Picture) -> bytes:
    """Return a byte a pixel: b"1" where it is not of the commonest colour, else b"0"."""
    background, _ = picture.dominant()
    count = picture.width * picture.height
    differing = 0
    for channel in range(3):
        plain = int.from_bytes(background[channel : channel + 1] * count)
        differing |= int.from_bytes(picture.pixels[channel::3]) ^ plain
    return differing.to_bytes(count).translate(_ANY_TO_ONE)


def _cells(mask: bytes, stride: int, width: int, height: int) -> list[list[Glyph]]:
    """Cut the mask into the rows of a grid of cells."""
    wide = width + 1 if stride == _TEXT_MODE_WIDTH and width == 8 else width
    columns = stride // wide
    rows = []
    for top in range(0, len(mask) // stride - height + 1, height):
        band = mask[top * stride : (top + height) * stride]
        if b"1" not in band:
            rows.append([(0,) * height] * columns)
            continue
        lines = [band[at : at + columns * wide] for at in range(0, len(band), stride)]
        rows.append(list(zip(*(_packed(line, wide, width) for line in lines), strict=True)))
    return rows


def _packed(line: bytes, wide: int, width: int) -> Iterable[int]:
    if wide > width:
        spaced = bytearray(line)
        del spaced[width::wide]
        line = bytes(spaced)
    packed = int(line, 2).to_bytes(len(line) // 8)
    step = width // 8
    return packed if step == 1 else struct.unpack(f">{len(packed) // 2}H", packed)


@lru_cache(maxsize=65536)
def _nearest(cell: Glyph, font: Font) -> str:
    """Return the character whose glyph the cell shows, in inverse video or not."""
    if (exact := font.glyphs.get(cell)) is not None:
        return exact
    full = (1 << font.width) - 1
    inverse = tuple(row ^ full for row in cell)
    if (exact := font.glyphs.get(inverse)) is not None:
        return exact
    limit = font.width * font.height // _TOLERANCE
    distance, character = min(
        (sum((a ^ b).bit_count() for a, b in zip(cell, glyph, strict=True)), character)
        for glyph, character in font.glyphs.items()
    )
    return character if distance <= limit else UNKNOWN


def _line(row: list[Glyph], names: dict[Glyph, str]) -> str:
    # The cursor blinks behind a prompt, and is no character.
    return "".join(names.get(cell, " ") for cell in row).rstrip(f" {UNKNOWN}")


def _trimmed(lines: tuple[str, ...]) -> tuple[str, ...]:
    last = max((number for number, line in enumerate(lines, 1) if line), default=0)
    return lines[:last]


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
