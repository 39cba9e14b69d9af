# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell for XenServer and XCP-ng 8: disks are imported as raw images.

Source: https://docs.xenserver.com/en-us/xenserver/8/command-line-interface.html.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2v.model.machine import FirmwareKind
from p2v.model.order import Order
from p2v.model.vm import SecureBoot
from p2v.script import posix
from p2v.script.quote import shell as quote

EXTENSION = "raw"


def script(order: Order) -> str:
    """Return the script that makes the order's virtual machine with xe, in the control domain.

    Raises:
        UsageError: a name that can't be written down.
    """
    return "\n".join((*posix.head(order), *posix.marks(order), *_functions(), *_main(order))) + "\n"


def _functions() -> Iterator[str]:
    yield ""
    yield "# only KIND NAME: the UUID of the one object of that name."
    yield "only() {"
    yield "    local found"
    yield '    found=$(xe "$1-list" params=uuid --minimal name-label="$2")'
    yield '    case $found in ""|*,*) echo "There is no one $1 named $2." >&2; return 1;; esac'
    yield '    echo "$found"'
    yield "}"


def _main(order: Order) -> Iterator[str]:
    vm = order.vm
    yield ""
    yield 'made=$(xe vm-list params=uuid --minimal name-description="$mark")'
    yield 'if [ -n "$made" ]; then'
    yield '    echo "It was made before: $made." >&2'
    yield "    exit 0"
    yield "fi"
    yield 'half=$(xe vm-list params=uuid --minimal name-description="$unfinished")'
    yield 'if [ -n "$half" ]; then xe vm-uninstall uuid="$half" force=true; fi'
    yield 'sr=$(only sr "$storage")'
    for number, nic in enumerate(vm.nics):
        if nic.network:
            yield f"network{number}=$(only network {quote(nic.network)})"
    yield from posix.receive(order)
    yield ""
    yield "vm=$(xe vm-install new-name-label=\"$name\" template='Other install media')"
    yield 'later xe vm-uninstall uuid="$vm" force=true'
    yield 'xe vm-param-set uuid="$vm" name-description="$unfinished"'
    yield f'xe vm-memory-limits-set uuid="$vm" static-min={vm.memory} dynamic-min={vm.memory} \\'
    yield f"    dynamic-max={vm.memory} static-max={vm.memory}"
    yield f'xe vm-param-set uuid="$vm" VCPUs-max={vm.cpus}'
    yield f'xe vm-param-set uuid="$vm" VCPUs-at-startup={vm.cpus}'
    if vm.firmware is FirmwareKind.UEFI:
        secure = "false" if vm.secure_boot is SecureBoot.OFF else "true"
        yield 'xe vm-param-set uuid="$vm" HVM-boot-params:firmware=uefi \\'
        yield f"    platform:secureboot={secure}"
    for number, disk in enumerate(order.disks):
        bootable = "true" if number == 0 else "false"
        yield f'vdi=$(xe vdi-create sr-uuid="$sr" name-label={quote(disk.file)} type=user \\'
        yield f"    virtual-size={disk.size})"
        yield 'later xe vdi-destroy uuid="$vdi"'
        yield f'xe vdi-import uuid="$vdi" filename="$folder"/{quote(disk.file)} format=raw'
        yield f'xe vbd-create vm-uuid="$vm" vdi-uuid="$vdi" device={number} mode=RW type=Disk \\'
        yield f"    bootable={bootable}"
    for number, nic in enumerate(vm.nics):
        if not nic.network:
            continue
        mac = nic.mac or "random"
        create = f'xe vif-create vm-uuid="$vm" network-uuid="$network{number}" mac={mac} \\'
        if nic.connected:
            yield create
            yield f"    device={number}"
        else:
            yield f"vif=$({create}"
            yield f"    device={number})"
            yield 'xe vif-param-set uuid="$vif" locking-mode=disabled'
    yield 'xe vm-param-set uuid="$vm" name-description="$mark"'
    if vm.power_on:
        yield 'xe vm-start uuid="$vm"'
    yield from posix.tail()
