# SPDX-License-Identifier: GPL-3.0-or-later
"""Making the virtual machine of finished images on a host, or leaving nothing behind."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from p2v.hosts import images
from p2v.hosts.base import Adapter
from p2v.hosts.undo import Undo, Undone
from p2v.model.document import encode
from p2v.model.errors import MigrationStateError, P2VError
from p2v.model.host import HypervisorKind
from p2v.model.migration import Migration, MigrationState
from p2v.model.order import Order, make_order, with_images
from p2v.model.vm import OsFamily, VmSettings
from p2v.script.make import extension
from p2v.service.certificate import Certificate
from p2v.service.conversion import is_converted, is_domain_controller
from p2v.service.deployments import Deployment, DeploymentState, DeploymentStore
from p2v.service.downloads import Digests, Downloads
from p2v.service.hosts import Hosts
from p2v.service.hoststore import KnownHost

log = logging.getLogger(__name__)

_GOING = (DeploymentState.WANTED, DeploymentState.MAKING)
_FOLDER = "deploy"
"""In the migration's folder: images as the host takes them, until it has them."""


@dataclass(slots=True)
class _Attempt:
    """The making of a machine: on which host, to which order, and what was made so far."""

    undo: Undo = field(default_factory=Undo)
    host: KnownHost | None = None
    order: Order | None = None


