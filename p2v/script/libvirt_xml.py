# SPDX-License-Identifier: GPL-3.0-or-later
"""An order as a libvirt domain; source: https://libvirt.org/formatdomain.html."""

from __future__ import annotations

import uuid
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order
from p2v.model.vm import OsFamily, SecureBoot, VmNic
from p2v.script.quote import shell

_NAMESPACE = uuid.UUID("7e0ff2a4-56d1-4a0c-9b67-4f8c0f7b9f6e")
_KiB = 1024
IMAGE = "qcow2"


def identity(order: Order) -> str:
    """Return the domain's UUID: always the same for a migration, so that it is found again."""
    return str(uuid.uuid5(_NAMESPACE, order.migration))


def domain(order: Order, type_: str = "kvm", networks: Mapping[str, str] | None = None) -> str:
    """Return the domain's XML; its disks are volumes of the order's pool.

    `networks` says for each network whether it is a libvirt ``network`` or a ``bridge``, by name;
    those that it does not know are libvirt networks.

    Raises:
        UsageError: a name that can't be written down.
    """
    vm = order.vm
    for text in (vm.name, order.storage, *(nic.network for nic in vm.nics)):
        shell(text)  # refuses what can't be printed, which XML can't hold
    root = ET.Element("domain", type=type_)
    _text(root, "name", vm.name)
    _text(root, "uuid", identity(order))
    _text(root, "title", vm.name)
    _text(root, "description", order.mark)
    _text(root, "memory", str(-(-vm.memory // _KiB)), unit="KiB")
    _text(root, "vcpu", str(vm.cpus))
    _firmware(root, order)
    features = ET.SubElement(root, "features")
    for name in ("acpi", "apic"):
        ET.SubElement(features, name)
    if vm.secure_boot is not SecureBoot.OFF:
        ET.SubElement(features, "smm", state="on")
    if type_ == "kvm":
        ET.SubElement(root, "cpu", mode="host-model")
    offset = "localtime" if vm.os is OsFamily.WINDOWS else "utc"
    ET.SubElement(root, "clock", offset=offset)
    _text(root, "on_crash", "restart")
    devices = ET.SubElement(root, "devices")
    for number in range(len(order.disks)):
        _disk(devices, order, number)
    if not order.plain:
        ET.SubElement(devices, "controller", type="scsi", index="0", model="virtio-scsi")
    for nic in vm.nics:
        _nic(devices, nic, networks or {}, "e1000e" if order.plain else "virtio")
    _console(devices)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode")


def _firmware(root: ET.Element, order: Order) -> None:
    vm = order.vm
    if vm.firmware is FirmwareKind.BIOS:
        os = ET.SubElement(root, "os")
        _text(os, "type", "hvm", arch=vm.architecture, machine="q35")
        return
    os = ET.SubElement(root, "os", firmware="efi")
    _text(os, "type", "hvm", arch=vm.architecture, machine="q35")
    secure = "no" if vm.secure_boot is SecureBoot.OFF else "yes"
    features = ET.SubElement(os, "firmware")
    ET.SubElement(features, "feature", enabled=secure, name="secure-boot")
    ET.SubElement(features, "feature", enabled=secure, name="enrolled-keys")


def _disk(devices: ET.Element, order: Order, number: int) -> None:
    disk = ET.SubElement(devices, "disk", type="volume", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=IMAGE, discard="unmap")
    ET.SubElement(disk, "source", pool=order.storage, volume=order.disks[number].file)
    ET.SubElement(disk, "target", dev=f"sd{_letters(number)}", bus=_bus(order))
    ET.SubElement(disk, "boot", order=str(number + 1))


def _bus(order: Order) -> str:
    return "sata" if order.plain else "scsi"


def _letters(number: int) -> str:
    """Return a, b ... z, aa, ab ... as the kernel counts disks."""
    text = ""
    number += 1
    while number:
        number, digit = divmod(number - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _nic(devices: ET.Element, nic: VmNic, networks: Mapping[str, str], model: str) -> None:
    """Add an adapter; libvirt has none without a network, so one without is left out."""
    if not nic.network:
        return
    kind = networks.get(nic.network, "network")
    interface = ET.SubElement(devices, "interface", type=kind)
    ET.SubElement(interface, "source", {kind: nic.network})
    if nic.mac:
        ET.SubElement(interface, "mac", address=nic.mac)
    ET.SubElement(interface, "model", type=model)
    if nic.vlan:
        vlan = ET.SubElement(interface, "vlan")
        ET.SubElement(vlan, "tag", id=str(nic.vlan))
    if not nic.connected:
        ET.SubElement(interface, "link", state="down")


def _console(devices: ET.Element) -> None:
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "target", port="0")
    channel = ET.SubElement(devices, "channel", type="unix")
    ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    graphics = ET.SubElement(devices, "graphics", type="vnc", autoport="yes")
    ET.SubElement(graphics, "listen", type="address", address="127.0.0.1")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga")


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = text
