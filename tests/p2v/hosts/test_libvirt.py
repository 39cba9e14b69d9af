# SPDX-License-Identifier: GPL-3.0-or-later
"""The libvirt adapter against libvirt itself: its test driver, and a real libvirtd with QEMU."""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.undo import Undo
from p2v.model.errors import HostError, HostUnreachableError, UsageError
from p2v.model.host import HypervisorKind
from p2v.model.machine import FirmwareKind
from p2v.model.vm import StartAction, VmNic
from p2v.script import libvirt_xml, make_script
from tests.libvirtd import SOCKET

MiB = 1 << 20
POOL = f"p2v test {os.getpid()}"


def at(address, **options):
    return connect(Connection("kvm1", ConnectionKind.LIBVIRT, address, options=options))


def test_the_test_drivers_host_is_described():
    host = at("test:///default")
    (facts,) = host.facts()
    host.close()
    assert (facts.cpus, facts.memory) == (16, 3145728 * 1024)
    assert [storage.name for storage in facts.storages] == ["default-pool"]
    assert [network.name for network in facts.networks] == ["default"]
    assert facts.load.memory_used == 2097152 * 1024  # its one running domain's
    assert facts.version.startswith("TEST")


def test_nobody_there_is_said():
    with pytest.raises(HostUnreachableError, match="kvm1"):
        at("qemu+unix:///system?socket=/nonexistent")


def test_an_option_that_is_none_is_refused():
    with pytest.raises(UsageError, match="no option 'tpye'"):
        at("test:///default", tpye="kvm")


@pytest.fixture
def pool(libvirtd, tmp_path):
    """A pool of a libvirtd that QEMU may read, and nothing left behind."""
    folder = Path("/var/tmp") / f"p2v-test-pool-{os.getpid()}"
    folder.mkdir(mode=0o711)
    connection = libvirt.open("qemu:///system")
    made = connection.storagePoolCreateXML(
        f"<pool type='dir'><name>{POOL}</name><target><path>{folder}</path></target></pool>"
    )
    before = {domain.name() for domain in connection.listAllDomains()}
    yield folder
    for domain in connection.listAllDomains():
        if domain.name() not in before:
            if domain.isActive():
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    made.destroy()
    connection.close()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@contextmanager
