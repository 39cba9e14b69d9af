# SPDX-License-Identifier: GPL-3.0-or-later
"""What tracefs says of a tracepoint: its number, and where its fields are.

Source: Documentation/trace/events.rst, section 2 and 3.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent import tools

_PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_FIELD = re.compile(r"\bfield:[^;]*?(\w+)(?:\[\d*\])?;\s*offset:(\d+);\s*size:(\d+);")


@dataclass(frozen=True, slots=True)
class Tracepoint:
    """A tracepoint; `fields` gives offset and size in bytes by name."""

    identifier: int
    fields: dict[str, tuple[int, int]]

    def offset(self, name: str, size: int) -> int:
        """Return where a field of at least `size` bytes is.

        Raises:
            ValueError: there is none.
        """
        offset, found = self.fields.get(name, (0, 0))
        if found < size:
            raise ValueError(f"the kernel's tracepoint has no field {name} of {size} bytes")
        return offset


def parse_format(text: str) -> dict[str, tuple[int, int]]:
    """Return offset and size by field name of an event's `format` file."""
    return {name: (int(at), int(size)) for name, at, size in _FIELD.findall(text)}


def read_tracepoint(folder: Path, event: str) -> Tracepoint:
    """Return the tracepoint `event` (``block/block_rq_issue``) of the tracefs at `folder`.

    Raises:
        OSError: there is no such tracepoint, or it may not be read.
    """
    found = folder / "events" / event
    fields = parse_format((found / "format").read_text())
    return Tracepoint(int((found / "id").read_text()), fields)


@contextmanager
def tracefs(places: tuple[Path, ...] = _PLACES) -> Iterator[Path]:
    """Give a mounted tracefs, for the block's duration mounted aside where there is none.

    Raises:
        ToolError: it cannot be mounted.
    """
    for place in places:
        if (place / "events/block").is_dir():
            yield place
            return
    with tempfile.TemporaryDirectory(prefix="p2v-tracefs-") as folder:
        tools.run(["mount", "-t", "tracefs", "-o", "ro", "tracefs", folder])
        try:
            yield Path(folder)
        finally:
            tools.run(["umount", folder])
