# SPDX-License-Identifier: GPL-3.0-or-later
"""An order: all that making the virtual machine of a migration on a host takes.

Scripts and adapters are made from the same order, so that what is shown is what is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from p2v.model.errors import UsageError
from p2v.model.plan import Plan
from p2v.model.vm import OsFamily, VmSettings


@dataclass(frozen=True, slots=True)
class OrderedDisk:
    """A disk of the virtual machine and where its image comes from.

    Attributes:
        file: what the image is called on the host; made of the migration's id, so it is harmless.
        size: of the disk, bytes.
        url: where the host fetches it, once; empty where the image is brought by other means.
        sha256: of the image file, hex; empty where it is not known.
        length: of the image file, bytes; 0 where it is not known.
    """

    file: str
    size: int
    url: str = ""
    sha256: str = ""
    length: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """A virtual machine to be made.

    Attributes:
        migration: its id; the mark by which the virtual machine is found again.
        vm: with a name.
        disks: the first is the one to boot from.
        storage: datastore, pool, storage repository or folder on the host.
        fingerprint: SHA-256 of the converter's certificate, hex.
        public_key: SHA-256 of the certificate's public key, base64, as curl pins it.
        plain: the guest knows no hypervisor's devices: it gets those that every system knows.
    """

    migration: str
    vm: VmSettings
    disks: tuple[OrderedDisk, ...]
    storage: str
    fingerprint: str = ""
    public_key: str = ""
    plain: bool = False

    @property
    def mark(self) -> str:
        """What the finished virtual machine's notes say."""
        return f"p2v migration {self.migration}"

    @property
    def unfinished_mark(self) -> str:
        """What they say until it is finished."""
        return f"p2v migration {self.migration} (being made)"


def make_order(plan: Plan, migration: str, storage: str, extension: str) -> Order:
    """Return the order for the plan's virtual machine; its images have no address yet.

    Raises:
        UsageError: the plan asks for no virtual machine.
    """
    if plan.vm is None:
        raise UsageError(
            problem=f"the plan '{plan.name}' has no [vm] section, so there is no machine to make"
        )
    disks = tuple(
        OrderedDisk(f"{migration}-{number}.{extension}", disk.size)
        for number, disk in enumerate(plan.disks)
    )
    vm = replace(plan.vm, name=plan.vm.name or plan.name)
    plain = not plan.convert and vm.os is not OsFamily.LINUX
    return Order(migration, vm, disks, plan.vm.storage or storage, plain=plain)


def with_images(order: Order, images: Sequence[tuple[str, str, int]]) -> Order:
    """Return the order with the address, SHA-256 and length of each disk's image."""
    disks = tuple(
        replace(disk, url=url, sha256=sha256, length=length)
        for disk, (url, sha256, length) in zip(order.disks, images, strict=True)
    )
    return replace(order, disks=disks)
