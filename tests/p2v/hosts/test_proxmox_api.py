# SPDX-License-Identifier: GPL-3.0-or-later
"""The Proxmox adapter against fakepve, which holds each request to PVE 9's own API description.

Paths, parameters, property strings and permissions are checked by what Proxmox publishes; fakepve
shares no code with us. Of its uploads it knows no images yet: those are added here.
"""

from __future__ import annotations

import email
import hashlib
import re
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from fakepve import FakePve, PveError
from fakepve.certs import make_cert
from fakepve.pytest_plugin import _Serving
from fakepve.server import USER, ok

from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.undo import Undo
from p2v.model.errors import HostError
from p2v.model.machine import FirmwareKind
from p2v.model.order import OrderedDisk
from p2v.model.vm import OsFamily, SecureBoot, StartAction, VmNic

MiB = 1 << 20
IMAGE_NAME = re.compile(r"[a-zA-Z0-9\-.+=_]+\.(qcow2|raw|vmdk)")
"""PVE::Storage's SAFE_CHAR_CLASS_RE and UPLOAD_IMPORT_EXT_RE_1."""


class Pve(FakePve):
    """One that takes images."""

    async def _upload(self, request):
        name, _ = self._file_storage(request, "upload")
        body = await request.read()
        kind = request.headers["Content-Type"].encode()
        parts = email.message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
        found = {part.get_param("name", header="content-disposition"): part
                 for part in parts.get_payload()}  # fmt: skip
        file = found["filename"].get_filename()
        if found["content"].get_payload() != "import" or not IMAGE_NAME.fullmatch(file):
            raise PveError(400, "Parameter verification failed.", {"filename": "wrong extension"})
        content = found["filename"].get_payload(decode=True)
        assert int(request.headers["Content-Length"]) == len(body)

        async def write():
            self.contents[file] = content
            self.store_file(name, file, len(content), "import")

        node, user = request.match_info["node"], request[USER]
        upid = await self.task(node, "imgcopy", "", user, write)
        return ok(upid)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_cert(str(tmp_path_factory.mktemp("pve")), hosts=("127.0.0.1",))[:2]


@pytest.fixture
def pve(certificate):
    pve = Pve(host="127.0.0.1", port=0)
    pve.time_scale = 0
    pve.contents = {}
    pve.storages["local"]["content"] += ",import"
    serving = _Serving(pve, *certificate)
    yield pve
    serving.stop()


@pytest.fixture
def connection(pve, certificate):
    der = ssl.PEM_cert_to_DER_cert(Path(certificate[0]).read_text())
    fingerprint = hashlib.sha256(der).hexdigest()
    address = pve.url.removeprefix("https://")
    return Connection("pve", ConnectionKind.PROXMOX, address, "root@pam", "secret", fingerprint)


@pytest.fixture
def there(order):
    disks = tuple(OrderedDisk(f"web01-7f3a9c04-{n}.qcow2", 16 * MiB) for n in range(2))
    nic = VmNic("eno1", "52:54:00:00:00:01", "vmbr0", vlan=20, connected=False)
    vm = replace(
        order.vm,
        nics=(nic, VmNic("eno2", network="vmbr0")),
        os=OsFamily.LINUX,
        firmware=FirmwareKind.UEFI,
        secure_boot=SecureBoot.UEFI_CA,
        start_action=StartAction.ALWAYS,
    )
    return replace(order, disks=disks, storage="local-lvm", vm=vm)


def left(pve):
    volumes = pve.storages["local"].get("volumes", {})
    return pve.vms, [name for name in volumes if name.startswith("import/")]


def test_the_node_is_described(connection):
    (facts,) = connect(connection).facts()
    assert (facts.name, facts.problem) == ("pve1", "")
    assert [each.name for each in facts.storages] == ["local-lvm"]
    assert "vmbr0" in [each.name for each in facts.networks]


def test_every_request_is_one_of_the_api(pve, connection, there, images):
    host = connect(connection)
    host.facts()
    id_ = host.create("pve1", there, images, Undo())
    assert list(pve.contents.values()) == [image.read_bytes() for image in images]
    (machine,) = pve.vms
    config = machine.config
    assert config["net0"].startswith("virtio=52:54:00:00:00:01,bridge=vmbr0")
    assert "link_down=1" in config["net0"] and "tag=20" in config["net0"]
    assert config["bios"] == "ovmf" and "pre-enrolled-keys=1" in config["efidisk0"]
    assert {"scsi0", "scsi1"} <= set(config) and config["boot"] == "order=scsi0"
    assert config["description"].strip() == there.mark
    host.power_on("pve1", id_)
    assert (str(machine.vmid), machine.status) == (id_, "running")
    assert host.create("pve1", there, images, Undo()) == id_
    host.remove("pve1", there)
    assert left(pve) == ([], [])


@pytest.mark.parametrize(
    ("method", "suffix"),
    [
        ("POST", "/storage/local/upload"),
        ("GET", "/cluster/nextid"),
        ("POST", "/nodes/pve1/qemu"),
        ("PUT", "/config"),
    ],
)
def test_a_failure_at_any_request_leaves_nothing(pve, connection, there, images, method, suffix):
    pve.fail(method, suffix, 500, "got timeout", times=1)
    undo = Undo()
    with pytest.raises(HostError, match="got timeout"):
        connect(connection).create("pve1", there, images, undo)
    assert not [step for step in undo.run() if step.problem]
    assert left(pve) == ([], [])


def test_a_storage_that_takes_no_images_is_said_with_what_to_do(pve, connection, there, images):
    pve.storages["local"]["content"] = "iso"
    with pytest.raises(HostError, match="'local' is not set up for imports"):
        connect(connection).create("pve1", there, images, Undo())
