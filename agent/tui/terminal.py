# SPDX-License-Identifier: GPL-3.0-or-later
"""What kind of terminal this is, and what may be drawn on it.

A bare Linux console has the 256 glyphs of its font: Debian's have no block elements, which show as
diamonds. Serial lines are slow, and what is at their other end is anybody's guess.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

_KDGKBTYPE = 0x4B33
"""ioctl(2) that only a Linux virtual console answers; include/uapi/linux/kd.h."""
_SERIAL = re.compile(r"/dev/(ttyS|ttyUSB|ttyAMA|ttyACM|hvc|ttysclp|xvc)")
_OLD = re.compile(r"(linux|vt\d+|ansi|dumb|cons25|xterm-mono|unknown)?")
"""Terminals of which more than ASCII cannot be expected."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """Which signs, how many colours (0, 8 or more) and how much traffic a terminal bears."""

    ascii: bool = False
    slow: bool = False
    colours: int = 256

    @property
    def interval_s(self) -> float:
        """Seconds between two updates of a screen that shows progress."""
        return 2.0 if self.slow else 1.0


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs that screens are drawn with; each is one column wide."""

    full: str
    empty: str
    star: str
    half_star: str
    no_star: str
    levels: str
    """Bars of a curve, from none to highest."""


UNICODE = Glyphs("█", "░", "★", "½", "☆", " ▁▂▃▄▅▆▇█")
ASCII = Glyphs("#", ".", "*", "+", "-", " _.:-=+*#")


def glyphs(terminal: Terminal) -> Glyphs:
    """Return the signs for a terminal."""
    return ASCII if terminal.ascii else UNICODE


def look(fd: int, environ: Mapping[str, str]) -> Terminal:
    """Return what the terminal open as `fd` is."""
    try:
        name = os.ttyname(fd)
    except OSError:
        name = ""
    serial = bool(_SERIAL.match(name)) or environ.get("P2V_SERIAL") == "1"
    term = environ.get("TERM", "")
    old = serial or _is_console(fd) or _OLD.fullmatch(term) is not None
    utf8 = any("UTF-8" in environ.get(key, "").upper().replace("UTF8", "UTF-8") for key in _LOCALE)
    colours = 8 if old else 256
    if environ.get("NO_COLOR") or term.startswith("vt") or term in ("dumb", "xterm-mono"):
        colours = 0
    return Terminal(ascii=old or not utf8, slow=serial, colours=colours)


_LOCALE = ("LC_ALL", "LC_CTYPE", "LANG")


def _is_console(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _KDGKBTYPE, b"\0") > b"\0"
    except OSError:
        return False


def prepare(terminal: Terminal, environ: MutableMapping[str, str]) -> None:
    """Set what Textual reads from the environment; before it is imported.

    The progressive keyboard protocol shows as rubbish on old terminals. A frame rate is a bound on
    the bytes that a serial line is sent.
    """
    environ["TEXTUAL_ANIMATIONS"] = "none"
    environ["TEXTUAL_SMOOTH_SCROLL"] = "0"
    environ["ESCDELAY"] = environ.get("ESCDELAY", "100")
    if terminal.ascii:
        environ["TEXTUAL_DISABLE_KITTY_KEY"] = "1"
    if terminal.slow:
        environ["TEXTUAL_FPS"] = "5"
    if terminal.colours == 0:
        environ["NO_COLOR"] = "1"


def size_unknown(fd: int) -> bool:
    """Return whether the terminal does not say how large it is, as serial lines don't."""
    try:
        return os.get_terminal_size(fd).columns == 0
    except OSError:
        return False
