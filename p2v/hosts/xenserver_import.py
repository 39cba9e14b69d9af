# SPDX-License-Identifier: GPL-3.0-or-later
"""Images on their way into the disks of a XenServer pool.

xapi says 200 before it reads a disk's first byte, and what went wrong then only in the task;
a host that does not reach the disk's repository answers 302, without reading what is sent to it.
Source: https://github.com/xapi-project/xen-api, ocaml/xapi/import_raw_vdi.ml.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
import XenAPI

from p2v.hosts.pinned import certificate_context, session
from p2v.hosts.sending import Pieces, Sent
from p2v.model.errors import HostError

_TIMEOUT_S = (30.0, 600.0)
_TASK_S = 3600.0
"""For what is still to be written when all was sent."""
_POLL_S = 0.5
_PORT = 443


class Imports:
    """Fills disks through the hosts of a pool; `url` is its coordinator's."""

    def __init__(self, xen: Any, url: str, coordinator: requests.Session, pinned: bool) -> None:
        self._xen = xen
        self._api = xen.xenapi
        self._url = url
        self._coordinator = coordinator
        self._pinned = pinned

    def fill(self, vdi: str, store: str, host: str, image: Path, sent: Sent) -> None:
        """Write a raw image to a disk in `store`, by way of a host that reaches it.

        `host` is taken if the coordinator does not.

        Raises:
            HostError: no host reaches the store, or the import failed.
            XenAPI.Failure, requests.RequestException: the pool does not answer as it should.
        """
        url, transfers = self._route(store, host)
        task = str(self._api.task.create("p2v", f"import of {image.name}"))
        try:
            query = {
                "session_id": self._xen._session,
                "task_id": task,
                "vdi": vdi,
                "format": "raw",
            }
            answer = transfers.put(
                f"{url}/import_raw_vdi?{urlencode(query)}",
                data=Pieces(image, sent),
                timeout=_TIMEOUT_S,
                allow_redirects=False,
            )
            answer.raise_for_status()
            if answer.is_redirect:
                there = urlsplit(answer.headers["Location"]).hostname
                problem = f"it leaves the import to {there}, and did not say so before"
                raise HostError(host=urlsplit(url).hostname, problem=problem)
            self._wait(task, url)
        finally:
            with suppress(XenAPI.Failure, OSError):
                self._api.task.destroy(task)

    def _wait(self, task: str, url: str) -> None:
        deadline = time.monotonic() + _TASK_S
        while (status := self._api.task.get_status(task)) == "pending":
            if time.monotonic() > deadline:
                problem = "an import did not end within an hour of its last byte"
                raise HostError(host=urlsplit(url).hostname, problem=problem)
            time.sleep(_POLL_S)
        if status != "success":
            words = " ".join(map(str, self._api.task.get_error_info(task)))
            problem = words or f"the import ended as {status}"
            raise HostError(host=urlsplit(url).hostname, problem=problem)

    def _route(self, store: str, wanted: str) -> tuple[str, requests.Session]:
        """Return the URL of a host that reaches the store, and a session that trusts it."""
        reach = [
            each["host"]
            for each in self._api.PBD.get_all_records().values()
            if each["SR"] == store and each["currently_attached"]
        ]
        (pool,) = self._api.pool.get_all_records().values()
        if pool["master"] in reach:
            return self._url, self._coordinator
        if not reach:
            name = self._api.SR.get_name_label(store)
            raise HostError(host=self._url, problem=f"no host reaches the repository '{name}'")
        host = wanted if wanted in reach else reach[0]
        address = str(self._api.host.get_address(host))
        bracketed = f"[{address}]" if ":" in address else address
        if not self._pinned:
            return f"https://{bracketed}:{_PORT}", self._coordinator
        context = certificate_context(address, address, _PORT, self._fingerprint(host))
        return f"https://{bracketed}:{_PORT}", session(context)

    def _fingerprint(self, host: str) -> str:
        """Return that of a host's certificate, which the coordinator knows."""
        for each in self._api.Certificate.get_all_records().values():
            if each["host"] == host and each.get("type", "host") == "host":
                return str(each.get("fingerprint_sha256") or each["fingerprint"])
        name = self._api.host.get_name_label(host)
        raise HostError(host=name, problem="its coordinator does not know its certificate")
