# SPDX-License-Identifier: GPL-3.0-or-later
"""A small server that speaks Proxmox VE's API: two nodes, in memory, with tasks and uploads.

Written from the API's description; it checks what the real one would: tickets, CSRF, multipart.
"""

from __future__ import annotations

import email
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

GiB = 1 << 30


class Cluster:
    """What the server knows."""

    def __init__(self):
        self.machines = {}
        self.uploads = {}
        self.fail = ""
        """A task whose path ends so fails."""

    def get(self, path, query):
        match _parts(path):
            case ["version"]:
                return {"version": "8.4.1"}
            case ["cluster", "status"]:
                return [{"type": "cluster", "name": "pvc"}, {"type": "node", "name": "pve1"}]
            case ["nodes"]:
                return [{"node": "pve1", "status": "online"}, {"node": "pve2", "status": "offline"}]
            case ["nodes", "pve1", "status"]:
                return {
                    "cpuinfo": {"cpus": 16},
                    "memory": {"total": 64 * GiB, "used": 16 * GiB},
                    "cpu": 0.25,
                    "pveversion": "pve-manager/8.4.1",
                }
            case ["nodes", "pve1", "storage"]:
                return [
                    {
                        "storage": "tank",
                        "avail": 500 * GiB,
                        "total": 900 * GiB,
                        "active": 1,
                        "shared": 1,
                    },
                    {"storage": "gone", "avail": 0, "total": 0, "active": 0},
                    {"storage": "local", "avail": 1, "total": 1, "active": 0},
                ]
            case ["nodes", "pve1", "network"]:
                return [{"iface": "vmbr0", "active": 1}, {"iface": "vmbr1"}]
            case ["nodes", "pve1", "rrddata"]:
                return [{"netin": 100.0, "netout": 200.0}, {"time": 1}]
            case ["nodes", "pve1", "tasks", upid, "status"]:
                return {
                    "status": "stopped",
                    "exitstatus": "storage is full" if "fail" in upid else "OK",
                }
            case ["nodes", "pve1", "storage", "local", "content"]:
                return [{"volid": volume} for volume in self.uploads]
            case ["cluster", "nextid"]:
                return "100"
            case ["cluster", "resources"]:
                return [
                    {"vmid": id_, "node": "pve1", "tags": config.get("tags", "")}
                    for id_, config in self.machines.items()
                ]
            case ["nodes", "pve1", "qemu", id_, "config"]:
                return self.machines[int(id_)]
            case ["nodes", "pve1", "qemu", id_, "status", "current"]:
                return {"status": self.machines[int(id_)]["status"]}

    def change(self, method, path, form):
        failing = self.fail and path.endswith(self.fail)
        upid = "UPID:pve1:fail" if failing else "UPID:pve1:0001"
        match [method, *_parts(path)]:
            case ["POST", "nodes", "pve1", "qemu"]:
                for key, value in form.items():
                    if key.startswith("scsi") and key != "scsihw":
                        volume = value.split("import-from=")[1].split(",")[0]
                        assert volume in self.uploads
                self.machines[int(form["vmid"])] = form | {"status": "stopped"}
            case ["PUT", "nodes", "pve1", "qemu", id_, "config"]:
                self.machines[int(id_)].update(form, description=form["description"] + "\n")
                return None
            case ["POST", "nodes", "pve1", "qemu", id_, "status", action]:
                self.machines[int(id_)]["status"] = "running" if action == "start" else "stopped"
            case ["DELETE", "nodes", "pve1", "qemu", id_]:
                assert self.machines.pop(int(id_))["status"] == "stopped"
            case ["DELETE", "nodes", "pve1", "storage", "local", "content", volume]:
                del self.uploads[volume]
                return None
            case _:
                raise KeyError(path)
        return upid


def _parts(path):
    return [unquote(part) for part in path.strip("/").split("/")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status, None if status == 200 else str(document.get("data")))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self):
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api2/json")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        cluster = self.server.cluster
        if path == "/access/ticket":
            form = {key: value[0] for key, value in parse_qs(body.decode()).items()}
            good = form == {"username": "root@pam", "password": "secret"}
            data = {"ticket": "T1", "CSRFPreventionToken": "C1"}
            return self._answer(
                200 if good else 401, {"data": data if good else "authentication failure"}
            )
        token = self.headers.get("Authorization") == "PVEAPIToken=root@pam!p2v=secret"
        ticket = "PVEAuthCookie=T1" in self.headers.get("Cookie", "")
        if not token and not ticket:
            return self._answer(401, {"data": "No ticket"})
        if self.command != "GET" and not token and self.headers.get("CSRFPreventionToken") != "C1":
            return self._answer(403, {"data": "Permission denied - invalid csrf token"})
        try:
            if self.command == "GET":
                return self._answer(200, {"data": cluster.get(path, parse_qs(parts.query))})
            if path.endswith("/upload"):
                return self._answer(200, {"data": self._upload(body)})
            form = {key: value[0] for key, value in parse_qs(body.decode()).items()}
            return self._answer(200, {"data": cluster.change(self.command, path, form)})
        except (KeyError, AssertionError) as error:
            return self._answer(500, {"data": f"no such thing: {error}"})

    def _upload(self, body):
        kind = self.headers["Content-Type"]
        message = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body)
        fields = {
            part.get_param("name", header="content-disposition"): part
            for part in message.get_payload()
        }
        assert fields["content"].get_payload(decode=True) == b"import"
        name = fields["filename"].get_filename()
        self.server.cluster.uploads[f"local:import/{name}"] = fields["filename"].get_payload(
            decode=True
        )
        return "UPID:pve1:fail" if self.server.cluster.fail == "upload" else "UPID:pve1:0002"

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815


@contextmanager
def serving(certificate: Path):
    """Run the server for the block; give its port and what it knows."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.cluster = Cluster()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], server.cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
