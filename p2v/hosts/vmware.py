# SPDX-License-Identifier: GPL-3.0-or-later
"""VMware ESXi and vCenter through the vSphere Web Services API 6.5 and later (pyVmomi).

The virtual machine comes into being with its disks, as from an OVF: each is uploaded as a
streamOptimized VMDK through an HTTP NFC lease. VLANs belong to the port groups there.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl

from p2v.hosts.connection import Connection
from p2v.hosts.pinned import session, tls_context
from p2v.hosts.sending import Sent, unheard
from p2v.hosts.undo import Undo
from p2v.hosts.vmware_spec import config_spec, places
from p2v.hosts.vmware_upload import upload
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.host import (
    HostFacts,
    HostLimits,
    HostLoad,
    HostNetwork,
    HostStorage,
    HypervisorKind,
)
from p2v.model.order import Order
from p2v.model.units import KiB, MiB, TiB

_TASK_S = 3600.0
_POLL_S = 0.2
_TIMEOUT_S = 30
_NO_TAGS = (0,)
_COUNTERS = {
    "disk.numberReadAveraged.average": "iops",
    "disk.numberWriteAveraged.average": "iops",
    "net.usage.average": "network",
}
_REAL_TIME_S = 20
_SAMPLES = 15
_FAILURES = (vmodl.MethodFault, OSError, http.client.HTTPException)


def connect(connection: Connection) -> VmwareHosts:
    """Log in to the vCenter or ESXi at the address: ``vc.example`` or ``vc.example:8443``.

    Raises:
        HostUnreachableError: nothing answers, it shows another certificate, or refuses the user.
        UsageError: the connection has an option that is none.
    """
    connection.check_options(set())
    parts = urlsplit(f"//{connection.address}")
    host, port = parts.hostname or "", parts.port or 443
    context = tls_context(connection, host, port)
    try:
        service = SmartConnect(
            host=host,
            port=port,
            user=connection.user,
            pwd=connection.secret,
            sslContext=context,
            httpConnectionTimeout=_TIMEOUT_S,
        )
    except vim.fault.InvalidLogin:
        problem = f"it refuses the user '{connection.user}' with this password"
        raise HostUnreachableError(host=connection.name, problem=problem) from None
    except _FAILURES as error:
        raise HostUnreachableError(host=connection.name, problem=_words(error)) from None
    return VmwareHosts(service, session(context), f"{host}:{port}")


class VmwareHosts:
    """The hosts of a vCenter, or an ESXi alone."""

    def __init__(self, service: Any, uploads: requests.Session, address: str) -> None:
        self._service = service
        self._content = service.RetrieveContent()
        self._uploads = uploads
        self._address = address

    def close(self) -> None:
        """Log out."""
        with suppress(*_FAILURES):
            Disconnect(self._service)
        self._uploads.close()

    # --- facts

    def facts(self) -> Sequence[HostFacts]:
        """Return the hosts; their load is the average of the last five minutes."""
        with self._speaking(self._address):
            return [self._facts(host) for host in self._all(vim.HostSystem)]

    def _facts(self, host: Any) -> HostFacts:
        state = host.runtime
        if state.connectionState != "connected":
            problem = f"{self._address} says that it is {state.connectionState}"
            group = tuple(self._group(host))
            return HostFacts(host.name, HypervisorKind.VMWARE, 0, 0, group=group, problem=problem)
        hardware = host.summary.hardware
        return HostFacts(
            name=host.name,
            hypervisor=HypervisorKind.VMWARE,
            cpus=hardware.numCpuThreads,
            memory=hardware.memorySize,
            version=host.summary.config.product.version if host.summary.config.product else "",
            group=tuple(self._group(host)),
            storages=tuple(_storages(host)),
            networks=tuple(_networks(host)),
            load=self._load(host),
            limits=HostLimits(cpus=256, memory=6 * TiB, disk=62 * TiB),
            network_rate=_network_rate(host),
            in_cluster=_protected(host),
            maintenance=state.inMaintenanceMode,
        )

    def _group(self, host: Any) -> Iterator[str]:
        """Yield data center, folders and cluster; what every host has above it says nothing."""
        above: list[str] = []
        root = self._content.rootFolder._moId
        found = host.parent
        while found._moId != root:
            lone = isinstance(found, vim.ComputeResource) and not _is_cluster(found)
            parent = found.parent
            given = isinstance(found, vim.Folder) and isinstance(parent, vim.Datacenter)
            if not lone and not given:
                above.append(found.name)
            found = parent
        yield from reversed(above)

    def _load(self, host: Any) -> HostLoad:
        hardware, quick = host.summary.hardware, host.summary.quickStats
        capacity = hardware.cpuMhz * hardware.numCpuCores
        used = self._counters(host)
        return HostLoad(
            cpu_percent=100 * (quick.overallCpuUsage or 0) / capacity if capacity else 0.0,
            memory_used=(quick.overallMemoryUsage or 0) * MiB,
            iops=used["iops"],
            network_bytes=used["network"] * KiB,
        )

    def _counters(self, host: Any) -> dict[str, float]:
        manager = self._content.perfManager
        found = dict.fromkeys(_COUNTERS.values(), 0.0)
        names = {
            counter.key: f"{counter.groupInfo.key}.{counter.nameInfo.key}.{counter.rollupType}"
            for counter in manager.perfCounter
        }
        wanted = [
            vim.PerformanceManager.MetricId(counterId=key, instance="")
            for key, name in names.items()
            if name in _COUNTERS
        ]
        query = vim.PerformanceManager.QuerySpec(
            entity=host, metricId=wanted, intervalId=_REAL_TIME_S, maxSample=_SAMPLES
        )
        for entity in manager.QueryPerf(querySpec=[query]):
            for series in entity.value:
                values = [value for value in series.value if value >= 0]
                kind = _COUNTERS.get(names.get(series.id.counterId, ""))
                if kind and values:
                    found[kind] += sum(values) / len(values)
        return found

    # --- machines

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Import the virtual machine with its disks."""
        with self._speaking(host):
            made = self._machines(order)
            if order.mark in made:
                return str(made[order.mark]._moId)
            if order.unfinished_mark in made:
                _destroy(made[order.unfinished_mark])
            target = self._host(host)
            spec = vim.vm.VmImportSpec(configSpec=config_spec(order, target))
            lease = target.parent.resourcePool.ImportVApp(
                spec=spec, folder=_datacenter(target).vmFolder, host=target
            )
            _wait_ready(lease)
            machine = lease.info.entity
            undo.later(f"the virtual machine {order.vm.name}", partial(_destroy, machine))
            try:
                upload(lease, order, images, places(order), (self._address, self._uploads), sent)
            except BaseException:
                with suppress(*_FAILURES):
                    lease.HttpNfcLeaseAbort()
                raise
            lease.HttpNfcLeaseComplete()
            _done(machine.ReconfigVM_Task(vim.vm.ConfigSpec(annotation=order.mark)))
            return str(machine._moId)

    def power_on(self, host: str, id_: str) -> None:
        """Start the virtual machine."""
        with self._speaking(host):
            machine = vim.VirtualMachine(id_, self._service._stub)
            if machine.runtime.powerState != "poweredOn":
                _done(machine.PowerOnVM_Task())

    def remove(self, host: str, order: Order) -> None:
        """Destroy the virtual machine with its disks."""
        with self._speaking(host):
            for mark, machine in self._machines(order).items():
                if mark in (order.mark, order.unfinished_mark):
                    _destroy(machine)

    def _machines(self, order: Order) -> dict[str, Any]:
        """Return the virtual machines by what their notes say."""
        return {
            machine.config.annotation: machine
            for machine in self._all(vim.VirtualMachine)
            if machine.config is not None
        }

    def _host(self, name: str) -> Any:
        for host in self._all(vim.HostSystem):
            if host.name == name:
                return host
        raise HostError(host=name, problem=f"{self._address} does not know it any more")

    def _all(self, kind: Any) -> list[Any]:
        view = self._content.viewManager.CreateContainerView(self._content.rootFolder, [kind], True)
        try:
            return list(view.view)
        finally:
            view.Destroy()

    @contextmanager
    def _speaking(self, host: str) -> Iterator[None]:
        try:
            yield
        except vmodl.MethodFault as error:
            raise HostError(host=host, problem=_words(error)) from error
        except (requests.RequestException, http.client.HTTPException, ConnectionError) as error:
            raise HostError(host=host, problem=str(error)) from error


