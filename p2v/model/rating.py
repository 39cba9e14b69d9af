# SPDX-License-Identifier: GPL-3.0-or-later
"""A rating as plain data: stars, every term and reason with its numbers, what would change it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from p2v.model.document import decode, encode
from p2v.model.errors import UsageError
from p2v.model.host import HypervisorKind


class Goal(StrEnum):
    """What a placement strives for."""

    BALANCE = "balance"
    """The least busy host is best."""
    CONSOLIDATE = "consolidate"
    """The fullest host that still has room is best."""


class Resource(StrEnum):
    """What a term is about; the order is that of the terms."""

    CPU = "cpu"
    MEMORY = "memory"
    DISK = "disk"
    NETWORK = "network"


class Reason(StrEnum):
    """Why a host gets no star. Stable: scripts and screens may rely on them."""

    SILENT = "not-answering"
    MAINTENANCE = "maintenance"
    CPU = "not-enough-cpu"
    MEMORY = "not-enough-memory"
    IOPS = "not-enough-iops"
    BANDWIDTH = "not-enough-bandwidth"
    SPACE = "not-enough-disk-space"
    CPU_COUNT = "too-many-cpus"
    MEMORY_LIMIT = "too-much-memory"
    DISK_SIZE = "disk-too-large"
    SECTOR = "sector-size"
    FORMAT = "image-format"
    NETWORK = "no-such-network"
    VLAN = "no-such-vlan"
    FIRMWARE = "firmware"
    SECURE_BOOT = "secure-boot"
    ARCHITECTURE = "architecture"
    STORAGE = "no-such-storage"
    NOT_CLUSTERED = "not-clustered"


@dataclass(frozen=True, slots=True)
class Weights:
    """How much each term counts; only their proportion matters."""

    cpu: float = 1.0
    memory: float = 1.0
    disk: float = 1.0
    network: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Weights:
        """Return the weights in ``cpu=2,disk=0``; what it leaves out counts once.

        Raises:
            UsageError: it is not like that.
        """
        found: dict[str, float] = {}
        for word in filter(None, text.split(",")):
            key, _, value = word.partition("=")
            try:
                found[key] = float(value)
            except ValueError:
                raise UsageError(problem=f"the weight '{word}' is not like cpu=2") from None
            if key not in cls.__slots__:
                raise UsageError(problem=f"the weight '{key}' is not {' or '.join(cls.__slots__)}")
        return cls(**found)


@dataclass(frozen=True, slots=True)
class Term:
    """One of the four terms: ``value = 1 - (used + added) / (capacity - reserve)``.

    Attributes:
        used, added: what the host uses now, and what the virtual machine brings.
        capacity, reserve: in the same unit.
        unit: ``%``, ``bytes``, ``operations/s`` or ``bytes/s``.
        value: 0 to 1; None where the host's capacity is not known, and the term does not count.
        weight: its part of all weights that count, 0 to 1.
        stars: what it contributes, by the goal.
        text: the same in words, with the numbers.
    """

    resource: Resource
    used: float
    added: float
    capacity: float
    reserve: float
    unit: str
    value: float | None
    weight: float
    stars: float
    text: str


@dataclass(frozen=True, slots=True)
class ZeroReason:
    """Why a host gets no star; `missing` is how much is lacking, 0 where that is no amount."""

    code: Reason
    text: str
    missing: float = 0.0


@dataclass(frozen=True, slots=True)
class Improvement:
    """What would change the rating: ``+64 GiB memory -> 4 stars``."""

    change: str
    stars: float


@dataclass(frozen=True, slots=True)
class Rating:
    """How well a host suits a virtual machine.

    Attributes:
        stars: 0 to 5 in half steps; 0 always has a reason.
        score: before rounding, 0 to 5.
        storage: where the disks would go; empty where no place is large enough.
        terms: always four, in the order of `Resource`; empty for a host that does not answer.
        reasons: all of them, not only the first.
        notes: what else one should know.
        improvements: what would give more stars.
        age_s: of the newest facts; None where they were given by hand.
        samples: how many measurements the host's load is the average of.
    """

    host: str
    hypervisor: HypervisorKind
    group: tuple[str, ...]
    goal: Goal
    stars: float
    score: float
    storage: str = ""
    terms: tuple[Term, ...] = ()
    reasons: tuple[ZeroReason, ...] = ()
    notes: tuple[str, ...] = ()
    improvements: tuple[Improvement, ...] = ()
    age_s: float | None = None
    samples: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the document of docs/placement.md."""
        return cast(dict[str, Any], encode(self))

    @classmethod
    def from_json(cls, document: object) -> Rating:
        """Return the rating that `document` (see `to_json`) describes.

        Raises:
            UsageError: an unknown or missing key, or a value of the wrong type.
        """
        return decode(cls, document, "rating")
