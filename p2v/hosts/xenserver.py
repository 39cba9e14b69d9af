# SPDX-License-Identifier: GPL-3.0-or-later
"""XenServer and XCP-ng 8 through XenAPI; the pool's coordinator answers for all its hosts.

Disks are imported raw over HTTP. A VLAN is a network of its own there. Source:
https://xapi-project.github.io/xen-api and https://xapi-project.github.io/new-docs/toolstack/.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import XenAPI

from p2v.hosts.connection import Connection
from p2v.hosts.pinned import session, tls_context
from p2v.hosts.sending import Sent, unheard
from p2v.hosts.undo import Undo
from p2v.hosts.xenserver_import import Imports
from p2v.model.errors import HostError, HostUnreachableError
from p2v.model.host import (
    HostFacts,
    HostLimits,
    HostLoad,
    HostNetwork,
    HostStorage,
    HypervisorKind,
)
from p2v.model.machine import FirmwareKind
from p2v.model.order import Order, OrderedDisk
from p2v.model.units import TiB
from p2v.model.vm import SecureBoot, StartAction, VmNic

_TIMEOUT_S = 60.0
_TEMPLATE = "Other install media"
_NOT_FOR_DISKS = {"iso", "udev"}
_FAILURES = (XenAPI.Failure, OSError, http.client.HTTPException, requests.RequestException)
_NO_TAGS = (0,)
"""A network carries its own VLAN, or none."""


def connect(connection: Connection) -> XenHosts:
    """Log in to the pool's coordinator at the address: ``xen1`` or ``xen1:443``.

    Raises:
        HostUnreachableError: it does not answer, shows another certificate, or refuses the user.
        UsageError: the connection has an option that is none.
    """
    connection.check_options(set())
    parts = urlsplit(f"//{connection.address}")
    host, port = parts.hostname or "", parts.port or 443
    url = f"https://{host}:{port}"
    context = tls_context(connection, host, port)
    xen = XenAPI.Session(url, transport=_Transport(context))
    try:
        xen.login_with_password(connection.user, connection.secret, "1.0", "p2v")
    except _FAILURES as error:
        raise HostUnreachableError(host=connection.name, problem=_words(error)) from None
    transfers = session(context)
    imports = Imports(xen, url, transfers, pinned=bool(connection.fingerprint))
    return XenHosts(xen, transfers, imports, url)


class _Transport(XenAPI.xmlrpclib.SafeTransport):  # type: ignore[misc]
    """XML-RPC over TLS with a context of ours."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(context=context, use_datetime=True)

    def make_connection(self, host: Any) -> Any:
        """Connect with a time-out."""
        made = super().make_connection(host)
        made.timeout = _TIMEOUT_S
        return made


