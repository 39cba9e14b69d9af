# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines of finished images: made, or taken back; the hosts' adapters keep files in a folder."""

from __future__ import annotations

import hashlib
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.guest.report import Report, Verdict, report_path
from p2v.guest.target import Platform, Target
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.model.errors import HostError, MigrationStateError, NoSuitableHostError
from p2v.model.host import HostFacts, HostNetwork, HostStorage, HypervisorKind
from p2v.model.machine import FirmwareKind, Problem, Severity
from p2v.model.migration import Migration, MigrationState
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.model.vm import OsFamily, VmNic, VmSettings
from p2v.service.certificate import ensure_certificate
from p2v.service.deploy import Deployer
from p2v.service.deployments import DeploymentState, DeploymentStore
from p2v.service.downloads import Digests, Downloads, NoSuchDownloadError
from p2v.service.hosts import Hosts
from p2v.service.hoststore import HostStore
from p2v.service.secretbox import SecretBox
from p2v.service.store import Store, default_url

MiB = 1 << 20
GiB = 1 << 30


class Folder:
    """A host whose machines are files in a folder; it fails where it is told to."""

    def __init__(self, path, hypervisor=HypervisorKind.LIBVIRT):
        self.path = path
        self.hypervisor = hypervisor
        self.fail = ""
        self.closed = True
        self.orders = []
        self.before_create = lambda order: None

    def __call__(self, _connection):
        self.closed = False
        return self

    def facts(self):
        room = (HostStorage("pool", 100 * GiB),)
        lan = (HostNetwork("LAN"),)
        return [HostFacts("hv1", self.hypervisor, 16, 64 * GiB, storages=room, networks=lan)]

    def create(self, host, order, images, undo, sent=lambda _: None):
        self.orders.append(order)
        self.before_create(order)
        for disk, image in zip(order.disks, images, strict=True):
            made = self.path / disk.file
            made.write_bytes(image.read_bytes())
            sent(image.stat().st_size)
            undo.later(f"the volume {disk.file}", lambda made=made: self._delete(made))
            if self.fail == "disk":
                raise HostError(host=host, problem="no more disks")
        machine = self.path / f"{order.migration}.vm"
        machine.write_text(order.mark)
        undo.later("the machine", lambda: self._delete(machine))
        return "id-1"

    def _delete(self, path):
        assert not self.closed, "the connection is needed to take things back"
        if self.fail == "undo":
            raise HostError(host="hv1", problem="it is in use")
        if self.fail == "connection":
            raise HostError(host="hv1", problem="connection reset")
        path.unlink()

    def power_on(self, host, id_):
        if self.fail in ("start", "undo", "connection"):
            raise HostError(host=host, problem="it does not start")
        (self.path / "running").touch()

    def remove(self, host, order):
        if self.fail in ("remove", "undo"):
            raise HostError(host=host, problem="it is in use")
        assert order.storage == "pool"
        for path in self.path.iterdir():
            path.unlink()

    def close(self):
        self.closed = True


@pytest.fixture
def host(tmp_path):
    path = tmp_path / "host"
    path.mkdir()
    return Folder(path)


@pytest.fixture
def deployer(tmp_path, host):
    store = Store(default_url(tmp_path))
    hosts = Hosts(HostStore(store, SecretBox(tmp_path)), host)
    certificate = ensure_certificate(tmp_path)
    begun = []
    made = Deployer(hosts, DeploymentStore(store), Downloads(), Digests(), certificate,
                    "https://10.0.0.1:8443", begun.append)  # fmt: skip
    made.begun = begun
    made.events = store.events
    hosts.add(Connection("kvm", ConnectionKind.LIBVIRT, "x"))
    yield made
    store.close()