def _storages(host: Any) -> Iterator[HostStorage]:
    for store in host.datastore:
        summary = store.summary
        if summary.accessible:
            yield HostStorage(
                summary.name, summary.freeSpace, summary.capacity, bool(summary.multipleHostAccess)
            )


def _networks(host: Any) -> Iterator[HostNetwork]:
    tags: dict[str, int] = {}
    if host.config is not None and host.config.network is not None:
        tags = {group.spec.name: group.spec.vlanId for group in host.config.network.portgroup}
    for network in host.network:
        tag = tags.get(network.name, 0)
        yield HostNetwork(network.name, (tag,) if 0 < tag < 4095 else _NO_TAGS)


def _network_rate(host: Any) -> float:
    if host.config is None or host.config.network is None:
        return 0.0
    speeds = (card.linkSpeed.speedMb for card in host.config.network.pnic if card.linkSpeed)
    return float(sum(speeds)) * 1e6 / 8


def _is_cluster(resource: Any) -> bool:
    return isinstance(resource, vim.ClusterComputeResource)


def _protected(host: Any) -> bool:
    """Return whether its cluster starts machines elsewhere when the host fails (vSphere HA)."""
    if not _is_cluster(host.parent):
        return False
    das = host.parent.configuration.dasConfig
    return bool(das and das.enabled)


def _datacenter(host: Any) -> Any:
    found = host
    while not isinstance(found, vim.Datacenter):
        found = found.parent
    return found


def _wait_ready(lease: Any) -> None:
    deadline = time.monotonic() + _TASK_S
    while lease.state == vim.HttpNfcLease.State.initializing and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if lease.state != vim.HttpNfcLease.State.ready:
        raise lease.error or vmodl.fault.SystemError(msg="the import did not begin")


def _destroy(machine: Any) -> None:
    """Destroy a machine; one that is gone, as vCenter removes what an aborted lease made, is."""
    with suppress(vmodl.fault.ManagedObjectNotFound):
        if machine.runtime.powerState == "poweredOn":
            _done(machine.PowerOffVM_Task())
        _done(machine.Destroy_Task())


def _done(task: Any) -> None:
    deadline = time.monotonic() + _TASK_S
    while (info := task.info).state not in ("success", "error") and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    if info.state != "success":
        raise info.error or vmodl.fault.SystemError(msg="a task did not end within an hour")


def _words(error: Exception) -> str:
    return str(getattr(error, "msg", "") or error or type(error).__name__).strip()
