# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell for VMware ESXi and vCenter with govc 0.30 and later; its address is in GOVC_URL.

Source: https://github.com/vmware/govmomi/blob/main/govc/USAGE.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order
from p2v.model.units import MiB
from p2v.model.vm import OsFamily, SecureBoot
from p2v.script import posix
from p2v.script.quote import shell as quote

EXTENSION = "vmdk"
GUESTS = {
    OsFamily.LINUX: "otherLinux64Guest",
    OsFamily.WINDOWS: "windows9Server64Guest",
    OsFamily.OTHER: "otherGuest64",
}

ADAPTERS = {OsFamily.LINUX: "vmxnet3", OsFamily.WINDOWS: "e1000e", OsFamily.OTHER: "e1000e"}
"""What the guest has a driver for before VMware's tools are in it."""


def memory_mib(memory: int) -> int:
    """Return bytes of memory as VMware takes them: in multiples of 4 MiB."""
    return -(-memory // (4 * MiB)) * 4


def script(order: Order) -> str:
    """Return the script that makes the order's virtual machine with govc.

    Raises:
        UsageError: a name that can't be written down.
    """
    return "\n".join((*posix.head(order), *posix.marks(order), *_main(order))) + "\n"


def _main(order: Order) -> Iterator[str]:
    vm = order.vm
    yield f"home={quote(order.migration)}"
    yield f"host={quote(vm.host)}"
    yield ""
    yield 'if govc vm.info -json "$name" | grep -qF "\\"$mark\\""; then'
    yield '    echo "It was made before." >&2'
    yield "    exit 0"
    yield "fi"
    yield from posix.receive(order)
    yield ""
    yield 'later govc datastore.rm -f -ds "$storage" "$home"'
    for disk in order.disks:
        yield f'govc import.vmdk -ds "$storage" "$folder"/{quote(disk.file)} "$home"'
    firmware = "efi" if vm.firmware is FirmwareKind.UEFI else "bios"
    yield 'govc vm.create -on=false -ds "$storage" ${host:+-host "$host"} \\'
    yield f"    -c {vm.cpus} -m {memory_mib(vm.memory)} -g {GUESTS[vm.os]} -firmware {firmware} \\"
    yield '    -disk.controller pvscsi -annotation "$unfinished" "$name"'
    yield 'later govc vm.destroy "$name"'
    yield 'govc device.remove -vm "$name" ethernet-0'
    where = ""
    if vm.os is not OsFamily.LINUX:  # as in p2v.hosts.vmware_spec
        yield 'controller=$(govc device.sata.add -vm "$name")'
        where = ' -controller "$controller"'
    for disk in order.disks:
        stem = quote(disk.file.removesuffix(f".{EXTENSION}"))
        path = f'"$home"/{stem}/{quote(disk.file)}'
        yield f'govc vm.disk.attach -vm "$name" -ds "$storage" -link=false{where} -disk {path}'
    for number, nic in enumerate(nic for nic in vm.nics if nic.network):
        mac = f" -net.address {quote(nic.mac)}" if nic.mac else ""
        yield f'govc vm.network.add -vm "$name" -net {quote(nic.network)} \\'
        yield f"    -net.adapter {ADAPTERS[vm.os]}{mac}"
        if not nic.connected:
            yield f'govc device.disconnect -vm "$name" ethernet-{number}'
    if vm.secure_boot is not SecureBoot.OFF:
        yield 'govc device.boot -vm "$name" -secure'
    yield 'govc vm.change -vm "$name" -annotation "$mark"'
    if vm.power_on:
        yield 'govc vm.power -on "$name"'
    yield from posix.tail()