@pytest.fixture
def migration(tmp_path):
    folder = tmp_path / "migrations/web01-1"
    folder.mkdir(parents=True)
    names = ("sda", "sdb")
    images = [folder / f"{name}.qcow2" for name in names]
    for image in images:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "8M"], check=True)
    disks = tuple(PlannedDisk(name, f"/dev/{name}", 8 * MiB) for name in names)
    vm = VmSettings(cpus=2, memory=GiB, create=True, power_on=True)
    plan = Plan("web01", disks, ImageFormat.QCOW2, vm=vm, convert=False)
    paths = tuple(str(image) for image in images)
    return Migration("web01-1", plan, MigrationState.FINISHED, 0, 0, images=paths)


def test_a_machine_is_made_and_started(deployer, host, migration):
    deployer.run(migration)
    found = deployer.store.find(migration.id)
    assert (found.state, found.host, found.machine) == (DeploymentState.MADE, "hv1", "id-1")
    assert {path.name for path in host.path.iterdir()} == {
        "running", "web01-1.vm", "web01-1-0.qcow2", "web01-1-1.qcow2"
    }  # fmt: skip
    assert host.closed
    kinds = [event.kind for event in deployer.events(migration.id)]
    assert kinds == ["machine-making", "machine-made"]


def test_what_was_sent_is_told_until_it_is_made(deployer, host, migration):
    total = sum(Path(image).stat().st_size for image in migration.images)
    told = []
    host.power_on = lambda *_: told.append(deployer.sent(migration.id))
    create = host.create

    def watched(*args):
        made = create(*args)
        told.append(deployer.sent(migration.id))
        return made

    host.create = watched
    deployer.run(migration)
    assert told == [(total, total), (0, 0)]


def test_it_is_made_once(deployer, host, migration):
    deployer.run(migration)
    deployer.run(migration)
    assert len(host.orders) == 1


def test_a_run_after_a_crash_goes_to_the_same_host(deployer, host, migration):
    class Killed(BaseException):
        pass

    def crash(_order):
        deployer.store.note = lambda *_, **__: None  # nothing more reaches the store
        deployer.store.failed = lambda *_: None
        raise Killed

    host.before_create = crash
    with pytest.raises(Killed):
        deployer.run(migration)
    del deployer.store.note, deployer.store.failed
    host.before_create = lambda order: None
    found = deployer.store.find(migration.id)
    assert (found.state, found.vm.host, found.vm.storage) == ("making", "kvm/hv1", "pool")
    deployer.run(migration)
    assert deployer.store.find(migration.id).state is DeploymentState.MADE


@pytest.mark.parametrize(
    ("fail", "undone"),
    [
        ("disk", ("the volume web01-1-0.qcow2",)),
        ("start", ("the machine", "the volume web01-1-1.qcow2", "the volume web01-1-0.qcow2")),
    ],
)
def test_a_failure_in_the_middle_leaves_nothing_and_says_so(
    deployer, host, migration, fail, undone
):
    host.fail = fail
    deployer.run(migration)
    found = deployer.store.find(migration.id)
    assert found.state is DeploymentState.FAILED
    assert found.undone == undone
    assert list(host.path.iterdir()) == []
    text = deployer.events(migration.id)[-1].text
    assert found.problem in text and all(each in text for each in undone)
    assert all(Path(image).exists() for image in migration.images)


def test_what_can_not_be_taken_back_is_said(deployer, host, migration):
    host.fail = "undo"
    deployer.run(migration)
    found = deployer.store.find(migration.id)
    assert "does not start" in found.problem
    assert all("could not be removed" in each and "in use" in each for each in found.undone)


def test_what_a_lost_connection_left_is_taken_back_over_another(deployer, host, migration):
    host.fail = "connection"
    deployer.run(migration)
    found = deployer.store.find(migration.id)
    assert found.undone == (
        "the machine", "the volume web01-1-1.qcow2", "the volume web01-1-0.qcow2"
    )  # fmt: skip
    assert list(host.path.iterdir()) == [] and host.closed


def test_a_mistake_in_an_adapter_ends_in_the_store_too(deployer, host, migration):
    def broken(_order):
        raise ZeroDivisionError("oops")

    host.before_create = broken
    deployer.run(migration)
    assert "oops" in deployer.store.find(migration.id).problem


