# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt and QEMU/KVM. The address is a libvirt URI: ``qemu+ssh://root@kvm1/system``.

A host's processor, memory, disk and network figures are measured over a second; disk operations
and traffic are those of its virtual machines, as libvirt tells no others.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, BinaryIO, TypeVar

import libvirt

from p2v.hosts.connection import Connection
from p2v.hosts.sending import Sent, unheard
from p2v.hosts.undo import Undo
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
from p2v.model.plan import ImageFormat
from p2v.model.units import KiB, MiB, TiB
from p2v.model.vm import StartAction
from p2v.script import libvirt_xml

T = TypeVar("T")

_WINDOW_S = 1.0
_FILE_POOLS = {"dir", "fs", "netfs", "gluster"}
"""Pools that hold files, and so qcow2."""
_SHARED_POOLS = {"netfs", "gluster"}
_CREDENTIALS = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
_NO_TAGS = (0,)


def connect(connection: Connection) -> LibvirtHost:
    """Open the connection; its option ``type`` is kvm or qemu, by default the best there is.

    Raises:
        HostUnreachableError: libvirt does not answer there.
        UsageError: the connection has an option that is none.
    """
    connection.check_options({"type"})
    libvirt.registerErrorHandler(lambda *_: None, None)  # it would print them

    def answer(questions: list[list[Any]], _data: object) -> int:
        for question in questions:
            wanted = question[0] == libvirt.VIR_CRED_AUTHNAME
            question[4] = connection.user if wanted else connection.secret
        return 0

    try:
        opened = libvirt.openAuth(connection.address, [_CREDENTIALS, answer, None], 0)
    except libvirt.libvirtError as error:
        raise HostUnreachableError(host=connection.name, problem=str(error)) from None
    return LibvirtHost(opened, connection.options.get("type", ""))


