# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell for Proxmox VE 7.2 and later, where qm imports images into any storage.

Source: https://pve.proxmox.com/pve-docs/qm.1.html (`import-from`).
"""

from __future__ import annotations

from collections.abc import Iterator

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order
from p2v.model.units import MiB
from p2v.model.vm import OsFamily, SecureBoot, StartAction, VmNic
from p2v.script import posix
from p2v.script.quote import label
from p2v.script.quote import shell as quote

EXTENSION = "qcow2"
_SATA_PORTS = 6
OS_TYPES = {OsFamily.LINUX: "l26", OsFamily.WINDOWS: "win10", OsFamily.OTHER: "other"}


def options(order: Order) -> dict[str, str]:
    """Return the options of `qm create`, which are those of the API, apart from the disks."""
    vm = order.vm
    found = {
        "name": label(vm.name),
        "description": order.unfinished_mark,
        "memory": str(-(-vm.memory // MiB)),
        "cores": str(vm.cpus),
        "cpu": "host",  # Proxmox's default lacks what systems of today are built for
        "ostype": OS_TYPES[vm.os],
        "scsihw": "virtio-scsi-single",
        "agent": "enabled=1",
        "onboot": "1" if vm.start_action is StartAction.ALWAYS else "0",
    }
    if vm.firmware is FirmwareKind.UEFI:
        enrolled = 0 if vm.secure_boot is SecureBoot.OFF else 1
        found["bios"] = "ovmf"
        found["machine"] = "q35"
        found["efidisk0"] = f"{order.storage}:1,efitype=4m,pre-enrolled-keys={enrolled}"
    for number, nic in enumerate(vm.nics):
        if nic.network:
            found[f"net{number}"] = network(nic, "e1000e" if order.plain else "virtio")
    return found


def place(order: Order, number: int) -> str:
    """Return where a disk is plugged in: ``scsi0`` ..., or ``sata0`` as far as there are six."""
    return f"sata{number}" if order.plain and number < _SATA_PORTS else f"scsi{number}"


def network(nic: VmNic, model: str) -> str:
    """Return a NIC as the value of `net0` ...

    Raises:
        UsageError: the bridge's name would end the value.
    """
    parts = [f"{model}={nic.mac.upper()}" if nic.mac else model, f"bridge={label(nic.network)}"]
    if nic.vlan:
        parts.append(f"tag={nic.vlan}")
    if not nic.connected:
        parts.append("link_down=1")
    return ",".join(parts)


def script(order: Order) -> str:
    """Return the script that makes the order's virtual machine with qm, on a node.

    Raises:
        UsageError: a name that can't be written down.
    """
    return "\n".join((*posix.head(order), *_main(order))) + "\n"


def _main(order: Order) -> Iterator[str]:
    yield f"mark={quote(order.mark)}"
    yield f"unfinished={quote(order.unfinished_mark)}"
    yield ""
    yield "# qm shows a description as one line, with its last newline encoded."
    yield "for id in $(qm list | awk 'NR > 1 { print $1 }'); do"
    yield "    description=$(qm config \"$id\" | sed -n 's/^description: //p')"
    yield "    case ${description%\\%0A} in"
    yield '        "$mark") echo "It was made before: $id." >&2; exit 0;;'
    yield '        "$unfinished") qm destroy "$id" --purge 1;;'
    yield "    esac"
    yield "done"
    yield from posix.receive(order)
    yield ""
    yield "id=$(pvesh get /cluster/nextid)"
    words = " ".join(f"--{key} {quote(value)}" for key, value in options(order).items())
    yield f'qm create "$id" {words}'
    yield 'later qm destroy "$id" --purge 1'
    for number, image in enumerate(order.disks):
        yield f"file={quote(image.file)}"
        disk = '"$storage:0,import-from=$folder/$file,discard=on"'
        yield f'qm set "$id" --{place(order, number)} {disk}'
    yield f'qm set "$id" --boot order={place(order, 0)} --description "$mark"'
    if order.vm.power_on:
        yield 'qm start "$id"'
    yield from posix.tail()
