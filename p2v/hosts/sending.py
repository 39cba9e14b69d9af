# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on their way to a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

PIECE = 1 << 20

Sent = Callable[[int], None]
"""Hears how many more bytes of the images went out."""


def unheard(_count: int) -> None:
    """Tell nobody."""


class Pieces:
    """A file as the body of a request, with a length: no hypervisor here takes a chunked body.

    It is never in memory as a whole.
    """

    def __init__(self, path: Path, sent: Sent = unheard) -> None:
        self._path = path
        self._sent = sent

    def __len__(self) -> int:
        return self._path.stat().st_size

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(PIECE):
                yield piece
                self._sent(len(piece))
