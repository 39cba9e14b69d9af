# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks the converter of a data folder, over its administrator's socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from p2v.model.errors import ProtocolError, UnreachableError, reason
from p2v.model.problem import error_of
from p2v.service import unixsocket

SOCKET_NAME = "admin.sock"
TIMEOUT_S = 60.0
_MAX_ANSWER = 256 << 20


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("converter", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock: socket.socket = unixsocket.connect(self._path)
        self.sock.settimeout(self.timeout)


class AdminClient:
    """The administrator's view of the converter that serves `data`."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Return the answer to a request under the API's prefix, None if it is empty.

        Raises:
            UnreachableError: no converter serves the folder, or only root may ask it.
            P2VError: what the converter answers.
        """
        connection = _UnixConnection(self._data / SOCKET_NAME)
        try:
            text = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, f"/api/v1{path}", text, headers)
            answer = connection.getresponse()
            content = answer.read(_MAX_ANSWER)
        except PermissionError as error:
            problem = "only its owner may ask it; use root or the service's user"
            raise UnreachableError(server=self._data, problem=problem) from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            problem = "no converter runs on this data folder"
            raise UnreachableError(server=self._data, problem=problem) from error
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(server=self._data, problem=reason(error)) from error
        finally:
            connection.close()
        return _document(answer.status, content)


def _document(status: int, content: bytes) -> Any:
    try:
        document = json.loads(content) if content else None
    except ValueError:
        raise ProtocolError(problem=f"the converter answers {status} without JSON") from None
    if status >= 400:
        raise error_of(document if isinstance(document, dict) else {})
    return document