class LibvirtHost:
    """One host with libvirt."""

    def __init__(self, opened: Any, type_: str) -> None:
        self._host = opened
        self._type = type_ or self._best_type()

    def close(self) -> None:
        """Close the connection."""
        self._host.close()

    # --- facts

    def facts(self) -> Sequence[HostFacts]:
        """Return the one host."""
        with self._speaking():
            info = self._host.getInfo()
            memory = info[1] * MiB
            return (
                HostFacts(
                    name=self._host.getHostname(),
                    hypervisor=HypervisorKind.LIBVIRT,
                    cpus=info[2],
                    memory=memory,
                    version=self._version(),
                    storages=tuple(self._storages()),
                    networks=tuple(self._networks()),
                    load=self._load(memory),
                    limits=self._limits(info[0]),
                ),
            )

    def _version(self) -> str:
        number = self._host.getVersion()
        return f"{self._host.getType()} {number // 1000000}.{number // 1000 % 1000}"

    def _best_type(self) -> str:
        capabilities = ET.fromstring(self._host.getCapabilities())  # noqa: S314 - the host's own
        kinds = {domain.get("type") for domain in capabilities.iter("domain")}
        return next((each for each in ("kvm", "qemu", "test") if each in kinds), "kvm")

    def _storages(self) -> Iterator[HostStorage]:
        for pool in self._host.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
            kind = ET.fromstring(pool.XMLDesc()).get("type", "")  # noqa: S314
            _state, total, _used, free = pool.info()
            if kind in _FILE_POOLS:
                yield HostStorage(pool.name(), free, total, kind in _SHARED_POOLS)

    def _networks(self) -> Iterator[HostNetwork]:
        for network in self._host.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE):
            port = ET.fromstring(network.XMLDesc()).find("virtualport")  # noqa: S314
            tagged = port is not None and port.get("type") == "openvswitch"
            yield HostNetwork(network.name(), () if tagged else _NO_TAGS)

    def _limits(self, architecture: str) -> HostLimits:
        text = _unless_missing(
            lambda: self._host.getDomainCapabilities(None, architecture, "q35", self._type), ""
        )
        formats = (ImageFormat.QCOW2, ImageFormat.RAW, ImageFormat.VHDX)
        if not text:
            return HostLimits(architecture=architecture, formats=formats)
        known = ET.fromstring(text)  # noqa: S314
        firmware = {value.text for value in known.iterfind("os/enum[@name='firmware']/value")}
        secure = {value.text for value in known.iterfind("os/loader/enum[@name='secure']/value")}
        vcpu = known.find("vcpu")
        kinds = (FirmwareKind.BIOS,) + ((FirmwareKind.UEFI,) if "efi" in firmware else ())
        return HostLimits(
            firmware=kinds,
            secure_boot="yes" in secure,
            cpus=int(vcpu.get("max", "240")) if vcpu is not None else 240,
            disk=64 * TiB,
            formats=formats,
            sectors=(512, 4096),
            architecture=architecture,
        )

    def _load(self, memory: int) -> HostLoad:
        before, start = self._counters(), monotonic()
        sleep(_WINDOW_S)
        after, seconds = self._counters(), monotonic() - start
        busy, idle, requests, traffic = (b - a for a, b in zip(before, after, strict=True))
        return HostLoad(
            cpu_percent=100 * busy / (busy + idle) if busy + idle > 0 else 0.0,
            memory_used=self._memory_used(memory),
            iops=max(requests, 0) / seconds,
            network_bytes=max(traffic, 0) / seconds,
        )

    def _counters(self) -> tuple[int, int, int, int]:
        """Return busy and idle nanoseconds, and its guests' disk requests and bytes on the wire."""
        cpu: dict[str, int] = _unless_missing(
            lambda: self._host.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS), {}
        )
        busy = sum(cpu.get(key, 0) for key in ("kernel", "user"))
        wanted = libvirt.VIR_DOMAIN_STATS_BLOCK | libvirt.VIR_DOMAIN_STATS_INTERFACE
        running = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_RUNNING
        stats: list[Any] = _unless_missing(
            lambda: self._host.getAllDomainStats(wanted, running), []
        )
        requests = _sum(stats, ".rd.reqs", ".wr.reqs")
        return busy, cpu.get("idle", 0) + cpu.get("iowait", 0), requests, _sum(stats, ".bytes")

    def _memory_used(self, memory: int) -> int:
        stats: dict[str, int] = _unless_missing(lambda: self._host.getMemoryStats(-1), {})
        if not stats:
            domains = self._host.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return KiB * sum(int(domain.info()[2]) for domain in domains)
        free = stats.get("free", 0) + stats.get("buffers", 0) + stats.get("cached", 0)
        return max(memory - free * KiB, 0)

    # --- machines

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Upload the images into the order's pool and define the domain."""
        identity = libvirt_xml.identity(order)
        with self._speaking():
            if self._find(identity) is not None:
                return identity
            pool = self._host.storagePoolLookupByName(order.storage)
            for disk, image in zip(order.disks, images, strict=True):
                self._upload(pool, disk, image, undo, sent)
            domain = self._host.defineXML(libvirt_xml.domain(order, self._type))
            undo.later(f"the domain {order.vm.name}", partial(_undefine, domain))
            if order.vm.start_action is StartAction.ALWAYS:
                domain.setAutostart(1)
        return identity

    def power_on(self, host: str, id_: str) -> None:
        """Start the domain."""
        with self._speaking():
            domain = self._host.lookupByUUIDString(id_)
            if not domain.isActive():
                domain.create()

    def remove(self, host: str, order: Order) -> None:
        """Undefine the domain and delete its volumes."""
        with self._speaking():
            domain = self._find(libvirt_xml.identity(order))
            if domain is not None:
                if domain.isActive():
                    domain.destroy()
                _undefine(domain)
            pool = self._host.storagePoolLookupByName(order.storage)
            for disk in order.disks:
                if (volume := _volume(pool, disk.file)) is not None:
                    volume.delete()

    def _find(self, identity: str) -> Any | None:
        try:
            return self._host.lookupByUUIDString(identity)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def _upload(self, pool: Any, disk: OrderedDisk, image: Path, undo: Undo, sent: Sent) -> None:
        if (left := _volume(pool, disk.file)) is not None:
            left.delete()  # of an attempt that was cut off: there is no domain
        volume = pool.createXML(_volume_xml(disk))
        undo.later(f"the volume {disk.file} in {pool.name()}", volume.delete)
        stream = self._host.newStream()
        with image.open("rb") as file:
            try:
                volume.upload(stream, 0, image.stat().st_size)
                stream.sendAll(_read, (file, sent))
                stream.finish()
            except BaseException:
                with suppress(libvirt.libvirtError):
                    stream.abort()
                raise

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as error:
            raise HostError(host=self._host.getURI(), problem=str(error)) from error


def _undefine(domain: Any) -> None:
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)


def _volume(pool: Any, name: str) -> Any | None:
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL:
            return None
        raise


def _volume_xml(disk: OrderedDisk) -> str:
    root = ET.Element("volume")
    ET.SubElement(root, "name").text = disk.file
    ET.SubElement(root, "capacity").text = str(disk.size)
    ET.SubElement(root, "allocation").text = "0"
    target = ET.SubElement(root, "target")
    ET.SubElement(target, "format", type=libvirt_xml.IMAGE)
    return ET.tostring(root, encoding="unicode")


def _read(_stream: object, count: int, source: tuple[BinaryIO, Sent]) -> bytes:
    file, sent = source
    piece = file.read(count)
    sent(len(piece))
    return piece


def _sum(stats: list[Any], *endings: str) -> int:
    return sum(value for _, each in stats for key, value in each.items() if key.endswith(endings))


def _unless_missing(ask: Callable[[], T], otherwise: T) -> T:
    """Return the answer; `otherwise` where the driver has none."""
    try:
        return ask()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT:
            return otherwise
        raise
