# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell for VMware ESXi and vCenter with govc 0.24 and later; its address is in GOVC_URL.

Source: https://github.com/vmware/govmomi/blob/main/govc/USAGE.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order
from p2v.model.units import MiB
from p2v.model.vm import OsFamily, SecureBoot, VmNic
from p2v.script import posix
from p2v.script.quote import shell as quote

EXTENSION = "vmdk"
_SPECIAL = re.compile(r"[*?\[\]\\]")
_IDE_DISKS = 4
GUESTS = {
    OsFamily.LINUX: "otherLinux64Guest",
    OsFamily.WINDOWS: "windows9Server64Guest",
    OsFamily.OTHER: "otherGuest64",
}

CONTROLLERS = {
    OsFamily.LINUX: "pvscsi",
    OsFamily.WINDOWS: "lsilogic-sas",
    OsFamily.OTHER: "lsilogic",
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


def pattern(name: str) -> str:
    """Return what govc finds just the machine of that name by: it takes names for patterns.

    vCenter escapes three characters in the names that it gives; a backslash before a special
    character of Go's path.Match makes it an ordinary one.
    """
    for plain, escaped in (("%", "%25"), ("/", "%2f"), ("\\", "%5c")):
        name = name.replace(plain, escaped)
    return _SPECIAL.sub(r"\\\g<0>", name)


def _main(order: Order) -> Iterator[str]:
    vm = order.vm
    yield f"vm={quote(pattern(vm.name))}"
    yield f"home={quote(order.migration)}"
    yield f"host={quote(vm.host)}"
    yield ""
    yield "# card NUMBER: what govc calls the adapter of that number, the first being 1."
    yield "card() {"
    yield """    govc device.ls -vm "$vm" | awk '/^ethernet-/ { print $1 }' | sed -n "$1p\""""
    yield "}"
    yield ""
    yield 'found=$(govc vm.info -json -- "$vm" || true)'
    yield 'if grep -qF "\\"$mark\\"" <<<"$found"; then'
    yield '    echo "It was made before." >&2'
    yield "    exit 0"
    yield "fi"
    yield 'if grep -qF "\\"$unfinished\\"" <<<"$found"; then govc vm.destroy -- "$vm"; fi'
    yield 'govc datastore.rm -f -ds "$storage" "$home"'
    yield from posix.receive(order)
    yield ""
    yield 'later govc datastore.rm -f -ds "$storage" "$home"'
    for disk in order.disks:
        yield f'govc import.vmdk -ds "$storage" "$folder"/{quote(disk.file)} "$home"'
    nics = [nic for nic in vm.nics if nic.network]
    first, more = (nics[0] if nics else None), nics[1:]
    if first is None:  # there is no making without one
        yield "network=$(govc find / -type n | head -n 1)"
    firmware = "efi" if vm.firmware is FirmwareKind.UEFI else "bios"
    yield 'govc vm.create -on=false -ds "$storage" ${host:+-host "$host"} \\'
    yield f"    -c {vm.cpus} -m {memory_mib(vm.memory)} -g {GUESTS[vm.os]} -firmware {firmware} \\"
    yield f"    -disk.controller {CONTROLLERS[vm.os]} {_network(first, vm.os)} \\"
    yield '    -annotation "$unfinished" -- "$name"'
    yield 'later govc vm.destroy -- "$vm"'
    if first is None:
        yield 'govc device.remove -vm "$vm" "$(card 1)"'
    for number, disk in enumerate(order.disks):
        words = f'-vm "$vm" -ds "$storage" -link=false{_place(vm.os, number)}'
        yield f'govc vm.disk.attach {words} -disk "$home"/{quote(disk.file)}'
    for nic in more:
        yield f'govc vm.network.add -vm "$vm" {_network(nic, vm.os)}'
    for number, nic in enumerate(nics, 1):
        if not nic.connected:
            yield f'govc device.disconnect -vm "$vm" "$(card {number})"'
    if vm.secure_boot is not SecureBoot.OFF:
        yield 'govc device.boot -vm "$vm" -firmware efi -secure'
    yield 'govc vm.change -vm "$vm" -annotation "$mark"'
    if vm.power_on:
        yield 'govc vm.power -on -- "$vm"'
    yield from posix.tail()


def _network(nic: VmNic | None, os: OsFamily) -> str:
    if nic is None:
        return '-net "$network"'
    mac = f" -net.address {quote(nic.mac)}" if nic.mac else ""
    return f"-net {quote(nic.network)} -net.adapter {ADAPTERS[os]}{mac}"


def _place(os: OsFamily, number: int) -> str:
    """Return on which controller a disk goes; every machine has two of IDE, for two each."""
    if os is OsFamily.LINUX or number >= _IDE_DISKS:
        return ""
    return f" -controller ide-{200 + number // 2}"
