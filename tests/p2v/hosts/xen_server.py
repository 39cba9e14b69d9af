# SPDX-License-Identifier: GPL-3.0-or-later
"""A small server that speaks XenAPI over XML-RPC, and takes raw imports; a pool, in memory.

Written from the API's reference and xapi's sources; objects are records, as there, every call
needs a session, and an import is answered before it is read.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs, urlsplit
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

GiB = 1 << 30


class Failure(Exception):  # noqa: N818 - XenAPI's word
    pass


class Pool:
    """What the server knows."""

    def __init__(self):
        self.fail = ""
        self.imported = {}
        self.tables = {
            "pool": {"P": {"name_label": "xenpool", "ha_enabled": False, "master": "H"}},
            "host": {
                "H": {
                    "name_label": "xen1",
                    "metrics": "M",
                    "cpu_info": {"cpu_count": "24"},
                    "software_version": {"product_version": "8.3.0"},
                    "enabled": True,
                }
            },
            "host_metrics": {
                "M": {"memory_total": str(96 * GiB), "memory_free": str(60 * GiB), "live": True}
            },
            "SR": {
                "S": {
                    "name_label": "Local storage",
                    "type": "ext",
                    "physical_size": str(900 * GiB),
                    "physical_utilisation": str(100 * GiB),
                    "shared": False,
                },
                "I": {"name_label": "DVD drives", "type": "udev"},
            },
            "PBD": {
                "B1": {"SR": "S", "host": "H", "currently_attached": True},
                "B2": {"SR": "I", "host": "H", "currently_attached": True},
            },
            "network": {"N": {"name_label": "LAN"}},
            "VM": {
                "T": {
                    "name_label": "Other install media",
                    "name_description": "",
                    "is_a_template": True,
                    "other_config": {"disks": "<provision/>"},
                    "platform": {"secureboot": "auto"},
                    "HVM_boot_params": {"order": "dc"},
                }
            },
            "VDI": {},
            "VBD": {},
            "VIF": {},
            "task": {},
        }

    def _dispatch(self, method, params):
        try:
            return {"Status": "Success", "Value": self.call(method, *params)}
        except Failure as error:
            return {"Status": "Failure", "ErrorDescription": list(error.args)}

    def call(self, method, *params):
        if method == "session.login_with_password":
            if params[:2] != ("root", "secret"):
                raise Failure("SESSION_AUTHENTICATION_FAILED", params[0])
            return "OpaqueRef:session"
        if params[0] != "OpaqueRef:session":
            raise Failure("SESSION_INVALID", params[0])
        if method == self.fail:
            raise Failure("SR_FULL", "no room")
        kind, _, verb = method.partition(".")
        return self.verb(kind, verb, *params[1:])

    def verb(self, kind, verb, *args):
        if kind == "session":
            return ""
        if (kind, verb) == ("host", "query_data_source"):
            return {"cpu_avg": 0.5, "pif_aggr_rx": 10.0, "pif_aggr_tx": 20.0}[args[1]]
        table = self.tables[kind]
        if verb == "get_all_records":
            return table
        if verb in ("get_by_name_label", "get_by_uuid"):
            key = verb.removeprefix("get_by_")
            found = [ref for ref, record in table.items() if record.get(key) == args[0]]
            return found if key == "name_label" else found[0]
        if (kind, verb) == ("task", "create"):
            self.tables[kind]["OpaqueRef:task"] = {"status": "pending", "error_info": []}
            return "OpaqueRef:task"
        if verb in ("create", "clone"):
            return self.make(kind, verb, *args)
        record = table[args[0]]
        if verb == "get_VBDs":
            return [ref for ref, each in self.tables["VBD"].items() if each["VM"] == args[0]]
        if verb == "get_record":
            return record
        if verb.startswith("get_"):
            return record[verb.removeprefix("get_")]
        if verb.startswith("set_"):
            record[verb.removeprefix("set_")] = args[1] if len(args) == 2 else args[1:]
        elif verb.startswith("add_to_"):
            found = record.setdefault(verb.removeprefix("add_to_"), {})
            if args[1] in found:
                raise Failure("MAP_DUPLICATE_KEY", kind, verb, args[1])
            found[args[1]] = args[2]
        elif verb.startswith("remove_from_"):
            record.get(verb.removeprefix("remove_from_"), {}).pop(args[1], None)
        else:
            self.act(kind, verb, *args)
        return ""

    def make(self, kind, verb, *args):
        ref = f"OpaqueRef:{kind}{len(self.tables[kind])}"
        if verb == "clone":
            source = self.tables[kind][args[0]]
            copies = {key: dict(source[key])
                      for key in ("other_config", "platform", "HVM_boot_params")}  # fmt: skip
            record = source | {"name_label": args[1], **copies,
                               "uuid": f"uuid-{ref}", "power_state": "Halted"}  # fmt: skip
        else:
            record = dict(args[0])
            for name in ("SR", "VM", "VDI", "network"):
                assert record.get(name) is None or record[name] in self.tables[name]
        self.tables[kind][ref] = record
        return ref

    def act(self, kind, verb, ref, *args):
        match kind, verb:
            case "VM", "provision":
                assert "disks" not in self.tables["VM"][ref]["other_config"]
                self.tables["VM"][ref]["is_a_template"] = False
            case "VM", "start_on":
                self.tables["VM"][ref]["power_state"] = "Running"
            case "VM", "hard_shutdown":
                self.tables["VM"][ref]["power_state"] = "Halted"
            case "VM", "destroy":
                assert self.tables["VM"].pop(ref)["power_state"] == "Halted"
                for name in ("VBD", "VIF"):
                    table = self.tables[name]
                    self.tables[name] = {k: v for k, v in table.items() if v["VM"] != ref}
            case (("VDI" | "task"), "destroy"):
                del self.tables[kind][ref]
            case _:
                raise Failure("MESSAGE_METHOD_UNKNOWN", f"{kind}.{verb}")


class Handler(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/", "/RPC2")
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_PUT(self):  # noqa: N802
        """Take an import as xapi does: 200 comes first, and the task says what came of it."""
        parts = urlsplit(self.path)
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        pool = self.server.instance
        vdi = pool.tables["VDI"][query["vdi"]]
        if vdi["SR"] not in self.server.reached:
            self.answer(302)
            return
        good = (
            parts.path == "/import_raw_vdi"
            and query["session_id"] == "OpaqueRef:session"
            and query["format"] == "raw"
            and not self.headers["Transfer-Encoding"]
        )
        self.answer(200 if good else 403)
        task = pool.tables["task"][query["task_id"]]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if pool.fail == "import":
            task |= {"status": "failure", "error_info": ["VDI_IO_ERROR", "Device I/O errors"]}
        else:
            pool.imported[query["vdi"]] = body
            task["status"] = "success"

    def answer(self, status):
        self.close_connection = True
        self.wfile.write(f"HTTP/1.1 {status} Of its own\r\nConnection: close\r\n\r\n".encode())
        self.wfile.flush()


class Server(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True


@contextmanager
def serving(certificate: Path, pool: Pool | None = None, reached: str = "S"):
    """Run a host of `pool` for the block; give its port and the pool.

    `reached` is the one repository that it has access to.
    """
    server = Server(("127.0.0.1", 0), Handler, allow_none=True)
    server.register_instance(pool or Pool())
    server.reached = reached
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], server.instance
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
