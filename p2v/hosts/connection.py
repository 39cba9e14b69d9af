# SPDX-License-Identifier: GPL-3.0-or-later
"""How to reach hosts: one connection may show several, as a vCenter or a cluster does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from p2v.model.errors import UsageError
from p2v.model.host import HostFacts, HostReserve


class ConnectionKind(StrEnum):
    """What is spoken; the name is that of the adapter's module."""

    HYPERV = "hyperv"
    VMWARE = "vmware"
    XENSERVER = "xenserver"
    PROXMOX = "proxmox"
    LIBVIRT = "libvirt"
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a hypervisor, and what its owner says of it.

    Attributes:
        name: of the connection.
        address: a host name, a URL or, for `static`, a file; each adapter says what it takes.
        secret: the password or token; never shown, not even by `repr`.
        fingerprint: SHA-256 of the certificate, hex, for one that no authority signed.
        options: what only one kind of adapter knows.
        group: where its hosts are in the tree, before what they say themselves.
        max_iops, network_rate: of each host; 0 where that is not known, or the host tells.
    """

    name: str
    kind: ConnectionKind
    address: str
    user: str = ""
    secret: str = field(default="", repr=False)
    fingerprint: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    group: tuple[str, ...] = ()
    max_iops: float = 0.0
    network_rate: float = 0.0
    reserve: HostReserve = field(default_factory=HostReserve)

    def check_options(self, known: set[str]) -> None:
        """Refuse options that the adapter does not know.

        Raises:
            UsageError: there is one.
        """
        if unknown := set(self.options) - known:
            raise UsageError(
                problem=f"{self.kind} has no option '{min(unknown)}'; it has "
                f"{', '.join(sorted(known)) or 'none'}"
            )

    def owned(self, facts: HostFacts) -> HostFacts:
        """Return the facts with what the owner says."""
        return replace(
            facts,
            group=(*self.group, *facts.group),
            max_iops=self.max_iops or facts.max_iops,
            network_rate=self.network_rate or facts.network_rate,
            reserve=self.reserve if self.kind is not ConnectionKind.STATIC else facts.reserve,
        )
