# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU's control socket: https://www.qemu.org/docs/master/interop/qmp-spec.html."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from p2v.model.errors import ToolError
from p2v.model.units import MiB

_ANSWER_S = 120.0
_MAX_LINE = 4 * MiB
_SHIFTED = {
    "!": "1", "@": "2", "#": "3", "$": "4", "%": "5", "^": "6", "&": "7", "*": "8", "(": "9",
    ")": "0", "_": "minus", "+": "equal", "{": "bracket_left", "}": "bracket_right",
    "|": "backslash", ":": "semicolon", '"': "apostrophe", "~": "grave_accent", "<": "comma",
    ">": "dot", "?": "slash",
}  # fmt: skip
_PLAIN = {
    " ": "spc", "\n": "ret", "\t": "tab", "-": "minus", "=": "equal", "[": "bracket_left",
    "]": "bracket_right", "\\": "backslash", ";": "semicolon", "'": "apostrophe",
    "`": "grave_accent", ",": "comma", ".": "dot", "/": "slash",
}  # fmt: skip


class Gone(Exception):  # noqa: N818
    """QEMU has ended."""


class Qmp:
    """A connection to a running QEMU. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_ANSWER_S)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rwb")
        self._events: list[dict[str, Any]] = []
        self._read()  # the greeting
        self.call("qmp_capabilities")

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        with suppress(OSError):  # what could not be sent to a QEMU that has ended
            self._stream.close()
        self._socket.close()

    def call(self, command: str, **arguments: Any) -> Any:
        """Execute a command and return its result; events that come meanwhile are kept.

        Raises:
            Gone: QEMU has ended.
            ToolError: it refuses, or does not answer.
        """
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        try:
            line = json.dumps({"execute": command, "arguments": words})
            self._stream.write(line.encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise Gone from error
        while True:
            answer = self._read()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                problem = f"{command}: {answer['error'].get('desc')}"
                raise ToolError(tool="QEMU", problem=problem)
            else:
                return answer.get("return")

    def events(self) -> list[dict[str, Any]]:
        """Return the events since the last time.

        Raises:
            Gone: QEMU has ended, and there are none left.
        """
        try:
            self.call("query-status")  # what came before its answer has arrived now
        except Gone:
            if not self._events:
                raise
        events, self._events = self._events, []
        return events

    def type(self, text: str) -> None:
        """Press the keys of a US keyboard that give `text`."""
        for keys in keys_of(text):
            codes = [{"type": "qcode", "data": key} for key in keys]
            self.call("send-key", keys=codes, hold_time=20)

    def _read(self) -> dict[str, Any]:
        try:
            line = self._stream.readline(_MAX_LINE)
        except TimeoutError as error:
            problem = f"no answer within {_ANSWER_S:g} s"
            raise ToolError(tool="QEMU", problem=problem) from error
        except OSError as error:
            raise Gone from error
        if not line.endswith(b"\n"):
            raise Gone
        answer: dict[str, Any] = json.loads(line)
        return answer


def keys_of(text: str) -> Iterable[tuple[str, ...]]:
    """Yield the keys (QEMU's names) to press together for each character of `text`.

    Raises:
        ValueError: a US keyboard has no such character.
    """
    for character in text:
        if character in _PLAIN:
            yield (_PLAIN[character],)
        elif character in _SHIFTED:
            yield ("shift", _SHIFTED[character])
        elif character.isascii() and character.isalnum():
            key = character.lower()
            yield (key,) if key == character else ("shift", key)
        else:
            raise ValueError(f"a US keyboard has no {character!r}")
