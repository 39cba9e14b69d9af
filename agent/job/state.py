# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job says of itself, once a second: a document that any screen can show (docs/tui.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from p2v.model.document import decode, encode

STARTING = "starting"


@dataclass(frozen=True, slots=True)
class DiskState:
    """A disk of the plan; `cells` is its chart (agent.stream.chart), a letter a part."""

    name: str
    size: int
    done: int = 0
    cells: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job ended without an image."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class JobState:
    """A job as it stands; sizes are bytes, rates bytes a second.

    `rates` and `churns` are those of the last minutes, one a second.
    `exit_code` is None while it runs. `migration` is empty until the converter has named it.
    """

    name: str
    target: str
    pid: int
    migration: str = ""
    phase: str = STARTING
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta_s: float | None = None
    elapsed_s: float = 0.0
    read: int = 0
    zero: int = 0
    same: int = 0
    sent: int = 0
    wire: int = 0
    durable: int = 0
    reconnects: int = 0
    codec: str = ""
    problem: str = ""
    dirty: int | None = None
    """Of a live capture: bytes written since they were read, which wait to be sent again."""
    churn: float = 0.0
    """How fast `dirty` grows."""
    outlook: str = ""
    """Of a live capture: what is to be expected, in words."""
    freeze_s: float | None = None
    """How long the file systems were frozen in the end."""
    paused: bool = False
    bwlimit: int = 0
    disks: tuple[DiskState, ...] = ()
    rates: tuple[int, ...] = ()
    churns: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    failure: Failure | None = None
    discarded: bool = False
    """Whether the converter was told to delete what it had."""
    exit_code: int | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.exit_code is not None

    def to_json(self) -> dict[str, Any]:
        """Return it as dicts, lists and plain values."""
        return cast(dict[str, Any], encode(self))

    @classmethod
    def from_json(cls, document: object) -> JobState:
        """Return the state that `document` (see `to_json`) describes.

        Raises:
            UsageError: it is none.
        """
        return decode(cls, document, "job")
