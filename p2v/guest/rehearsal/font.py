# SPDX-License-Identifier: GPL-3.0-or-later
"""Console fonts: the glyphs that text on a screen is made of.

In text mode a screen shows the font of the graphics card's BIOS, which with QEMU is SeaBIOS's own.
Where the kernel draws the console itself, it uses the VGA font or, on fine screens, Terminus, and
Debian's console-setup then loads Fixed or Terminus. The PSF formats:
https://www.win.tue.nl/~aeb/linux/kbd/font-formats-1.html
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from p2v.model.errors import ToolError

Glyph = tuple[int, ...]
"""The rows of a glyph from the top; in a row the leftmost pixel is the highest bit."""

_FOLDER = Path("/usr/share/consolefonts")
_VGABIOS = Path("/usr/share/seabios/vgabios-stdvga.bin")
_NAMES = ("VGA16", "Fixed16", "Terminus16", "TerminusBold16", "VGA8", "Terminus32x16")
# Debian 11's Fixed draws these otherwise than its successors'.
_OLDER_FIXED = {
    "&": "000000001c2222221c39454246390000",
    "-": "0000000000000000007e000000000000",
    "0": "00000000182442424242424224180000",
    "k": "00000000404044485060504844420000",
    "l": "000000001808080808080808083e0000",
    "t": "0000000010107c1010101010100c0000",
    "{": "0000000c101008081010080810100c00",
    "}": "00000030080810100808101008083000",
}
# Block elements: a picture's areas must not pass for text.
_BLOCKS = frozenset(map(chr, range(0x2580, 0x25A0)))
_PSF1 = b"\x36\x04"
_PSF2 = b"\x72\xb5\x4a\x86"
_PSF1_512_GLYPHS = 0x01
_PSF1_HAS_TABLE = 0x06
_PSF2_HAS_TABLE = 0x01


@dataclass(frozen=True, slots=True, eq=False)
class Font:
    """Glyphs of one size, `width` by `height` pixels, and the character that each shows."""

    name: str
    width: int
    height: int
    glyphs: dict[Glyph, str]


@cache
def console_fonts() -> tuple[Font, ...]:
    """Return the fonts that consoles commonly use.

    Raises:
        ToolError: they are not installed.
    """
    try:
        fonts = [
            parse_psf(name, gzip.decompress((_FOLDER / f"Lat15-{name}.psf.gz").read_bytes()))
            for name in _NAMES
        ]
        for shown, rows in _OLDER_FIXED.items():
            fonts[_NAMES.index("Fixed16")].glyphs.setdefault(tuple(bytes.fromhex(rows)), shown)
        return (find_vga_font(_VGABIOS.read_bytes(), fonts[0]), *fonts)
    except FileNotFoundError as error:
        problem = f"{error.filename} is missing; install console-setup-linux and seabios"
        raise ToolError(tool="console fonts", problem=problem) from error


def find_vga_font(bios: bytes, like: Font) -> Font:
    """Return the font of 256 characters (code page 437) in a graphics card's BIOS.

    It is found by the digits, which it shares with the VGA font `like`.

    Raises:
        ValueError: there is none.
    """
    digits = b"".join(bytes(_glyph(like, digit)) for digit in "123456789")
    start = bios.find(digits) - ord("1") * like.height
    table = bios[max(start, 0) :][: 256 * like.height]
    if start < 0 or len(table) < 256 * like.height:
        raise ValueError("no font in the graphics card's BIOS")
    glyphs: dict[Glyph, str] = {}
    for code in range(0x20, 0x100):
        if (shown := bytes([code]).decode("cp437")) not in _BLOCKS:
            glyphs.setdefault(tuple(table[code * like.height :][: like.height]), shown)
    return Font("vgabios", like.width, like.height, glyphs)


def _glyph(font: Font, character: str) -> Glyph:
    return next(glyph for glyph, shown in font.glyphs.items() if shown == character)


def parse_psf(name: str, data: bytes) -> Font:
    """Return the font in a PSF file, version 1 or 2, with a table of characters.

    Raises:
        ValueError: it is no such file.
    """
    if data[:2] == _PSF1:
        mode, height = data[2], data[3]
        start, count, width, has_table = (
            4,
            512 if mode & _PSF1_512_GLYPHS else 256,
            8,
            (mode & _PSF1_HAS_TABLE),
        )
    elif data[:4] == _PSF2:
        _, start, flags, count, _, height, width = struct.unpack_from("<7I", data, 4)
        has_table = flags & _PSF2_HAS_TABLE
    else:
        raise ValueError(f"{name} is no PSF font")
    row = (width + 7) // 8
    end = start + count * height * row
    if not has_table or width % 8 or end > len(data):
        raise ValueError(f"{name} is a PSF font without a table, cut short, or of an odd width")
    table = _psf1_table if data[:2] == _PSF1 else _psf2_table
    glyphs: dict[Glyph, str] = {}
    for index, characters in enumerate(table(data[end:])):
        shown = min((one for one in characters if one.isprintable()), default="")
        if shown in _BLOCKS:
            continue
        if shown and index < count:
            place = start + index * height * row
            lines = (data[place + line * row :][:row] for line in range(height))
            glyphs.setdefault(tuple(int.from_bytes(line) for line in lines), shown)
    return Font(name, width, height, glyphs)


def _psf1_table(data: bytes) -> Iterator[str]:
    words = data[: len(data) // 2 * 2].decode("utf-16-le", errors="surrogatepass")
    for entry in words.split("\uffff")[:-1]:
        yield entry.partition("\ufffe")[0]


def _psf2_table(data: bytes) -> Iterator[str]:
    for entry in data.split(b"\xff")[:-1]:
        yield entry.partition(b"\xfe")[0].decode(errors="replace")
