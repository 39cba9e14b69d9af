# SPDX-License-Identifier: GPL-3.0-or-later
"""A place to put what could not be read, so that no part of an inventory fails silently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from p2v.model.errors import P2VError
from p2v.model.machine import Problem, Severity


class Problems:
    """The problems met so far, in order."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(
        self, severity: Severity, code: str, subject: str, message: str, action: str = ""
    ) -> None:
        """Record one."""
        self._found.append(Problem(severity, code, subject, message, action))

    def extend(self, problems: Iterable[Problem]) -> None:
        """Record several."""
        self._found.extend(problems)

    @contextmanager
    def collect(self, code: str, subject: str, action: str = "") -> Iterator[None]:
        """Turn a failure of the block (a tool, a file, a field) into a warning and go on."""
        try:
            yield
        except P2VError as error:
            self.add(Severity.WARNING, code, subject, str(error), action or error.way_out)
        except (OSError, ValueError, KeyError) as error:
            self.add(Severity.WARNING, code, subject, f"It could not be read: {error}.", action)

    def all(self) -> tuple[Problem, ...]:
        """Return what was recorded, each once."""
        return tuple(dict.fromkeys(self._found))
