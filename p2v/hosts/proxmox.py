# SPDX-License-Identifier: GPL-3.0-or-later
"""Proxmox VE 8.4 and later, through its API, with a user's password or an API token.

Images are uploaded as content of the type ``import``, and imported from there into the machine's
storage; source: https://pve.proxmox.com/pve-docs/api-viewer/. The user is ``root@pam`` or, with
the token's value as the secret, ``root@pam!tokenname``.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from p2v.hosts.connection import Connection
from p2v.hosts.pinned import session, tls_context
from p2v.hosts.sending import Pieces, Sent, unheard
from p2v.hosts.undo import Undo
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.host import (
    HostFacts,
    HostLimits,
    HostLoad,
    HostNetwork,
    HostStorage,
    HypervisorKind,
)
from p2v.model.order import Order
from p2v.script.qm import options as machine_options
from p2v.script.qm import place

_PORT = 8006
_TIMEOUT_S = 60.0
_TASK_S = 6 * 3600.0
_POLL_S = 0.5


def connect(connection: Connection) -> ProxmoxHosts:
    """Log in to a node at the address, ``pve1`` or ``pve1:8006``; all of its cluster are found.

    Its option ``import`` is the storage that uploads go to, by default ``local``.

    Raises:
        HostUnreachableError: it does not answer, shows another certificate, or refuses the user.
        UsageError: the connection has an option that is none.
    """
    connection.check_options({"import"})
    parts = urlsplit(f"//{connection.address}")
    host, port = parts.hostname or "", parts.port or _PORT
    client = _Client(
        f"https://{host}:{port}/api2/json", session(tls_context(connection, host, port))
    )
    try:
        client.log_in(connection.user, connection.secret)
    except HostError as error:
        problem = error.fields["problem"]
        raise HostUnreachableError(host=connection.name, problem=problem) from None
    return ProxmoxHosts(client, connection.options.get("import", "local"))


class _Client:
    """Asks the API; failures are `HostError`s in its own words."""

    def __init__(self, url: str, http: requests.Session) -> None:
        self._url = url
        self._http = http

    def log_in(self, user: str, secret: str) -> None:
        if "!" in user:
            self._http.headers["Authorization"] = f"PVEAPIToken={user}={secret}"
            self.ask("GET", "/version")
            return
        answer = self.ask("POST", "/access/ticket", {"username": user, "password": secret})
        self._http.cookies.set("PVEAuthCookie", answer["ticket"])
        self._http.headers["CSRFPreventionToken"] = answer["CSRFPreventionToken"]

    def ask(self, method: str, path: str, data: Any = None, **more: Any) -> Any:
        try:
            answer = self._http.request(
                method, f"{self._url}{path}", data=data, timeout=_TIMEOUT_S, **more
            )
        except requests.RequestException as error:
            raise HostError(host=self._url, problem=str(error)) from None
        if not answer.ok:
            # The reason phrase has its words, the body what is wrong with which parameter.
            problem = f"{answer.reason} {answer.text[:500]}".strip()
            raise HostError(host=self._url, problem=problem)
        try:
            return answer.json()["data"]
        except (ValueError, KeyError, TypeError):
            raise HostError(host=self._url, problem="its answer is no JSON of the API") from None

    def task(self, node: str, method: str, path: str, data: Any = None, **more: Any) -> None:
        """Ask for something that takes its time, and wait for its end."""
        name = self.ask(method, path, data, **more)
        deadline = time.monotonic() + _TASK_S
        while time.monotonic() < deadline:
            found = self.ask("GET", f"/nodes/{node}/tasks/{quote(name, safe='')}/status")
            if found["status"] == "stopped":
                if found["exitstatus"] != "OK" and not found["exitstatus"].startswith("WARNINGS"):
                    raise HostError(host=node, problem=found["exitstatus"])
                return
            time.sleep(_POLL_S)
        raise HostError(host=node, problem=f"the task {name} did not end within six hours")

    def close(self) -> None:
        self._http.close()


class ProxmoxHosts:
    """The nodes of a cluster, or one alone."""

    def __init__(self, client: _Client, imports: str) -> None:
        self._client = client
        self._imports = imports

    def close(self) -> None:
        """Forget the session."""
        self._client.close()

    # --- facts

    def facts(self) -> Sequence[HostFacts]:
        """Return the nodes; traffic is the last hour's, disk operations are not told."""
        status = self._client.ask("GET", "/cluster/status")
        cluster = next((each["name"] for each in status if each["type"] == "cluster"), "")
        return [self._facts(each, cluster) for each in self._client.ask("GET", "/nodes")]

    def _facts(self, node: dict[str, Any], cluster: str) -> HostFacts:
        name, group = node["node"], (cluster,) if cluster else ()
        if node.get("status") != "online":
            problem = f"its cluster says that it is {node.get('status', 'unknown')}"
            return HostFacts(name, HypervisorKind.PROXMOX, 0, 0, group=group, problem=problem)
        status = self._client.ask("GET", f"/nodes/{name}/status")
        return HostFacts(
            name=name,
            hypervisor=HypervisorKind.PROXMOX,
            cpus=status["cpuinfo"]["cpus"],
            memory=status["memory"]["total"],
            version=status["pveversion"],
            group=group,
            storages=tuple(self._storages(name)),
            networks=tuple(self._networks(name)),
            load=HostLoad(
                cpu_percent=100 * status["cpu"],
                memory_used=status["memory"]["used"],
                network_bytes=self._traffic(name),
            ),
            limits=HostLimits(sectors=(512, 4096)),
            in_cluster=bool(cluster),
        )

    def _storages(self, node: str) -> Iterator[HostStorage]:
        for each in self._client.ask("GET", f"/nodes/{node}/storage?content=images&enabled=1"):
            if each.get("active"):
                shared = bool(each.get("shared"))
                yield HostStorage(each["storage"], each["avail"], each["total"], shared)

    def _networks(self, node: str) -> Iterator[HostNetwork]:
        for each in self._client.ask("GET", f"/nodes/{node}/network?type=any_bridge"):
            if each.get("active"):
                yield HostNetwork(each["iface"])

    def _traffic(self, node: str) -> float:
        rows = self._client.ask("GET", f"/nodes/{node}/rrddata?timeframe=hour&cf=AVERAGE")
        known = [row["netin"] + row["netout"] for row in rows if "netin" in row and "netout" in row]
        return sum(known) / len(known) if known else 0.0

    # --- machines

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Upload the images and make the machine of them."""
        for id_, node in self._machines(order):
            if self._description(node, id_) == order.mark:
                return id_
            self._destroy(node, id_)
        self._check_imports(host)
        uploaded = [
            self._upload(host, disk.file, image, undo, sent)
            for disk, image in zip(order.disks, images, strict=True)
        ]
        id_ = str(self._client.ask("GET", "/cluster/nextid"))
        wanted = machine_options(order) | {"vmid": id_, "tags": _tag(order)}
        wanted["boot"] = f"order={place(order, 0)}"
        for number, volume in enumerate(uploaded):
            wanted[place(order, number)] = f"{order.storage}:0,import-from={volume},discard=on"
        undo.later(f"the virtual machine {id_} on {host}", partial(self.remove, host, order))
        self._client.task(host, "POST", f"/nodes/{host}/qemu", wanted)
        for volume in uploaded:
            self._delete(host, volume)
        self._client.ask("PUT", f"/nodes/{host}/qemu/{id_}/config", {"description": order.mark})
        return id_

    def power_on(self, host: str, id_: str) -> None:
        """Start the machine."""
        current = self._client.ask("GET", f"/nodes/{host}/qemu/{id_}/status/current")
        if current["status"] != "running":
            self._client.task(host, "POST", f"/nodes/{host}/qemu/{id_}/status/start")

    def remove(self, host: str, order: Order) -> None:
        """Stop and destroy the machine with its disks, and what was uploaded for it."""
        for id_, node in self._machines(order):
            self._destroy(node, id_)
        for disk in order.disks:
            self._delete(host, f"{self._imports}:import/{disk.file}")

    def _check_imports(self, node: str) -> None:
        found = self._client.ask("GET", f"/nodes/{node}/storage?content=import&enabled=1")
        if self._imports not in {each["storage"] for each in found}:
            problem = (
                f"its storage '{self._imports}' is not set up for imports: add that to its content "
                "(Datacenter, Storage), or name another one with --option import=STORAGE"
            )
            raise HostError(host=node, problem=problem)

    def _upload(self, node: str, file: str, image: Path, undo: Undo, sent: Sent) -> str:
        volume = f"{self._imports}:import/{file}"
        undo.later(f"the upload {volume}", partial(self._delete, node, volume))
        body = _Form(Pieces(image, sent), {"content": "import"}, file)
        path = f"/nodes/{node}/storage/{quote(self._imports, safe='')}/upload"
        self._client.task(node, "POST", path, body, headers=body.headers)
        return volume

    def _delete(self, node: str, volume: str) -> None:
        """Delete an upload, if it is there."""
        where = f"/nodes/{node}/storage/{quote(self._imports, safe='')}/content"
        if any(each["volid"] == volume for each in self._client.ask("GET", where)):
            self._client.ask("DELETE", f"{where}/{quote(volume, safe='')}")

    def _machines(self, order: Order) -> list[tuple[str, str]]:
        """Return id and node of the machines that carry the migration's tag."""
        return [
            (str(each["vmid"]), each["node"])
            for each in self._client.ask("GET", "/cluster/resources?type=vm")
            if _tag(order) in each.get("tags", "").split(";")
        ]

    def _description(self, node: str, id_: str) -> str:
        config = self._client.ask("GET", f"/nodes/{node}/qemu/{id_}/config")
        return str(config.get("description", "")).strip()

    def _destroy(self, node: str, id_: str) -> None:
        machine = f"/nodes/{node}/qemu/{id_}"
        if self._client.ask("GET", f"{machine}/status/current")["status"] == "running":
            self._client.task(node, "POST", f"{machine}/status/stop")
        self._client.task(node, "DELETE", f"{machine}?purge=1&destroy-unreferenced-disks=1")


def _tag(order: Order) -> str:
    return f"p2v-{order.migration}"


class _Form:
    """A file as multipart/form-data (RFC 7578) that is never in memory as a whole."""

    def __init__(self, image: Pieces, fields: dict[str, str], name: str) -> None:
        self._image = image
        boundary = secrets.token_hex(16)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="filename"; filename="{name}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        self._head = "".join(parts).encode("ascii")
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")
        self.headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}

    def __len__(self) -> int:
        return len(self._head) + len(self._image) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._image
        yield self._tail
