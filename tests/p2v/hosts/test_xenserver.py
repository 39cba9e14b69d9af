# SPDX-License-Identifier: GPL-3.0-or-later
"""The XenServer adapter against a small server that speaks XenAPI; no real one was at hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from p2v.hosts import xenserver_import
from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.undo import Undo
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.machine import FirmwareKind
from p2v.model.vm import SecureBoot, VmNic
from p2v.service.certificate import ensure_certificate
from tests.p2v.hosts.xen_server import serving

GiB = 1 << 30


@pytest.fixture
def world(tmp_path):
    certificate = ensure_certificate(tmp_path)
    with serving(certificate.path) as (port, pool):
        kind = ConnectionKind.XENSERVER
        fingerprint = certificate.digest.hex()
        yield Connection("xen", kind, f"127.0.0.1:{port}", "root", "secret", fingerprint), pool


@pytest.fixture
def connection(world):
    return world[0]


@pytest.fixture
def pool(world):
    return world[1]


@pytest.fixture
def there(order):
    nic = VmNic("eno1", "52:54:00:00:00:01", "LAN", connected=False)
    efi = {"firmware": FirmwareKind.UEFI, "secure_boot": SecureBoot.UEFI_CA}
    return replace(order, storage="Local storage", vm=replace(order.vm, nics=(nic,), **efi))


def made(pool):
    return {
        kind: {ref: each for ref, each in pool.tables[kind].items() if ref != "T"}
        for kind in ("VM", "VDI", "VBD", "VIF")
    }


NOTHING = {"VM": {}, "VDI": {}, "VBD": {}, "VIF": {}}


def test_a_host_is_described(connection):
    (facts,) = connect(connection).facts()
    assert (facts.name, facts.cpus, facts.memory) == ("xen1", 24, 96 * GiB)
    assert (facts.group, facts.version) == (("xenpool",), "8.3.0")
    assert [(s.name, s.free) for s in facts.storages] == [("Local storage", 800 * GiB)]
    assert (facts.load.cpu_percent, facts.load.network_bytes) == (50.0, 30.0)
    assert facts.load.memory_used == 36 * GiB


def test_a_machine_is_made_started_and_removed(connection, pool, there, images):
    host = connect(connection)
    id_ = host.create("xen1", there, images, Undo())
    found = made(pool)
    (machine,) = found["VM"].values()
    assert (machine["name_label"], machine["name_description"]) == (there.vm.name, there.mark)
    assert machine["HVM_boot_params"] == {"order": "dc", "firmware": "uefi"}
    assert machine["platform"] == {"secureboot": "true"}
    assert list(machine["memory_limits"]) == [str(256 << 20)] * 4
    assert [pool.imported[vdi] for vdi in found["VDI"]] == [i.read_bytes() for i in images]
    assert [vbd["bootable"] for vbd in found["VBD"].values()] == [True, False]
    (card,) = found["VIF"].values()
    assert (card["MAC"], card["locking_mode"]) == ("52:54:00:00:00:01", "disabled")
    host.power_on("xen1", id_)
    assert machine["power_state"] == "Running"
    assert host.create("xen1", there, images, Undo()) == id_
    host.remove("xen1", there)
    assert made(pool) == NOTHING


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        ("VDI.create", "SR_FULL"),
        ("VBD.create", "SR_FULL"),
        ("import", "VDI_IO_ERROR"),
        ("VIF.create", "SR_FULL"),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing(connection, pool, there, images, fail, words):
    pool.fail = fail
    undo = Undo()
    with pytest.raises(HostError, match=words) as error:
        connect(connection).create("xen1", there, images, undo)
    assert "OpaqueRef:session" not in str(error.value)
    pool.fail = ""
    undone = undo.run()
    assert undone and not any(step.problem for step in undone)
    assert made(pool) == NOTHING


def test_a_template_that_fails_leaves_nothing_either(connection, pool, there, images):
    pool.fail = "VM.provision"
    with pytest.raises(HostError, match="SR_FULL"):
        connect(connection).create("xen1", there, images, Undo())
    assert made(pool) == NOTHING


def test_what_an_attempt_left_that_was_killed_is_made_anew(connection, pool, there, images):
    pool.fail = "VIF.create"
    with pytest.raises(HostError):
        connect(connection).create("xen1", there, images, Undo())
    pool.fail = ""
    connect(connection).create("xen1", there, images, Undo())
    assert [len(each) for each in made(pool).values()] == [1, 2, 2, 1]


def test_an_image_goes_to_the_host_that_reaches_the_repository(
    connection, pool, there, images, tmp_path, monkeypatch
):
    (tmp_path / "second").mkdir()
    certificate = ensure_certificate(tmp_path / "second")
    digest = certificate.digest.hex(":").upper()
    pool.tables["host"]["H2"] = {**pool.tables["host"]["H"], "name_label": "xen2",
                                 "address": "127.0.0.1"}  # fmt: skip
    pool.tables["SR"]["S2"] = {**pool.tables["SR"]["S"], "name_label": "Local on xen2"}
    pool.tables["PBD"]["B3"] = {"SR": "S2", "host": "H2", "currently_attached": True}
    pool.tables["Certificate"] = {
        "C1": {"host": "H2", "type": "host_internal", "fingerprint": "00"},
        "C2": {"host": "H2", "type": "host", "fingerprint": digest},
    }
    there = replace(there, storage="Local on xen2")
    with serving(certificate.path, pool, "S2") as (port, _):
        monkeypatch.setattr(xenserver_import, "_PORT", port)
        connect(connection).create("xen2", there, images, Undo())
        assert [pool.imported[vdi] for vdi in made(pool)["VDI"]] == [i.read_bytes() for i in images]
        pool.tables["Certificate"]["C2"]["fingerprint"] = "00" * 32
        again = replace(there, migration="other")
        with pytest.raises(HostUnreachableError, match="shows the certificate"):
            connect(connection).create("xen2", again, images, Undo())


def test_what_is_sent_is_told(connection, there, images):
    told = []
    connect(connection).create("xen1", there, images, Undo(), told.append)
    assert sum(told) == sum(image.stat().st_size for image in images)


@pytest.mark.parametrize("change", [{"storage": "nowhere"}, {"nic": "nowhere"}])
def test_what_is_not_there_is_said_before_anything_is_made(connection, pool, there, images, change):
    nics = (VmNic("a", network=change.get("nic", "LAN")),)
    storage = change.get("storage", there.storage)
    nowhere = replace(there, storage=storage, vm=replace(there.vm, nics=nics))
    with pytest.raises(HostError, match="nowhere"):
        connect(connection).create("xen1", nowhere, images, Undo())
    assert made(pool) == NOTHING


def test_a_wrong_password_is_said_without_it(connection):
    with pytest.raises(HostUnreachableError, match="AUTHENTICATION_FAILED") as error:
        connect(replace(connection, secret="letmein"))
    assert "letmein" not in str(error.value)


def test_a_wrong_certificate_is_not_spoken_to(connection):
    with pytest.raises(HostUnreachableError, match="certificate"):
        connect(replace(connection, fingerprint="00" * 32))
