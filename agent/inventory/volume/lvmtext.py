# SPDX-License-Identifier: GPL-3.0-or-later
"""The text in which LVM2 keeps its metadata, as dictionaries; see lvm2's libdm/libdm-config.c.

Sections are dictionaries, arrays tuples, whole numbers integers, all other values strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from agent.inventory.volume.window import VolumeDamagedError

MAX_DEPTH = 8
_BETWEEN = r"\s*(?:#[^\n]*\n\s*)*"
_TOKEN = re.compile(
    _BETWEEN + r'(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<word>[\w.+*/:-]+)|(?P<sign>[={}\[\],]))',
    re.ASCII | re.DOTALL,
)
_REST = re.compile(_BETWEEN + r"(?:#[^\n]*)?\x00*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,19}")

Section = dict[str, Any]


def parse(text: str) -> Section:
    """Return the sections and values in `text`.

    Raises:
        VolumeDamagedError: it is no such text, names something twice, or nests too deeply.
    """
    tokens = _tokens(text)
    return _section(tokens, 0)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of each token, and at the end an empty sign."""
    at = 0
    while match := _TOKEN.match(text, at):
        at = match.end()
        kind = match.lastgroup or ""
        yield kind, match[kind]
    if not _REST.fullmatch(text, at):
        raise _bad(f"{text[at : at + 20]!r}")
    yield "sign", ""


def _section(tokens: Iterator[tuple[str, str]], depth: int) -> Section:
    if depth > MAX_DEPTH:
        raise _bad("sections nest too deeply")
    found: Section = {}
    for kind, name in tokens:
        if kind == "sign" and name == ("}" if depth else ""):
            return found
        if kind != "word" or name in found:
            raise _bad(f"{name[:40]!r} where a new name is wanted")
        match next(tokens, ("sign", "")):
            case "sign", "{":
                found[name] = _section(tokens, depth + 1)
            case "sign", "=":
                found[name] = _value(tokens)
            case _, other:
                raise _bad(f"{other[:40]!r} after {name[:40]!r}")
    raise _bad("it ends early")


def _value(tokens: Iterator[tuple[str, str]]) -> Any:
    kind, text = next(tokens, ("sign", ""))
    if (kind, text) != ("sign", "["):
        return _plain(kind, text)
    values = []
    kind, text = next(tokens, ("sign", ""))
    while (kind, text) != ("sign", "]"):
        values.append(_plain(kind, text))
        kind, text = next(tokens, ("sign", ""))
        if (kind, text) == ("sign", ","):
            kind, text = next(tokens, ("sign", ""))
    return tuple(values)


def _plain(kind: str, text: str) -> str | int:
    if kind == "string":
        return _ESCAPED.sub(r"\1", text[1:-1])
    if kind == "word":
        return int(text) if _NUMBER.fullmatch(text) else text
    raise _bad(f"{text[:40]!r} where a value is wanted")


def _bad(what: str) -> VolumeDamagedError:
    return VolumeDamagedError(problem=f"LVM's metadata makes no sense: {what}")
