# SPDX-License-Identifier: GPL-3.0-or-later
"""The Proxmox adapter against a small server that speaks its API; no real one was at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.undo import Undo
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.vm import VmNic
from p2v.service.certificate import ensure_certificate
from tests.p2v.hosts.proxmox_server import serving

GiB = 1 << 30


@pytest.fixture
def world(tmp_path):
    certificate = ensure_certificate(tmp_path)
    with serving(certificate.path) as (port, cluster):
        kind = ConnectionKind.PROXMOX
        address = f"127.0.0.1:{port}"
        fingerprint = certificate.digest.hex()
        yield Connection("pve", kind, address, "root@pam", "secret", fingerprint), cluster


@pytest.fixture
def connection(world):
    return world[0]


@pytest.fixture
def cluster(world):
    return world[1]


@pytest.fixture
def there(order):
    nic = VmNic("eno1", "52:54:00:00:00:01", "vmbr0", vlan=20, connected=False)
    return replace(order, storage="tank", vm=replace(order.vm, nics=(nic,)))


@pytest.mark.parametrize("user", ["root@pam", "root@pam!p2v"])
def test_nodes_are_described_with_a_password_or_a_token(connection, user):
    found = connect(replace(connection, user=user)).facts()
    assert [host.name for host in found] == ["pve1", "pve2"]
    first, second = found
    assert (first.cpus, first.memory, first.group) == (16, 64 * GiB, ("pvc",))
    assert (first.load.cpu_percent, first.load.network_bytes) == (25.0, 300.0)
    assert [(s.name, s.shared) for s in first.storages] == [("tank", True)]
    assert [network.name for network in first.networks] == ["vmbr0"]
    assert "offline" in second.problem and not first.problem


def test_a_machine_is_made_started_and_removed(connection, cluster, there, images):
    host = connect(connection)
    id_ = host.create("pve1", there, images, Undo())
    machine = cluster.machines[int(id_)]
    assert machine["description"].strip() == there.mark
    assert machine["net0"] == "virtio=52:54:00:00:00:01,bridge=vmbr0,tag=20,link_down=1"
    assert machine["scsi1"].startswith("tank:0,import-from=local:import/web01-7f3a9c04-1")
    assert machine["name"] == "web-01-old-x"
    assert cluster.uploads == {}
    host.power_on("pve1", id_)
    assert machine["status"] == "running"
    assert host.create("pve1", there, images, Undo()) == id_
    host.remove("pve1", there)
    assert cluster.machines == {}


def test_what_is_uploaded_is_the_image(connection, cluster, there, images):
    cluster.fail = "/qemu"
    with pytest.raises(HostError, match="storage is full"):
        connect(connection).create("pve1", there, images, Undo())
    assert list(cluster.uploads.values()) == [image.read_bytes() for image in images]


@pytest.mark.parametrize("fail", ["upload", "/qemu"])
def test_a_failure_in_the_middle_leaves_nothing(connection, cluster, there, images, fail):
    cluster.fail = fail
    undo = Undo()
    with pytest.raises(HostError, match="storage is full"):
        connect(connection).create("pve1", there, images, undo)
    cluster.fail = ""
    undone = undo.run()
    assert undone and not any(step.problem for step in undone)
    assert (cluster.machines, cluster.uploads) == ({}, {})


def test_what_an_attempt_left_that_was_killed_is_made_anew(connection, cluster, there, images):
    cluster.fail = "/qemu"
    with pytest.raises(HostError):
        connect(connection).create("pve1", there, images, Undo())
    assert cluster.machines
    cluster.fail = ""
    connect(connection).create("pve1", there, images, Undo())
    assert len(cluster.machines) == 1


def test_a_wrong_password_is_said_without_it(connection):
    with pytest.raises(HostUnreachableError, match="authentication failure") as error:
        connect(replace(connection, secret="letmein"))
    assert "letmein" not in str(error.value)


def test_a_wrong_certificate_is_not_spoken_to(connection):
    with pytest.raises(HostUnreachableError, match="certificate"):
        connect(replace(connection, fingerprint="00" * 32))
    with pytest.raises(HostUnreachableError, match="certificate"):
        connect(replace(connection, fingerprint=""))