def cut_after(limit, path):
    """Give an address of libvirtd whose connections end after so many bytes to it."""

    def carry(client):
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(str(SOCKET))
            total = 0
            while total < limit:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    (server if ready is client else client).sendall(data)
                    total += len(data) if ready is client else 0

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=carry, args=(listening.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield f"qemu+unix:///system?socket={path}"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def host(pool):
    host = at("qemu:///system", type="qemu")
    yield host
    host.close()


@pytest.fixture
def busy_cpu():
    """One processor that is never idle: an idle host's load may well be measured as nothing."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as burner:
        yield
        burner.kill()


@pytest.fixture
def there(order):
    return replace(order, storage=POOL)


@pytest.fixture
def qcow2(images, tmp_path):
    made = [image.with_suffix(".qcow2") for image in images]
    for raw, image in zip(images, made, strict=True):
        command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image]
        subprocess.run(command, check=True)
    return made


@pytest.mark.root
@pytest.mark.qemu
class TestWithQemu:
    """A real libvirtd; machines under TCG."""

    def test_the_host_is_described(self, host, busy_cpu):
        (facts,) = host.facts()
        assert facts.cpus == os.cpu_count()
        # libvirt adds up the nodes, which may count memory otherwise where it comes and goes.
        paths = [Path("/proc/meminfo"), *Path("/sys/devices/system/node").glob("node*/meminfo")]
        whole, *nodes = (
            int(re.search(r"MemTotal: *(\d+)", path.read_text())[1]) * 1024 for path in paths
        )
        assert min(abs(facts.memory - total) for total in (whole, sum(nodes))) < 2 * MiB
        assert 0 < facts.load.memory_used < facts.memory
        assert 50 / facts.cpus < facts.load.cpu_percent <= 100
        pool = next(storage for storage in facts.storages if storage.name == POOL)
        stat = os.statvfs("/var/tmp")
        assert abs(pool.free - stat.f_bfree * stat.f_frsize) < 8 << 30  # others write meanwhile
        assert FirmwareKind.BIOS in facts.limits.firmware
        assert facts.limits.architecture == "x86_64"

    def test_a_machine_is_made_started_and_removed(self, host, there, qcow2, images, pool):
        undo = Undo()
        there = replace(there, vm=replace(there.vm, start_action=StartAction.ALWAYS))
        id_ = host.create("", there, qcow2, undo)
        for disk, raw in zip(there.disks, images, strict=True):
            command = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, pool / disk.file]
            assert "identical" in subprocess.run(command, capture_output=True, text=True).stdout
        domain = libvirt.open("qemu:///system").lookupByUUIDString(id_)
        assert (domain.name(), domain.autostart()) == (there.vm.name, 1)
        host.power_on("", id_)
        host.power_on("", id_)
        assert domain.isActive()
        host.remove("", there)
        assert list(pool.iterdir()) == []
        with pytest.raises(libvirt.libvirtError):
            domain.info()
        host.remove("", there)  # nothing is there any more

    def test_making_it_again_returns_the_one_there_is(self, host, there, qcow2):
        assert host.create("", there, qcow2, Undo()) == host.create("", there, qcow2, Undo())

    def test_what_an_attempt_left_that_was_killed_is_made_anew(self, host, there, qcow2, pool):
        (pool / there.disks[0].file).write_bytes(b"half")
        libvirt.open("qemu:///system").storagePoolLookupByName(POOL).refresh()
        host.create("", there, qcow2, Undo())
        assert (pool / there.disks[0].file).stat().st_size > MiB

    def test_a_failure_in_the_middle_leaves_nothing(self, host, there, qcow2, pool):
        undo = Undo()
        impossible = replace(there, vm=replace(there.vm, architecture="pdp11"))
        with pytest.raises(HostError, match="pdp11"):
            host.create("", impossible, qcow2, undo)
        assert len(list(pool.iterdir())) == 2
        undone = undo.run()
        assert [step.problem for step in undone] == ["", ""]
        assert "web01-7f3a9c04-1" in undone[0].what
        assert list(pool.iterdir()) == []

    def test_an_image_that_can_not_be_read_to_its_end_leaves_nothing(
        self, host, there, qcow2, pool
    ):
        undo = Undo()
        with pytest.raises(OSError):
            host.create("", there, [qcow2[0], Path("/nonexistent")], undo)
        assert {step.problem for step in undo.run()} == {""}
        assert list(pool.iterdir()) == []

    def test_what_a_host_that_went_away_kept_is_removed_when_it_is_back(
        self, host, there, qcow2, pool, tmp_path
    ):
        with cut_after(256 << 10, tmp_path / "socket") as address:
            through = at(address, type="qemu")
            undo = Undo()
            with pytest.raises(HostError):
                through.create("", there, qcow2, undo)
        assert list(pool.iterdir()) != []
        assert all(step.problem for step in undo.run())
        host.remove("", there)
        assert list(pool.iterdir()) == []

    def test_a_pool_that_is_not_there_is_said(self, host, order, qcow2):
        with pytest.raises(HostError, match="nowhere"):
            host.create("", replace(order, storage="nowhere"), qcow2, Undo())

    def test_the_script_makes_the_same_machine(self, host, there, qcow2, pool, tmp_path):
        nic = VmNic("eno1", "52:54:00:00:00:01", "LAN", connected=False)
        there = replace(there, vm=replace(there.vm, nics=(nic,)))
        for disk, image in zip(there.disks, qcow2, strict=True):
            image.rename(tmp_path / disk.file)
        text = make_script(HypervisorKind.LIBVIRT, there).replace('type="kvm"', 'type="qemu"')
        text = text.replace('<cpu mode="host-model" />', "")
        environment = os.environ | {"P2V_IMAGES": str(tmp_path)}
        command = ["bash", "-c", text]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        connection = libvirt.open("qemu:///system")
        domain = connection.lookupByUUIDString(libvirt_xml.identity(there))
        by_script = domain.XMLDesc()
        again = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert again.returncode == 0 and "made before" in again.stderr
        host.remove("", there)
        images = [tmp_path / disk.file for disk in there.disks]
        host.create("", there, images, Undo())
        by_adapter = connection.lookupByUUIDString(libvirt_xml.identity(there)).XMLDesc()
        assert by_script == by_adapter

    def test_the_script_takes_back_what_it_made(self, host, there, qcow2, pool, tmp_path):
        for disk, image in zip(there.disks, qcow2, strict=True):
            image.rename(tmp_path / disk.file)
        broken = replace(there, vm=replace(there.vm, architecture="pdp11"))
        text = make_script(HypervisorKind.LIBVIRT, broken)
        environment = os.environ | {"P2V_IMAGES": str(tmp_path)}
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=environment)
        assert done.returncode != 0
        assert done.stderr.count("undone: ") == 2
        assert list(pool.iterdir()) == []
