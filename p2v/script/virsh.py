# SPDX-License-Identifier: GPL-3.0-or-later
"""Shell for libvirt: volumes are uploaded into a pool, the domain is defined from XML."""

from __future__ import annotations

from collections.abc import Iterator

from p2v.model.order import Order
from p2v.model.vm import StartAction
from p2v.script import libvirt_xml, posix
from p2v.script.quote import shell as quote

EXTENSION = "qcow2"


def script(order: Order) -> str:
    """Return the script that makes the order's virtual machine with virsh.

    Raises:
        UsageError: a name that can't be written down.
    """
    return "\n".join((*posix.head(order), *_main(order))) + "\n"


def _main(order: Order) -> Iterator[str]:
    yield f"uuid={libvirt_xml.identity(order)}"
    yield ""
    yield 'if virsh dominfo "$uuid" >/dev/null 2>&1; then'
    yield '    echo "It was made before." >&2'
    yield "    exit 0"
    yield "fi"
    yield from posix.receive(order)
    yield ""
    for disk in order.disks:
        file = quote(disk.file)
        yield f'virsh vol-delete {file} --pool "$storage" >/dev/null 2>&1 || true'
        yield f'virsh vol-create-as "$storage" {file} {disk.size} --format {libvirt_xml.IMAGE}'
        yield f'later virsh vol-delete {file} --pool "$storage"'
        yield f'virsh vol-upload {file} "$folder"/{file} --pool "$storage"'
    yield ""
    yield "virsh define /dev/stdin <<'DOMAIN'"
    yield from libvirt_xml.domain(order).splitlines()
    yield "DOMAIN"
    yield 'later virsh undefine "$uuid" --nvram'
    if order.vm.start_action is StartAction.ALWAYS:
        yield 'virsh autostart "$uuid"'
    if order.vm.power_on:
        yield 'virsh start "$uuid"'
    yield from posix.tail()
