# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits: what a conversion changes in a guest, as plain data.

A planner returns edits and touches nothing; `p2v.guest.apply` carries them out in order, inside the
appliance, and notes what was there before and after each. Paths are the guest's own, with its file
systems mounted as it mounts them. Windows paths use forward slashes, and find names whatever their
case; registry keys use backslashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from p2v.model.machine import Problem


class Area(StrEnum):
    """The part of the guest that an edit belongs to; reports are grouped by it."""

    DRIVERS = "drivers"
    BOOT = "boot"
    STORAGE = "storage"
    NETWORK = "network"
    SERVICES = "services"
    SECURITY = "security"


@dataclass(frozen=True, slots=True)
class WriteFile:
    """Make `path` hold exactly `text` (UTF-8, other bytes as surrogate escapes).

    Folders are made as needed. A file that exists keeps its owner and mode; a new one is root's,
    with `mode`.
    """

    path: str
    text: str
    mode: int = 0o644

    def __str__(self) -> str:
        return f"write {self.path}"


@dataclass(frozen=True, slots=True)
class UploadFile:
    """Copy the file `source` of the converter to `path`; folders are made as needed."""

    path: str
    source: str
    mode: int = 0o644

    def __str__(self) -> str:
        return f"copy the converter's {self.source} to {self.path}"


@dataclass(frozen=True, slots=True)
class RemoveFile:
    """Delete `path`."""

    path: str

    def __str__(self) -> str:
        return f"remove {self.path}"


@dataclass(frozen=True, slots=True)
class RenameFile:
    """Give `path` the name `to`."""

    path: str
    to: str

    def __str__(self) -> str:
        return f"rename {self.path} to {self.to}"


@dataclass(frozen=True, slots=True)
class CopyFile:
    """Copy the guest's file `path` to `to`, over what is there; folders are made as needed.

    Both are on the volume `device` where that is set: one that the guest mounts nowhere.
    """

    path: str
    to: str
    device: str = ""

    def __str__(self) -> str:
        where = f" on {self.device}" if self.device else ""
        return f"copy {self.path} to {self.to}{where}"


@dataclass(frozen=True, slots=True)
class LinkFile:
    """Make `path` a symbolic link to `target`, in place of what is there."""

    path: str
    target: str

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}"


@dataclass(frozen=True, slots=True)
class RunProgram:
    """Run a program of the guest's own in it; it must end with 0 within `timeout_s` seconds."""

    argv: tuple[str, ...]
    timeout_s: int = 600

    def __str__(self) -> str:
        return f"run {' '.join(self.argv)}"


@dataclass(frozen=True, slots=True)
class SetValue:
    r"""Set a registry value; the key is made as needed.

    Attributes:
        hive: path of the hive's file: `/Windows/System32/config/SYSTEM`.
        key: from the hive's root: `ControlSet001\Services\vmbus`.
        name: of the value, "" for the key's default one.
        kind: REG_SZ 1, REG_EXPAND_SZ 2, REG_BINARY 3, REG_DWORD 4, REG_MULTI_SZ 7, ...
        data: the value's bytes as the hive stores them, in hexadecimal.
        shown: the value as people read it.
    """

    hive: str
    key: str
    name: str
    kind: int
    data: str
    shown: str

    def __str__(self) -> str:
        return rf"set {self.key}\{self.name} to {self.shown}"


@dataclass(frozen=True, slots=True)
class DeleteKey:
    """Delete a registry key with all that is in it; see `SetValue`."""

    hive: str
    key: str

    def __str__(self) -> str:
        return f"delete the key {self.key}"


@dataclass(frozen=True, slots=True)
class RecoverHive:
    """Apply a hive's logs to it, and empty them; see `p2v.guest.windows.registry.recover`."""

    hive: str
    logs: tuple[str, ...]

    def __str__(self) -> str:
        return f"apply {' and '.join(self.logs)} to {self.hive}"


RegistryAction = RecoverHive | SetValue | DeleteKey

Action = (
    WriteFile
    | UploadFile
    | RemoveFile
    | RenameFile
    | CopyFile
    | LinkFile
    | RunProgram
    | RegistryAction
)


@dataclass(frozen=True, slots=True)
class Edit:
    """One planned change.

    Attributes:
        area: where it belongs.
        what: the effect, imperative, for people: `mount / by UUID`.
        reason: why the guest needs it.
        action: how.
        before: what the planner found there, as people read it; "" for nothing.
    """

    area: Area
    what: str
    reason: str
    action: Action
    before: str = ""


@dataclass(frozen=True, slots=True)
class Edits:
    """A plan for a guest: edits in the order of their application. None is a good answer.

    `problems` are what the planner noticed and leaves alone, each with what to do.
    """

    edits: tuple[Edit, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a guest can't be converted for a target, and the way out. The image is still good."""

    code: str
    text: str
    hint: str
