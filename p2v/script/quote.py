# SPDX-License-Identifier: GPL-3.0-or-later
"""Text as literals of PowerShell and of the shell: nothing in it is ever run."""

from __future__ import annotations

import re
import shlex
from itertools import groupby

from p2v.model.errors import UsageError

_NO_HOST_NAME = re.compile(r"[^A-Za-z0-9-]+")
_LABEL = 63
"""RFC 1035 2.3.4: the most characters of a label."""


def powershell(text: str) -> str:
    """Return `text` as an expression of PowerShell, in ASCII only.

    A single-quoted string has one special character, the quote, which is doubled (about_Quoting_
    Rules). PowerShell takes four Unicode quotes for it as well, and Windows PowerShell reads a file
    without a byte order mark in the system's code page, where bytes of other letters can be such
    quotes. So whatever is not ASCII is written as its code.

    Raises:
        UsageError: `text` has characters that can't be printed.
    """
    _check(text)
    parts = [
        _plain("".join(run)) if ascii_ else _codes("".join(run))
        for ascii_, run in groupby(text, str.isascii)
    ]
    if not parts:
        return "''"
    if len(parts) == 1 and text.isascii():
        return parts[0]
    return f"({' + '.join(parts if text[0].isascii() else [_plain(''), *parts])})"


def shell(text: str) -> str:
    """Return `text` as one word of a POSIX shell.

    Raises:
        UsageError: `text` has characters that can't be printed.
    """
    _check(text)
    return shlex.quote(text)


def label(text: str) -> str:
    """Return `text` as a host's label (RFC 1123), for hypervisors whose names are nothing else."""
    return _NO_HOST_NAME.sub("-", text).strip("-")[:_LABEL].strip("-") or "vm"


def _plain(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _codes(text: str) -> str:
    units = text.encode("utf-16-be")
    return " + ".join(f"[char]0x{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2))


def _check(text: str) -> None:
    if not text.isprintable():
        raise UsageError(problem=f"{text!r} has characters that can't be printed")
