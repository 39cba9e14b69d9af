# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors as they cross the API and the wire: problem documents (RFC 9457), and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from p2v.model.errors import P2VError


class RemoteError(P2VError):
    """A failure that the converter reports with a code that this agent does not know."""

    code = "remote"
    hint = "{hint}"


def problem_document(error: P2VError) -> dict[str, Any]:
    """Return the error as a JSON-able problem document."""
    return {
        "type": error.code,
        "title": (type(error).__doc__ or "").splitlines()[0],
        "status": error.status,
        "detail": str(error),
        "hint": error.way_out,
        "fields": {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in error.fields.items()
        },
    }


def error_of(document: Mapping[str, Any]) -> P2VError:
    """Return the error that a problem document describes, of its own class where it is known."""
    code = str(document.get("type", ""))
    known = next((cls for cls in _classes(P2VError) if cls.code == code), RemoteError)
    fields = document.get("fields")
    error = known.__new__(known)
    Exception.__init__(error, str(document.get("detail", "the converter gave no reason")))
    error.fields = dict(fields) if isinstance(fields, Mapping) else {}
    if known is RemoteError:
        error.fields["hint"] = str(document.get("hint", ""))
    return error


def _classes(base: type[P2VError]) -> Iterator[type[P2VError]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _classes(cls)
