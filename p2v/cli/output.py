# SPDX-License-Identifier: GPL-3.0-or-later
"""What verbs print: plain text to a pipe, a little colour on a terminal, JSON on request."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Container, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from p2v.model.command import printable
from p2v.model.units import format_size


def print_json(document: object) -> None:
    """Print one JSON document; dataclasses become objects, enums and paths strings."""
    json.dump(document, sys.stdout, indent=2, default=_plain)
    print()


def print_pairs(pairs: Iterable[tuple[str, str]], indent: str = "  ") -> None:
    """Print names and values in two aligned columns; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{indent}{name:<{width}}  {printable(value)}")


def print_styled(text: str, style: str) -> None:
    """Print the text, in the style where stdout is a terminal and NO_COLOR is not set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        print(printable(text))
        return
    # Imported here: a twentieth of a second that a pipe need not wait for.
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False, soft_wrap=True).print(Text(printable(text), style))


def age(seconds: float | None) -> str:
    """Return how long ago something was, in few characters: ``90s``, ``12m``, ``5h``, ``3d``."""
    if seconds is None:
        return ""
    for limit, part, unit in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / part:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def table(rows: Sequence[Sequence[str]], right: Container[int]) -> list[str]:
    """Return a line a row, its cells in columns; those whose numbers are in `right` end alike."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if place in right else f"{cell:<{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def print_wrapped(text: str, indent: str) -> None:
    """Print text in lines that fit the terminal, each indented."""
    width = shutil.get_terminal_size().columns
    lines = textwrap.wrap(
        printable(text),
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )
    print("\n".join(lines))


def size(count: int) -> str:
    """Return bytes for people, the exact number beside a rounded one."""
    return format_size(count) if count < 1024 else f"{format_size(count)} ({count} bytes)"


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