def test_no_machine_is_made_where_none_is_asked_for(deployer, host, migration):
    plan = replace(migration.plan, vm=replace(migration.plan.vm, create=False))
    deployer.run(replace(migration, plan=plan))
    deployer.run(replace(migration, plan=replace(plan, vm=None)))
    assert deployer.store.find(migration.id) is None and host.orders == []


def test_a_host_without_a_star_gets_no_machine(deployer, host, migration):
    vm = replace(migration.plan.vm, memory=1 << 50)
    deployer.run(replace(migration, plan=replace(migration.plan, vm=vm)))
    found = deployer.store.find(migration.id)
    assert found.state is DeploymentState.FAILED and "not enough memory" in found.problem
    assert host.orders == []


def test_somebody_may_ask_for_a_machine_later_and_again(deployer, host, migration):
    plain = replace(
        migration, plan=replace(migration.plan, vm=replace(migration.plan.vm, create=False))
    )
    host.fail = "start"
    deployer.want(plain, replace(plain.plan.vm, create=True))
    assert deployer.begun == [migration.id]
    with pytest.raises(MigrationStateError, match="being made"):
        deployer.want(plain, plain.plan.vm)
    deployer.run(plain)
    assert deployer.store.find(migration.id).state is DeploymentState.FAILED
    host.fail = ""
    deployer.want(plain, plain.plan.vm)
    deployer.run(plain)
    assert deployer.store.find(migration.id).state is DeploymentState.MADE


def test_a_guest_that_could_not_be_converted_is_made_by_hand_only(deployer, host, migration):
    broken = replace(migration, problem="The guest is hibernated.")
    deployer.run(broken)
    found = deployer.store.find(migration.id)
    assert found.state is DeploymentState.FAILED and "hibernated" in found.problem
    assert host.orders == []
    deployer.want(broken, migration.plan.vm)
    deployer.run(broken)
    assert deployer.store.find(migration.id).state is DeploymentState.MADE


def test_a_machine_is_removed_with_its_disks_and_may_be_made_again(deployer, host, migration):
    with pytest.raises(MigrationStateError, match="none to remove"):
        deployer.remove(migration)
    deployer.run(migration)
    deployer.remove(migration)
    assert deployer.store.find(migration.id).state is DeploymentState.REMOVED
    assert list(host.path.iterdir()) == [] and host.closed
    assert all(Path(image).exists() for image in migration.images)
    assert deployer.events(migration.id)[-1].kind == "machine-removed"
    deployer.want(migration, migration.plan.vm)
    deployer.run(migration)
    assert deployer.store.find(migration.id).state is DeploymentState.MADE


def test_a_machine_that_can_not_be_removed_is_still_there(deployer, host, migration):
    deployer.run(migration)
    host.fail = "remove"
    with pytest.raises(HostError, match="in use"):
        deployer.remove(migration)
    assert deployer.store.find(migration.id).state is DeploymentState.MADE and host.closed


def test_what_a_failure_left_is_removed_too(deployer, host, migration):
    host.fail = "undo"
    deployer.run(migration)
    host.fail = ""
    deployer.remove(migration)
    assert list(host.path.iterdir()) == []


def report_on(migration, verdict=Verdict.CONVERTED, problems=()):
    image = Path(migration.images[0])
    target = Target(Platform.KVM, FirmwareKind.BIOS)
    report = Report(migration.images, target, verdict, "so", 1.0, problems=problems)
    report_path(image).write_text(report.to_json())


CONTROLLER = Problem(Severity.WARNING, "domain-controller", "dc01", "This is one.")


@pytest.fixture
def plugged(migration):
    vm = replace(
        migration.plan.vm, os=OsFamily.WINDOWS, nics=(VmNic("eno1", network="LAN"),), power_on=False
    )
    return replace(migration, plan=replace(migration.plan, vm=vm))


