# SPDX-License-Identifier: GPL-3.0-or-later
"""The VMware adapter against govmomi's vCenter simulator, which speaks the real protocol.

The simulator takes uploads and throws their bytes away: what a datastore then holds is not shown.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.undo import Undo
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.machine import FirmwareKind
from p2v.model.vm import OsFamily, SecureBoot, VmNic

SOURCE = Path(__file__).parent / "vcsim/main.go"
CACHE = Path(__file__).parents[3] / ".cache/vcsim"


@pytest.fixture(scope="module")
def vcsim():
    """Build the simulator if it is not there, and run it."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    binary = CACHE / f"vcsim-{digest}"
    if not binary.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "GO111MODULE": "off",
            "GOPATH": "/usr/share/gocode",
            "GOCACHE": str(CACHE / "go-build"),
        }
        part = binary.with_suffix(f".{os.getpid()}")
        subprocess.run(["go", "build", "-o", part, SOURCE], env=environment, check=True)
        part.rename(binary)
    with subprocess.Popen(
        [binary],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield process.stdout.readline().strip()
        process.stdin.close()


@pytest.fixture(scope="module")
def connection(vcsim):
    host, port = vcsim.split(":")
    der = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port))))
    fingerprint = hashlib.sha256(der).hexdigest()
    return Connection("vc", ConnectionKind.VMWARE, vcsim, "admin", "secret", fingerprint)


@pytest.fixture
def vcenter(connection):
    vcenter = connect(connection)
    yield vcenter
    vcenter.close()


@pytest.fixture
def there(order):
    nic = VmNic("eno1", "00:50:56:00:00:01", "VM Network", connected=False)
    return replace(order, storage="LocalDS_0", vm=replace(order.vm, os=OsFamily.LINUX, nics=(nic,)))


def names(vcenter):
    from pyVmomi import vim

    return {machine.name for machine in vcenter._all(vim.VirtualMachine)}


def test_four_hosts_are_described_in_their_tree(vcenter):
    found = {host.name: host for host in vcenter.facts()}
    assert len(found) == 4
    assert {host.group for host in found.values()} == {("DC0",), ("DC0", "DC0_C0")}
    host = found["DC0_H0"]
    assert (host.cpus, host.memory) == (2, 4294430720)
    assert 0 < host.load.cpu_percent < 100 and 0 < host.load.memory_used < host.memory
    assert host.load.network_bytes > 0
    assert "LocalDS_0" in {storage.name for storage in host.storages}
    assert {"VM Network"} <= {network.name for network in host.networks}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"firmware": FirmwareKind.UEFI, "secure_boot": SecureBoot.UEFI_CA},
        {"os": OsFamily.WINDOWS},
    ],
)
def test_a_machine_is_made_started_and_removed(vcenter, there, images, changes):
    from pyVmomi import vim

    there = replace(there, vm=replace(there.vm, **changes))
    before = names(vcenter)
    id_ = vcenter.create("DC0_H0", there, images, Undo())
    machine = vim.VirtualMachine(id_, vcenter._service._stub)
    config = machine.config
    assert (config.name, config.annotation) == (there.vm.name, there.mark)
    assert (config.hardware.numCPU, config.hardware.memoryMB) == (1, 256)
    assert config.firmware == ("efi" if there.vm.firmware is FirmwareKind.UEFI else "bios")
    disks = [d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)]
    assert [disk.capacityInKB for disk in disks] == [16 * 1024] * 2
    cards = [d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualEthernetCard)]
    assert [card.macAddress for card in cards] == ["00:50:56:00:00:01"]
    assert not cards[0].connectable.startConnected
    vcenter.power_on("DC0_H0", id_)
    vcenter.power_on("DC0_H0", id_)
    assert machine.runtime.powerState == "poweredOn"
    assert vcenter.create("DC0_H0", there, images, Undo()) == id_
    vcenter.remove("DC0_H0", there)
    assert names(vcenter) == before


def test_a_failure_in_the_middle_leaves_nothing(vcenter, there, images):
    before = names(vcenter)
    undo = Undo()
    images[1].unlink()
    with pytest.raises(OSError):
        vcenter.create("DC0_H0", there, images, undo)
    assert there.vm.name in names(vcenter)
    (undone,) = undo.run()
    assert there.vm.name in undone.what and not undone.problem
    assert names(vcenter) == before


def test_what_vcenter_took_back_itself_is_no_failure(vcenter, there, images):
    undo = Undo()
    images[1].unlink()
    with pytest.raises(OSError):
        vcenter.create("DC0_H0", there, images, undo)
    vcenter.remove("DC0_H0", there)  # as it does when a lease is aborted
    assert [step.problem for step in undo.run()] == [""]


def test_what_an_attempt_left_that_was_killed_is_made_anew(vcenter, there, images):
    whole = images[1].read_bytes()
    images[1].unlink()
    with pytest.raises(OSError):
        vcenter.create("DC0_H0", there, images, Undo())
    images[1].write_bytes(whole)
    vcenter.create("DC0_H0", there, images, Undo())
    assert sum(name == there.vm.name for name in names(vcenter)) == 1
    vcenter.remove("DC0_H0", there)


def test_a_network_that_is_not_there_is_said(vcenter, there, images):
    before = names(vcenter)
    nowhere = replace(there, vm=replace(there.vm, nics=(VmNic("a", network="nowhere"),)))
    with pytest.raises(HostError, match="nowhere"):
        vcenter.create("DC0_H0", nowhere, images, Undo())
    assert names(vcenter) == before


def test_a_wrong_certificate_is_not_spoken_to(connection):
    with pytest.raises(HostUnreachableError, match="certificate"):
        connect(replace(connection, fingerprint="00" * 32))


def test_a_certificate_that_nobody_signed_needs_its_fingerprint(connection):
    with pytest.raises(HostUnreachableError, match="not trusted") as error:
        connect(replace(connection, fingerprint=""))
    assert f"{connection.fingerprint}, add it with --fingerprint" in str(error.value)


def test_a_wrong_password_is_said_without_it(connection):
    with pytest.raises(HostUnreachableError) as error:
        connect(replace(connection, secret="letmein"))
    assert "letmein" not in str(error.value)


def test_nobody_there_is_said(connection):
    with pytest.raises(HostUnreachableError):
        connect(replace(connection, address="127.0.0.1:1"))
