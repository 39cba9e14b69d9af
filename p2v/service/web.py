# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs an application in uvicorn, in a thread of its own, on a Unix socket."""

from __future__ import annotations

import threading
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from p2v.service import unixsocket

_DRAIN_S = 5
_START_S = 30.0
_IDLE_S = 30
"""A connection is kept so long between requests: longer than agents wait between two of them (5 s),
or every now and then one would be closed just as it is used."""


class WebServer:
    """An HTTP server at a path; requests are taken from `start` on."""

    def __init__(self, app: FastAPI, path: Path) -> None:
        self._path = path
        self._listener = unixsocket.listen(path)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_S,
            timeout_keep_alive=_IDLE_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name=f"http-{path.stem}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Take requests."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests; those under way get a few seconds."""
        self._server.should_exit = True
        self._thread.join(_DRAIN_S + _START_S)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])
