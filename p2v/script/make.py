# SPDX-License-Identifier: GPL-3.0-or-later
"""From an order to the script of a hypervisor; one module each, loaded when it is wanted."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module

from p2v.model.host import HypervisorKind
from p2v.model.order import Order, make_order
from p2v.model.plan import ImageFormat, Plan

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


PLACES = {
    HypervisorKind.HYPERV: r"C:\ProgramData\Microsoft\Windows\Virtual Hard Disks",
    HypervisorKind.VMWARE: "datastore1",
    HypervisorKind.XENSERVER: "Local storage",
    HypervisorKind.PROXMOX: "local-lvm",
    HypervisorKind.LIBVIRT: "default",
}
"""Where each keeps disks if nobody has chosen a place."""


def make_plan_script(kind: HypervisorKind, plan: Plan, storage: str = "", host: str = "") -> str:
    """Return the script for a plan: it has no images yet, they are brought by hand.

    `storage` and `host` come before the plan's own.

    Raises:
        UsageError: the plan has no virtual machine, or a name that the hypervisor can't take.
    """
    name = re.sub(r"[^a-z0-9]+", "-", plan.name.lower()).strip("-") or "machine"
    order = make_order(plan, name, PLACES[kind], extension(kind))
    order = replace(order, storage=storage or order.storage)
    if host:
        order = replace(order, vm=replace(order.vm, host=host))
    return make_script(kind, order)


def usual_kind(image: ImageFormat) -> HypervisorKind:
    """Return whose hypervisor's format it is."""
    return HypervisorKind.HYPERV if image is ImageFormat.VHDX else HypervisorKind.LIBVIRT
