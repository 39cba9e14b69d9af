# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket of a job: one JSON request a connection, one JSON answer.

    {"do": "pause"}                      {"do": "go-on"}
    {"do": "limit", "rate": 10485760}    bytes a second, 0 for none
    {"do": "cutover"}                    the final pass now
    {"do": "stop", "discard": false}     end; true: the converter deletes what it has

The answer is ``{"ok": true}`` or ``{"error": "what is wrong"}``. Who can open the socket may ask:
its folder belongs to the job's user alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.job.controls import Controls

_MAX_REQUEST = 4096
_TIMEOUT_S = 5.0


@contextlib.contextmanager
def serving(path: Path, controls: Controls) -> Iterator[None]:
    """Answer requests at the Unix socket `path` in a thread while the block runs."""
    stop, wake = os.pipe()
    with _listener(path) as listener:
        thread = threading.Thread(
            target=_serve, args=(listener, stop, controls), name="control", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            os.close(wake)
            thread.join()
            os.close(stop)
            path.unlink(missing_ok=True)


def _listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _short(path) as name:
        listener.bind(name)
    path.chmod(0o600)
    listener.listen()
    return listener


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name for `path` within the 107 bytes that a socket's address may have."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _serve(listener: socket.socket, stop: int, controls: Controls) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(stop, select.POLLIN)
    while stop not in dict(poll.poll()):
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_TIMEOUT_S)
                answer = _answer(_receive(connection), controls)
                connection.sendall(json.dumps(answer).encode() + b"\n")


def _receive(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_REQUEST:
        more = connection.recv(_MAX_REQUEST)
        if not more:
            break
        data += more
    return data


def _answer(data: bytes, controls: Controls) -> dict[str, Any]:
    try:
        request = json.loads(data)
        _obey(request, controls)
    except (ValueError, KeyError, TypeError) as error:
        return {"error": f"no such request: {error}"}
    return {"ok": True}


def _obey(request: dict[str, Any], controls: Controls) -> None:
    match request["do"]:
        case "pause":
            controls.limiter.pause()
        case "go-on":
            controls.limiter.go_on()
        case "limit":
            if type(rate := request["rate"]) is not int or rate < 0:
                raise ValueError("'rate' is bytes a second, 0 for no limit")
            controls.limiter.rate = rate
        case "cutover":
            controls.cutover.set()
        case "stop":
            controls.stop(discard=request.get("discard", False) is True)
        case other:
            raise ValueError(repr(other))


def ask(path: Path, request: dict[str, Any]) -> None:
    """Send `request` to the job whose socket is `path`.

    Raises:
        OSError: nobody answers there: the job is over.
        ValueError: it refuses; the message says why.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream, _short(path) as name:
        stream.settimeout(_TIMEOUT_S)
        stream.connect(name)
        stream.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(_receive(stream) or b"{}")
    if "ok" not in answer:
        raise ValueError(str(answer.get("error", "it gave no answer")))
