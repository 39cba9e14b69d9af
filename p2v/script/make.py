# SPDX-License-Identifier: GPL-3.0-or-later
"""From an order to the script of a hypervisor; one module each, loaded when it is wanted."""

from __future__ import annotations

from importlib import import_module

from p2v.model.host import HypervisorKind
from p2v.model.order import Order

MODULES = {
    HypervisorKind.HYPERV: "hyperv",
    HypervisorKind.VMWARE: "govc",
    HypervisorKind.XENSERVER: "xe",
    HypervisorKind.PROXMOX: "qm",
    HypervisorKind.LIBVIRT: "virsh",
}
"""Each module offers `script(order) -> str`, pure, and `EXTENSION`, that of the images it takes."""


def make_script(kind: HypervisorKind, order: Order) -> str:
    """Return the script that makes the order's virtual machine.

    It is run on the host; that for VMware anywhere that govc reaches vCenter or ESXi from.

    Raises:
        UsageError: a name that the hypervisor can't take.
    """
    text: str = import_module(f"p2v.script.{MODULES[kind]}").script(order)
    return text


def extension(kind: HypervisorKind) -> str:
    """Return what the names of the images end with that the hypervisor takes."""
    text: str = import_module(f"p2v.script.{MODULES[kind]}").EXTENSION
    return text
