# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian server becomes a virtual machine of a real libvirtd, is started there, and removed."""

from __future__ import annotations

import os
import tty
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from time import monotonic

import libvirt
import pytest

from p2v.model.planfile import dump, load
from tests.e2e.guests import make_quick
from tests.e2e.running import Agent, Converter, wait_for
from tests.e2e.sources import attached
from tests.libvirtd import libvirtd

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(3600)]

MIGRATE_S = 2400.0
BOOT_S = 600.0
POOL = f"p2v-e2e-{os.getpid()}"


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[libvirt.virConnect]:
    """A libvirtd with an empty pool; what a test leaves in it is a failure."""
    folder = Path("/var/tmp") / POOL  # where QEMU's user may look
    folder.mkdir(mode=0o711)
    with libvirtd(tmp_path), closing(libvirt.open("qemu:///system")) as connection:
        before = {domain.UUIDString() for domain in connection.listAllDomains()}
        pool = connection.storagePoolCreateXML(
            f"<pool type='dir'><name>{POOL}</name><target><path>{folder}</path></target></pool>"
        )
        try:
            yield connection
            assert {domain.UUIDString() for domain in connection.listAllDomains()} == before
            assert list(folder.iterdir()) == []
        finally:
            for domain in connection.listAllDomains():
                if domain.UUIDString() not in before:
                    if domain.isActive():
                        domain.destroy()
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
            pool.destroy()
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


@contextmanager
def console(domain: libvirt.virDomain) -> Iterator[int]:
    """Open the machine's serial console."""
    source = ET.fromstring(domain.XMLDesc()).find("devices/serial/source")
    assert source is not None
    fd = os.open(source.attrib["path"], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        tty.setraw(fd)
        yield fd
    finally:
        os.close(fd)


def read_until(fd: int, wanted: bytes, seconds: float, say: bytes = b"") -> bytes:
    """Return what the console says up to `wanted`; `say` is typed whenever it is silent."""
    said, deadline = b"", monotonic() + seconds
    with DefaultSelector() as selector:
        selector.register(fd, EVENT_READ)
        while wanted not in said:
            assert monotonic() < deadline, said[-3000:].decode(errors="replace")
            if selector.select(10):
                said += os.read(fd, 65536)
            elif say:
                os.write(fd, say)
    return said


def test_that_no_host_can_take_the_machine_is_said_before_and_after(
    converter: Converter, agent: Agent, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts.toml"
    hosts.write_text(
        '[[hosts]]\nname = "hv1"\nhypervisor = "hyperv"\ncpus = 4\nmemory = 1073741824\n'
    )
    converter.p2v("hosts", "add", "lab", "--kind", "static", "--address", hosts)
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(8 << 20))
    words = ("migrate", "--disk", disk, "--server", agent.address, "--host", "best", "--json")
    done = agent.run(*words, "--memory", "4G", "--progress", "none")
    assert done.code == 0, done.err
    assert "no host can take the machine as things are" in done.err
    assert "hv1: not enough memory: 4.0 GiB needed" in done.err
    migration = done.json["migration"]
    machine = wait_for(lambda: ended(converter, migration))
    assert machine["state"] == "failed" and "not enough memory" in machine["problem"]


def plan_of(agent: Agent, disk: str) -> str:
    """Return a plan for the disk's machine on the best host.

    The load of this machine is none of the server's: it is left out.
    """
    wanted = ("--host", "best", "--storage", POOL, "--memory", "768M", "--power-on")
    words = ("--disk", disk, "--format", "qcow2", "--name", "web01", *wanted)
    done = agent.run("plan", *words)
    assert done.code == 0, done.err
    plan = load(done.out)
    assert plan.vm is not None
    return dump(replace(plan, vm=replace(plan.vm, load=None)))


def ended(converter: Converter, migration: str) -> dict | None:
    """Return what became of a migration's machine, None while it is being made."""
    machine = converter.p2v("migrations", "show", migration)["machine"]
    return machine if machine["state"] not in ("wanted", "making") else None


def test_a_server_becomes_a_machine_of_libvirt_and_reaches_its_login(
    converter: Converter, agent: Agent, hypervisor: libvirt.virConnect, room: Path
) -> None:
    host = ("--kind", "libvirt", "--address", "qemu:///system", "--option", "type=qemu")
    kept = ("--reserve-cpu", "0", "--reserve-memory", "0")  # other tests may use it all
    converter.p2v("hosts", "add", "kvm1", *host, *kept, "--group", "Berlin/lab")
    disk = make_quick(room / "server.img")
    with attached(disk, 512) as loop:
        plan = room / "plan.toml"
        plan.write_text(plan_of(agent, loop))
        (rating,) = converter.p2v("hosts", "rate", plan)["ratings"]
        assert rating["group"] == ["Berlin", "lab"] and rating["stars"] > 0, rating
        words = ("migrate", "--plan", plan, "--server", agent.address, "--json")
        done = agent.run(*words, "--progress", "none", timeout_s=MIGRATE_S)
    disk.unlink()
    assert done.code == 0, done.out + done.err
    migration = done.json["migration"]
    machine = wait_for(lambda: ended(converter, migration), MIGRATE_S)
    assert machine["state"] == "made", machine["problem"]
    domain = hypervisor.lookupByUUIDString(machine["machine"])
    assert domain.isActive()
    with console(domain) as fd:
        read_until(fd, b"web01 login:", BOOT_S, say=b"\r")
        os.write(fd, b"root\r")
        read_until(fd, b"root@web01:", 120.0)
        os.write(fd, b"findmnt -no SOURCE /; readlink /sys/block/sda/device/../../../driver\r")
        said = read_until(fd, b"virtio_scsi", 60.0)
        assert b"/dev/sda3" in said
    converter.p2v("hosts", "undeploy", migration, "--yes")
    after = converter.p2v("migrations", "show", migration)
    assert after["machine"]["state"] == "removed"
    assert all(Path(image).exists() for image in after["images"])
