# SPDX-License-Identifier: GPL-3.0-or-later
"""Text is read off screens: drawn here with real console fonts, and by QEMU."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.guest.rehearsal.font import console_fonts, parse_psf
from p2v.guest.rehearsal.screen import Picture, parse_ppm, read_text
from p2v.guest.rehearsal.signs import outcome_of
from p2v.guest.rehearsal.verdict import Outcome

PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]
LINES = (
    "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
    "",
    "web01 login: _",
    "".join(PRINTABLE[:64]),
    "".join(PRINTABLE[64:]),
)


def draw(font, lines, columns=80, rows=25, ink=(170, 170, 170), paper=(0, 0, 0), gap=0):
    """Draw a console as a graphics card would; `gap` empty columns after each cell."""
    by_character = {character: glyph for glyph, character in font.glyphs.items()}
    pixels = bytearray()
    for number in range(rows):
        text = (lines[number] if number < len(lines) else "").ljust(columns)[:columns]
        for y in range(font.height):
            for character in text:
                row = by_character[character][y] if character != " " else 0
                for x in range(font.width - 1, -1, -1):
                    pixels += bytes(ink if row >> x & 1 else paper)
                pixels += bytes(paper) * gap
    return Picture(columns * (font.width + gap), rows * font.height, bytes(pixels))


@pytest.mark.parametrize("font", console_fonts(), ids=lambda font: font.name)
def test_every_line_is_read_in_every_font(font):
    text = read_text(draw(font, LINES))
    assert text.lines == LINES
    assert text.readable


def test_the_text_mode_s_ninth_column_is_left_out():
    font = console_fonts()[0]
    assert read_text(draw(font, LINES, gap=1)).lines == LINES


@pytest.mark.parametrize(
    ("ink", "paper"),
    [((255, 255, 255), (0, 0, 128)), ((170, 0, 0), (0, 0, 0)), ((0, 0, 0), (170, 170, 170))],
)
def test_colours_don_t_matter(ink, paper):
    assert read_text(draw(console_fonts()[1], LINES, ink=ink, paper=paper)).lines == LINES


def test_a_blemish_does_not_hide_a_character():
    picture = draw(console_fonts()[1], LINES)
    pixels = bytearray(picture.pixels)
    pixels[3 * (picture.width * 8 + 2)] ^= 0xAA
    assert read_text(Picture(picture.width, picture.height, bytes(pixels))).lines == LINES


def test_a_picture_is_no_text():
    noise = bytes(
        zlib.crc32(bytes([n & 255, n >> 8 & 255, n >> 16])) & 255 for n in range(640 * 480)
    )
    picture = Picture(640, 480, bytes(level for level in noise for _ in range(3)))
    assert not read_text(picture).readable


def test_an_empty_screen_says_nothing():
    text = read_text(Picture(640, 480, bytes(640 * 480 * 3)))
    assert text.lines == () and not text.readable


def test_a_png_holds_the_picture():
    picture = draw(console_fonts()[0], LINES)
    png = picture.png()
    start = png.index(b"IDAT") + 4
    length = int.from_bytes(png[start - 8 : start - 4])
    rows = zlib.decompress(png[start : start + length])
    wide = picture.width * 3 + 1
    assert b"".join(rows[at + 1 : at + wide] for at in range(0, len(rows), wide)) == picture.pixels


@given(st.binary(max_size=200))
def test_what_is_no_ppm_picture_is_refused(data):
    with pytest.raises(ValueError):
        parse_ppm(b"P6 4 4 255\n" + data.ljust(49, b"\0"))
    with pytest.raises(ValueError):
        parse_ppm(data)


@settings(max_examples=50)
@given(st.binary(max_size=400), st.sampled_from([b"\x36\x04", b"\x72\xb5\x4a\x86"]))
def test_a_damaged_font_is_refused_or_empty(data, magic):
    with suppress(ValueError):
        parse_psf("font", magic + data.ljust(28, b"\0"))


def test_the_login_of_a_debian_11_is_read_in_the_font_that_it_had():
    data = gzip.decompress((Path(__file__).parent / "debian-11-login.ppm.gz").read_bytes())
    text = read_text(parse_ppm(data))
    assert text.lines[-1] in ("lvm login:", "lvm login: _")
    assert "Debian GNU/Linux 11 lvm tty1" in text.lines
    assert text.readable
    assert outcome_of(text.lines) is Outcome.LOGIN
