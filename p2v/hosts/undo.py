# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking back what was half made."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Undone:
    """Something that was taken back, or, with a `problem`, could not be."""

    what: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.what} could not be removed: {self.problem}" if self.problem else self.what


class Undo:
    """What was made so far, to be taken back in the reverse order if something fails."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []
        self._done: list[Undone] = []

    def later(self, what: str, how: Callable[[], object]) -> None:
        """Remember that `what` was made and `how` it is taken back."""
        self._steps.append((what, how))

    def done(self, undone: Undone) -> None:
        """Remember what the host took back by itself."""
        self._done.append(undone)

    def run(self) -> tuple[Undone, ...]:
        """Take back everything, whatever fails; return what came of it."""
        undone, self._done = self._done, []
        while self._steps:
            what, how = self._steps.pop()
            try:
                how()
            except Exception as error:  # the rest must be taken back all the same
                log.warning("%s could not be taken back", what, exc_info=True)
                undone.append(Undone(what, str(error) or type(error).__name__))
            else:
                undone.append(Undone(what))
        return tuple(undone)