class XenHosts:
    """The hosts of a pool."""

    def __init__(self, xen: Any, transfers: requests.Session, imports: Imports, url: str) -> None:
        self._api = xen.xenapi
        self._transfers = transfers
        self._imports = imports
        self._url = url

    def close(self) -> None:
        """Log out."""
        with suppress(*_FAILURES):
            self._api.session.logout()
        self._transfers.close()

    # --- facts

    def facts(self) -> Sequence[HostFacts]:
        """Return the hosts; their load is of the last seconds."""
        with self._speaking(self._url):
            pool = next(iter(self._api.pool.get_all_records().values()))
            pbds = self._api.PBD.get_all_records().values()
            stores = self._api.SR.get_all_records()
            networks = [each["name_label"] for each in self._api.network.get_all_records().values()]
            return [
                self._facts(ref, host, pool, _storages(ref, pbds, stores), networks)
                for ref, host in self._api.host.get_all_records().items()
            ]

    def _facts(
        self,
        ref: str,
        host: Mapping[str, Any],
        pool: Mapping[str, Any],
        storages: Iterator[HostStorage],
        networks: Sequence[str],
    ) -> HostFacts:
        name, group = host["name_label"], (pool["name_label"],) if pool["name_label"] else ()
        metrics = self._metrics(host["metrics"])
        if not metrics.get("live"):
            problem = "its pool's coordinator hears nothing of it"
            return HostFacts(name, HypervisorKind.XENSERVER, 0, 0, group=group, problem=problem)
        total = int(metrics["memory_total"])
        load = self._load(ref)
        return HostFacts(
            name=name,
            hypervisor=HypervisorKind.XENSERVER,
            cpus=int(host["cpu_info"]["cpu_count"]),
            memory=total,
            version=host["software_version"].get("product_version", ""),
            group=group,
            storages=tuple(storages),
            networks=tuple(HostNetwork(each, _NO_TAGS) for each in networks),
            load=HostLoad(
                cpu_percent=100 * load("cpu_avg"),
                memory_used=total - int(metrics["memory_free"]),
                network_bytes=load("pif_aggr_rx") + load("pif_aggr_tx"),
            ),
            limits=HostLimits(cpus=64, memory=int(1.5 * TiB), disk=2 * TiB - (4 << 30)),
            in_cluster=bool(pool["ha_enabled"]),
            maintenance=not host["enabled"],
        )

    def _metrics(self, ref: str) -> Mapping[str, Any]:
        """Return a host's metrics; none if it never was there since its pool started."""
        try:
            found: Mapping[str, Any] = self._api.host_metrics.get_record(ref)
        except XenAPI.Failure:
            return {}
        return found

    def _load(self, ref: str) -> Any:
        """Return a function that asks for a data source; one that there is not is 0."""

        def ask(source: str) -> float:
            try:
                return float(self._api.host.query_data_source(ref, source))
            except XenAPI.Failure:
                return 0.0

        return ask

    # --- machines

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Make the machine, import its disks, and connect its NICs."""
        with self._speaking(host):
            for vm, record in self._machines(order).items():
                if record["name_description"] == order.mark:
                    return str(record["uuid"])
                self._destroy(vm)
            store, target = self._one("SR", order.storage), self._one("host", host)
            networks = {
                nic.network: self._one("network", nic.network)
                for nic in order.vm.nics
                if nic.network
            }
            vm = self._machine(order)
            undo.later(f"the virtual machine {order.vm.name}", partial(self._destroy, vm))
            self._api.VM.set_affinity(vm, target)
            for number, (disk, image) in enumerate(zip(order.disks, images, strict=True)):
                vdi = self._disk(vm, number, store, disk)
                self._imports.fill(vdi, store, target, image, sent)
            for number, nic in enumerate(nic for nic in order.vm.nics if nic.network):
                self._connect(vm, number, nic, networks[nic.network])
            self._api.VM.set_name_description(vm, order.mark)
            return str(self._api.VM.get_uuid(vm))

    def power_on(self, host: str, id_: str) -> None:
        """Start the machine on the host."""
        with self._speaking(host):
            vm = self._api.VM.get_by_uuid(id_)
            if self._api.VM.get_power_state(vm) != "Running":
                self._api.VM.start_on(vm, self._one("host", host), False, False)

    def remove(self, host: str, order: Order) -> None:
        """Destroy the machine with its disks, and disks that came to no machine."""
        with self._speaking(host):
            for vm in self._machines(order):
                self._destroy(vm)
            for disk in order.disks:
                for vdi in self._api.VDI.get_by_name_label(disk.file):
                    self._api.VDI.destroy(vdi)

    def _machine(self, order: Order) -> str:
        """Make a machine from the template that assumes nothing, and return its reference."""
        wanted = order.vm
        vm = str(self._api.VM.clone(self._one("VM", _TEMPLATE), wanted.name))
        try:
            self._api.VM.set_name_description(vm, order.unfinished_mark)
            self._api.VM.remove_from_other_config(vm, "disks")
            self._api.VM.provision(vm)
            memory = str(wanted.memory)
            self._api.VM.set_memory_limits(vm, memory, memory, memory, memory)
            self._api.VM.set_VCPUs_max(vm, str(wanted.cpus))
            self._api.VM.set_VCPUs_at_startup(vm, str(wanted.cpus))
            if wanted.firmware is FirmwareKind.UEFI:
                secure = "false" if wanted.secure_boot is SecureBoot.OFF else "true"
                self._put(vm, "HVM_boot_params", "firmware", "uefi")
                self._put(vm, "platform", "secureboot", secure)
            if wanted.start_action is StartAction.ALWAYS:
                self._put(vm, "other_config", "auto_poweron", "true")
        except BaseException:
            with suppress(*_FAILURES):
                self._destroy(vm)
            raise
        return vm

    def _put(self, vm: str, field: str, key: str, value: str) -> None:
        """Set a key of a map, which the template may have already: adding it again is refused."""
        getattr(self._api.VM, f"remove_from_{field}")(vm, key)
        getattr(self._api.VM, f"add_to_{field}")(vm, key, value)

    def _disk(self, vm: str, number: int, store: str, disk: OrderedDisk) -> str:
        """Make a disk and attach it: the machine's removal then takes it; return its reference."""
        created = self._api.VDI.create(
            {
                "name_label": disk.file,
                "name_description": "",
                "SR": store,
                "virtual_size": str(disk.size),
                "type": "user",
                "sharable": False,
                "read_only": False,
                "other_config": {},
            }
        )
        vdi = str(created)
        try:
            self._api.VBD.create(
                {
                    "VM": vm,
                    "VDI": vdi,
                    "userdevice": str(number),
                    "bootable": number == 0,
                    "mode": "RW",
                    "type": "Disk",
                    "empty": False,
                    "other_config": {},
                    "qos_algorithm_type": "",
                    "qos_algorithm_params": {},
                }
            )
        except BaseException:
            with suppress(*_FAILURES):
                self._api.VDI.destroy(vdi)  # nothing leads to it yet
            raise
        return vdi

    def _connect(self, vm: str, number: int, nic: VmNic, network: str) -> None:
        self._api.VIF.create(
            {
                "VM": vm,
                "network": network,
                "device": str(number),
                "MAC": nic.mac,
                "MTU": "1500",
                "other_config": {},
                "qos_algorithm_type": "",
                "qos_algorithm_params": {},
                "locking_mode": "network_default" if nic.connected else "disabled",
            }
        )

    def _machines(self, order: Order) -> dict[str, Mapping[str, Any]]:
        return {
            ref: record
            for ref, record in self._api.VM.get_all_records().items()
            if record["name_description"] in (order.mark, order.unfinished_mark)
        }

    def _destroy(self, vm: str) -> None:
        if self._api.VM.get_power_state(vm) != "Halted":
            self._api.VM.hard_shutdown(vm)
        disks = [
            self._api.VBD.get_VDI(vbd)
            for vbd in self._api.VM.get_VBDs(vm)
            if self._api.VBD.get_type(vbd) == "Disk"
        ]
        self._api.VM.destroy(vm)
        for disk in disks:
            self._api.VDI.destroy(disk)

    def _one(self, kind: str, name: str) -> str:
        found = getattr(self._api, kind).get_by_name_label(name)
        if len(found) != 1:
            problem = f"there are {len(found)} {kind}s named '{name}', not one"
            raise HostError(host=self._url, problem=problem)
        return str(found[0])

    @contextmanager
    def _speaking(self, host: str) -> Iterator[None]:
        try:
            yield
        except (XenAPI.Failure, http.client.HTTPException, requests.RequestException) as error:
            raise HostError(host=host, problem=_words(error)) from error


def _storages(
    host: str, pbds: Any, stores: Mapping[str, Mapping[str, Any]]
) -> Iterator[HostStorage]:
    for pbd in pbds:
        store = stores[pbd["SR"]]
        if (
            pbd["host"] == host
            and pbd["currently_attached"]
            and store["type"] not in _NOT_FOR_DISKS
        ):
            total = int(store["physical_size"])
            free = total - int(store["physical_utilisation"])
            yield HostStorage(store["name_label"], free, total, bool(store["shared"]))


def _words(error: Exception) -> str:
    """Return what went wrong; never the session's reference, which a URL holds."""
    if isinstance(error, XenAPI.Failure):
        return " ".join(str(part) for part in error.details)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"it answered {error.response.status_code} {error.response.reason} to an import"
    if isinstance(error, requests.RequestException):
        return f"the connection failed ({type(error).__name__})"
    return str(error) or type(error).__name__