class Deployer:
    """Makes virtual machines.

    `address` is the URL at which hosts reach this converter; `begin` has `run` called for a
    migration that is finished already, in the background and again after a crash.
    """

    def __init__(
        self,
        hosts: Hosts,
        store: DeploymentStore,
        downloads: Downloads,
        digests: Digests,
        certificate: Certificate,
        address: str,
        begin: Callable[[str], None],
    ) -> None:
        self.hosts = hosts
        self.store = store
        self.downloads = downloads
        self.digests = digests
        self._certificate = certificate
        self._address = address
        self._begin = begin
        self._sent: dict[str, tuple[int, int]] = {}

    def sent(self, migration: str) -> tuple[int, int]:
        """Return how many bytes of a machine's images its host took, and of how many.

        Zeros where none are sent: a Hyper-V host fetches them itself.
        """
        return self._sent.get(migration, (0, 0))

    def run(self, migration: Migration) -> None:
        """Make the machine that the migration's plan, or somebody since, asked for.

        What comes of it is in the store: a failure is no exception, for the images are finished.
        """
        wanted = self._wanted(migration)
        if wanted is None:
            return
        try:
            self._make(migration, wanted)
        except P2VError as error:
            log.warning("no machine for migration %s: %s", migration.id, error)
        except Exception:  # a bug too must end in the store
            log.exception("no machine for migration %s", migration.id)

    def want(self, migration: Migration, vm: VmSettings) -> None:
        """Make the machine `vm` of a finished migration in the background.

        Raises:
            MigrationStateError: its images are not finished, or a machine is being made.
        """
        if migration.state is not MigrationState.FINISHED:
            raise MigrationStateError(
                id=migration.id, state=migration.state.value, problem="it has no images yet"
            )
        found = self.store.find(migration.id)
        if found is not None and found.state in _GOING:
            raise MigrationStateError(
                id=migration.id, state="on its way", problem="its machine is being made"
            )
        self.store.want(migration.id, vm)
        self._begin(migration.id)

    def remove(self, migration: Migration) -> None:
        """Switch off the machine that was made of a migration and delete it with its disks.

        What of it a failure may have left goes too; the migration's own images stay.

        Raises:
            MigrationStateError: none was made, or it is being made.
            NoSuchHostError: its host is not known any more.
            HostUnreachableError, HostError: the host does not answer, or refuses.
        """
        found = self.store.find(migration.id)
        if found is None or found.state in _GOING or not found.host:
            raise MigrationStateError(
                id=migration.id, state="without a machine", problem="there is none to remove"
            )
        host = self.hosts.named(found.vm.host)
        plan = replace(migration.plan, vm=found.vm)
        order = self.order(replace(migration, plan=plan), found.vm.storage, host.facts.hypervisor)
        adapter = self.hosts.open(host)
        try:
            adapter.remove(host.facts.name, order)
        finally:
            adapter.close()
        self.hosts.changed(host)
        text = f"{order.vm.name} on {found.host} with its disks"
        self.store.note(migration.id, DeploymentState.REMOVED, text, machine="")
        log.info("the machine of migration %s is removed: %s", migration.id, text)

    def order(self, migration: Migration, storage: str, kind: HypervisorKind) -> Order:
        """Return the order for a migration's machine without the addresses of its images."""
        order = make_order(migration.plan, migration.id, storage, extension(kind))
        found = [Path(image) for image in migration.images]
        vm = order.vm
        if vm.isolated and is_domain_controller(found):
            vm = replace(vm, nics=tuple(replace(nic, connected=False) for nic in vm.nics))
        return replace(
            order,
            vm=vm,
            plain=vm.os is not OsFamily.LINUX and not is_converted(found),
            fingerprint=self._certificate.digest.hex(),
            public_key=self._certificate.public_key,
        )

    def linked(self, order: Order, files: Sequence[Path]) -> Order:
        """Return the order with a new one-time link to each file and its digest."""
        return with_images(
            order,
            [
                (
                    f"{self._address}/api/v1/downloads/{self.downloads.add(file)}",
                    self.digests.get(file),
                    file.stat().st_size,
                )
                for file in files
            ],
        )

    def _wanted(self, migration: Migration) -> Deployment | None:
        vm = migration.plan.vm
        if vm is not None and vm.create and self.store.find(migration.id) is None:
            self.store.want(migration.id, vm)
            if migration.problem:
                # A guest that is not ready for its new hardware; by hand it can still be made.
                problem = f"No machine is made of a guest like this: {migration.problem}"
                self.store.failed(migration.id, problem, ())
        found = self.store.find(migration.id)
        return found if found is not None and found.state in _GOING else None

    def _make(self, migration: Migration, wanted: Deployment) -> None:
        attempt = _Attempt()
        with ExitStack() as stack:
            try:
                self._make_on_host(migration, wanted, attempt, stack)
            except BaseException as error:
                undone = [str(step) for step in self._take_back(attempt)]
                known = isinstance(error, P2VError | OSError)
                problem = str(error) if known else f"A mistake in p2v: {error!r}"
                self.store.failed(migration.id, problem, undone)
                raise

    def _take_back(self, attempt: _Attempt) -> Sequence[Undone]:
        """Take back what was made; if the connection is what failed, over another one."""
        steps = attempt.undo.run()
        if attempt.host is None or attempt.order is None or not any(s.problem for s in steps):
            return steps
        try:
            adapter = self.hosts.open(attempt.host)
            try:
                adapter.remove(attempt.host.facts.name, attempt.order)
            finally:
                adapter.close()
        except P2VError as error:
            log.warning("%s is not what it was: %s", attempt.host.facts.name, error)
            return steps
        return [Undone(step.what) for step in steps]

    def _make_on_host(
        self, migration: Migration, wanted: Deployment, attempt: _Attempt, stack: ExitStack
    ) -> None:
        if migration.state is not MigrationState.FINISHED:
            raise MigrationStateError(
                id=migration.id, state=migration.state.value, problem="it has no images yet"
            )
        plan = replace(migration.plan, vm=wanted.vm)
        host, rating = self.hosts.choose(plan)
        name, kind = host.facts.name, host.facts.hypervisor
        # Kept, so that a run after a crash finds what this one leaves half made.
        vm = replace(wanted.vm, host="/".join(host.key), storage=rating.storage)
        text = f"on {name}, {rating.stars:g} stars, storage {rating.storage}"
        self.store.note(migration.id, DeploymentState.MAKING, text, host=name, vm=encode(vm))
        there = replace(plan, vm=replace(vm, host=name))
        order = self.order(replace(migration, plan=there), rating.storage, kind)
        adapter = self.hosts.open(host)
        stack.callback(adapter.close)
        attempt.host, attempt.order = host, order
        with self._prepared(migration, order, kind) as files:
            machine = self._create(adapter, host, order, files, attempt.undo)
        if order.vm.power_on:
            adapter.power_on(name, machine)
        self.hosts.changed(host)
        text = f"{order.vm.name} on {name}"
        if order.vm.nics != vm.nics:
            text += "; its cables are out: it is a domain controller"
        self.store.note(migration.id, DeploymentState.MADE, text, machine=machine)
        log.info("migration %s is the machine %s", migration.id, text)

    def _create(
        self,
        adapter: Adapter,
        host: KnownHost,
        order: Order,
        files: Sequence[Path],
        undo: Undo,
    ) -> str:
        if host.facts.hypervisor is not HypervisorKind.HYPERV:
            total = sum(file.stat().st_size for file in files)
            self._sent[order.migration] = (0, total)

            def more(count: int) -> None:
                self._sent[order.migration] = (self._sent[order.migration][0] + count, total)

            try:
                return adapter.create(host.facts.name, order, files, undo, more)
            finally:
                del self._sent[order.migration]
        linked = self.linked(order, files)
        try:
            return adapter.create(host.facts.name, linked, files, undo)
        finally:
            for disk in linked.disks:
                self.downloads.used(disk.url.rpartition("/")[2])

    @contextmanager
    def _prepared(
        self, migration: Migration, order: Order, kind: HypervisorKind
    ) -> Iterator[list[Path]]:
        """Give the images in the format that the host takes; converted ones are deleted after."""
        found = [Path(image) for image in migration.images]
        if not images.needs_conversion(migration.plan.format, extension(kind)):
            yield found
            return
        folder = found[0].parent / _FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            made = [folder / disk.file for disk in order.disks]
            for image, target in zip(found, made, strict=True):
                images.convert(image, migration.plan.format, target)
            yield made
        finally:
            shutil.rmtree(folder)
