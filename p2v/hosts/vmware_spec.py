# SPDX-License-Identifier: GPL-3.0-or-later
"""An order as the vSphere API's configuration of a virtual machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pyVmomi import vim

from p2v.model.errors import HostError
from p2v.model.machine import FirmwareKind
from p2v.model.order import Order, OrderedDisk
from p2v.model.units import KiB
from p2v.model.vm import OsFamily, SecureBoot, VmNic
from p2v.script.govc import GUESTS, memory_mib

_CONTROLLERS: dict[OsFamily, Any] = {
    OsFamily.LINUX: vim.vm.device.ParaVirtualSCSIController,
    OsFamily.WINDOWS: vim.vm.device.VirtualAHCIController,
    OsFamily.OTHER: vim.vm.device.VirtualAHCIController,
}
"""A converted Linux has a driver for the first, and every Windows since 7 for the second."""
_CARDS: dict[OsFamily, Any] = {
    OsFamily.LINUX: vim.vm.device.VirtualVmxnet3,
    OsFamily.WINDOWS: vim.vm.device.VirtualE1000e,
    OsFamily.OTHER: vim.vm.device.VirtualE1000e,
}
_SCSI = (*range(7), *range(8, 16))
"""Units of a bus; 7 is the controller's own place."""
_AHCI = tuple(range(30))
_KEY = 100
"""Keys of new devices are negative and only tell them apart."""


def config_spec(order: Order, host: Any) -> Any:
    """Return the ConfigSpec of the order's machine; networks are looked up on `host`.

    Raises:
        HostError: the host has no such network.
    """
    vm = order.vm
    efi = vm.firmware is FirmwareKind.UEFI
    return vim.vm.ConfigSpec(
        name=vm.name,
        annotation=order.unfinished_mark,
        numCPUs=vm.cpus,
        memoryMB=memory_mib(vm.memory),
        guestId=GUESTS[vm.os],
        firmware="efi" if efi else "bios",
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=vm.secure_boot is not SecureBoot.OFF),
        files=vim.vm.FileInfo(vmPathName=f"[{order.storage}]"),
        deviceChange=[
            vim.vm.device.VirtualDeviceSpec(operation="add", **change)
            for change in (*_disks(order), *_cards(order, host))
        ],
    )


def _disks(order: Order) -> Iterator[dict[str, Any]]:
    controller = _CONTROLLERS[order.vm.os]
    scsi = {"sharedBus": "noSharing"} if order.vm.os is OsFamily.LINUX else {}
    for bus in sorted({bus for bus, _ in places(order)}):
        yield {"device": controller(key=-(bus + 1), busNumber=bus, **scsi)}
    for number, (place, disk) in enumerate(zip(places(order), order.disks, strict=True)):
        device = _disk(number, place, disk, order.storage)
        yield {"device": device, "fileOperation": "create"}


def places(order: Order) -> list[tuple[int, int]]:
    """Return bus and unit of each disk."""
    units = _SCSI if order.vm.os is OsFamily.LINUX else _AHCI
    found = (divmod(number, len(units)) for number in range(len(order.disks)))
    return [(bus, units[place]) for bus, place in found]


def _disk(number: int, place: tuple[int, int], disk: OrderedDisk, storage: str) -> Any:
    bus, unit = place
    return vim.vm.device.VirtualDisk(
        key=-(_KEY + number),
        controllerKey=-(bus + 1),
        unitNumber=unit,
        capacityInKB=-(-disk.size // KiB),
        backing=vim.vm.device.VirtualDisk.FlatVer2BackingInfo(
            fileName=f"[{storage}]", diskMode="persistent", thinProvisioned=True
        ),
    )


def _cards(order: Order, host: Any) -> Iterator[dict[str, Any]]:
    card = _CARDS[order.vm.os]
    for number, nic in enumerate(nic for nic in order.vm.nics if nic.network):
        yield {
            "device": card(
                key=-(2 * _KEY + number),
                backing=_backing(nic, host),
                addressType="manual" if nic.mac else "generated",
                macAddress=nic.mac or None,
                connectable=vim.vm.device.VirtualDevice.ConnectInfo(
                    startConnected=nic.connected,
                    connected=nic.connected,
                    allowGuestControl=True,
                ),
            )
        }


def _backing(nic: VmNic, host: Any) -> Any:
    card = vim.vm.device.VirtualEthernetCard
    network = next((each for each in host.network if each.name == nic.network), None)
    if network is None:
        raise HostError(host=host.name, problem=f"it has no network '{nic.network}'")
    if isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        group: Any = network
        port = vim.dvs.PortConnection(
            portgroupKey=group.key, switchUuid=group.config.distributedVirtualSwitch.uuid
        )
        return card.DistributedVirtualPortBackingInfo(port=port)
    return card.NetworkBackingInfo(deviceName=network.name, network=network)