@pytest.mark.parametrize(
    ("problems", "isolated", "connected"),
    [((), True, True), ((CONTROLLER,), True, False), ((CONTROLLER,), False, True)],
)
def test_a_domain_controllers_cables_are_out_unless_somebody_wants_them_in(
    deployer, host, plugged, problems, isolated, connected
):
    report_on(plugged, problems=problems)
    vm = replace(plugged.plan.vm, isolated=isolated)
    deployer.run(replace(plugged, plan=replace(plugged.plan, vm=vm)))
    assert deployer.store.find(plugged.id).state is DeploymentState.MADE
    (nic,) = host.orders[0].vm.nics
    assert nic.connected is connected
    text = deployer.events(plugged.id)[-1].text
    assert ("domain controller" in text) is not connected


@pytest.mark.parametrize(
    ("os", "verdict", "plain"),
    [
        (OsFamily.WINDOWS, Verdict.CONVERTED, False),
        (OsFamily.WINDOWS, Verdict.REFUSED, True),
        (OsFamily.WINDOWS, None, True),
        (OsFamily.LINUX, None, False),
    ],
)
def test_a_guest_without_a_hypervisors_drivers_gets_devices_that_it_knows(
    deployer, host, plugged, os, verdict, plain
):
    if verdict is not None:
        report_on(plugged, verdict)
    deployer.run(replace(plugged, plan=replace(plugged.plan, vm=replace(plugged.plan.vm, os=os))))
    assert host.orders[0].plain is plain


def test_images_that_are_not_finished_make_no_machine(deployer, migration):
    with pytest.raises(MigrationStateError):
        deployer.want(replace(migration, state=MigrationState.PAUSED), migration.plan.vm)


@pytest.mark.parametrize(
    ("hypervisor", "ending", "form"),
    [
        (HypervisorKind.VMWARE, ".vmdk", "vmdk"),
        (HypervisorKind.XENSERVER, ".raw", "raw"),
        (HypervisorKind.HYPERV, ".vhdx", "vhdx"),
    ],
)
def test_images_are_converted_to_what_the_host_takes(
    deployer, host, migration, tmp_path, hypervisor, ending, form
):
    host.hypervisor = hypervisor
    deployer.hosts.sample()
    deployer.run(migration)
    assert deployer.store.find(migration.id).problem == ""
    made = host.path / f"web01-1-0{ending}"
    command = ["qemu-img", "info", "-f", form, made]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "virtual size: 8 MiB" in text
    if form == "vmdk":
        assert "streamOptimized" in text
    assert not (Path(migration.images[0]).parent / "deploy").exists()


def test_hyperv_gets_links_that_are_good_for_as_long_as_it_fetches(deployer, host, migration):
    host.hypervisor = HypervisorKind.HYPERV
    deployer.hosts.sample()
    seen = []

    def fetch(order):
        for disk in order.disks:
            path = deployer.downloads.find(disk.url.rpartition("/")[2])
            seen.append((disk, path.read_bytes()))

    host.before_create = fetch
    deployer.run(migration)
    assert deployer.store.find(migration.id).problem == ""
    for disk, content in seen:
        assert disk.sha256 == hashlib.sha256(content).hexdigest()
        assert disk.length == len(content)
        with pytest.raises(NoSuchDownloadError):
            deployer.downloads.find(disk.url.rpartition("/")[2])
    assert host.orders[0].fingerprint and host.orders[0].public_key


def test_nothing_is_made_without_a_host(deployer, migration):
    deployer.hosts.remove("kvm")
    with pytest.raises(NoSuitableHostError):
        deployer.hosts.choose(migration.plan)
    deployer.run(migration)
    assert "knows no host" in deployer.store.find(migration.id).problem


def test_digests_are_computed_in_the_background_and_kept(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(b"x" * (9 * MiB))
    digests = Digests()
    deadline = time.monotonic() + 60
    while not (found := digests.ask(path))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert found == (hashlib.sha256(path.read_bytes()).hexdigest(), 9 * MiB)
    path.write_bytes(b"y")
    assert digests.get(path) == hashlib.sha256(b"y").hexdigest()
    with pytest.raises(FileNotFoundError):
        digests.ask(tmp_path / "gone")
