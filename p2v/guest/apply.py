# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out edits in a mounted guest, and note for each what was there before and after."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from p2v.guest.appliance import Appliance
from p2v.guest.edit import (
    CopyFile,
    DeleteKey,
    Edit,
    LinkFile,
    RecoverHive,
    RegistryAction,
    RemoveFile,
    RenameFile,
    RunProgram,
    SetValue,
    UploadFile,
    WriteFile,
)
from p2v.guest.facts import Family
from p2v.guest.report import EditRecord
from p2v.model.errors import P2VError
from p2v.model.units import KiB, MiB, format_size

if TYPE_CHECKING:
    from p2v.guest.windows.registry.editor import Registry

_SHOWN = 4 * KiB
_MAX_TEXT = 1 * MiB


def planned(edits: Sequence[Edit]) -> list[EditRecord]:
    """Return the records of edits that are not carried out."""
    return [_record(edit, edit.before, "", done=False) for edit in edits]


def apply(
    appliance: Appliance,
    family: Family,
    edits: Sequence[Edit],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[EditRecord], P2VError | None]:
    """Carry out the edits in order; return a record of each, and why it stopped if it did.

    `progress` is called with the edits done and the edits in all.
    """
    applier = _Applier(appliance, family)
    records: list[EditRecord] = []
    for index, edit in enumerate(edits):
        if progress is not None:
            progress(index, len(edits))
        try:
            before, after = applier.apply(edit)
        except P2VError as error:
            return [*records, *planned(edits[index:])], error
        records.append(_record(edit, before or edit.before, after, done=True))
    try:
        applier.finish()
    except P2VError as error:
        return records, error
    return records, None


class _Applier:
    def __init__(self, appliance: Appliance, family: Family) -> None:
        self._appliance = appliance
        self._folds_case = family is Family.WINDOWS
        self._registry: Registry | None = None

    def apply(self, edit: Edit) -> tuple[str, str]:
        """Carry out one edit; return what was there before and after, for people."""
        match edit.action:
            case WriteFile(path, text, mode):
                return self._write(self._find(path), text, mode)
            case UploadFile(path, source, mode):
                return self._upload(self._find(path), Path(source), mode)
            case RemoveFile(path):
                return self._remove(self._find(path))
            case RenameFile(path, to):
                return self._rename(self._find(path), self._find(to))
            case CopyFile(path, to, ""):
                return self._copy(self._find(path), self._find(to))
            case CopyFile(path, to, device):
                return self._copy_on(device, path, to)
            case LinkFile(path, target):
                return self._link(self._find(path), target)
            case RunProgram(argv, timeout_s):
                return "", _tail(self._appliance.run(argv, timeout_s))
            case RecoverHive() | SetValue() | DeleteKey():
                return self._edit_registry(edit.action)

    def finish(self) -> None:
        """Write what is still in memory."""
        if self._registry is not None:
            self._registry.close()

    def _find(self, path: str) -> str:
        """Return the path as the guest spells it."""
        if not self._folds_case:
            return path
        return self._appliance.spelled(path)

    def _write(self, path: str, text: str, mode: int) -> tuple[str, str]:
        content = text.encode("utf-8", "surrogateescape")
        if self._appliance.is_file(path):
            old = self._appliance.read(path, _MAX_TEXT).decode("utf-8", "surrogateescape")
            self._appliance.write(path, content)
            return _difference(old, text)
        self._make_folder(path)
        self._appliance.write(path, content)
        self._set_mode(path, mode)
        return "", _cut(text)

    def _upload(self, path: str, source: Path, mode: int) -> tuple[str, str]:
        before = self._describe(path)
        self._make_folder(path)
        self._appliance.upload(source, path)
        if not before:
            self._set_mode(path, mode)
        return before, self._describe(path)

    def _remove(self, path: str) -> tuple[str, str]:
        before = self._describe(path)
        with self._appliance.calling(f"removing {path}") as handle:
            handle.rm(path)
        return before, ""

    def _rename(self, path: str, to: str) -> tuple[str, str]:
        before = self._describe(path)
        with self._appliance.calling(f"renaming {path}") as handle:
            handle.rename(path, to)
        return before, self._describe(to)

    def _copy(self, path: str, to: str) -> tuple[str, str]:
        before = self._describe(to)
        self._make_folder(to)
        with self._appliance.calling(f"copying {path} to {to}") as handle:
            handle.cp(path, to)
        return before, self._describe(to)

    def _copy_on(self, device: str, path: str, to: str) -> tuple[str, str]:
        """Copy on a volume that is mounted nowhere: alone, then the others are mounted again."""
        self.finish()
        with self._appliance.calling(f"mounting {device}") as handle:
            mounted: dict[str, str] = handle.mountpoints()
            handle.umount_all()
            handle.mount(device, "/")
        shown = self._copy(self._find(path), self._find(to))
        with self._appliance.calling("mounting its file systems again") as handle:
            handle.umount_all()
            for each, at in sorted(mounted.items(), key=lambda pair: pair[1]):
                handle.mount(each, at)
        return shown

    def _edit_registry(self, action: RegistryAction) -> tuple[str, str]:
        if self._registry is None:
            from p2v.guest.windows.registry.editor import Registry

            self._registry = Registry(self._appliance)
        return self._registry.apply(action)

    def _link(self, path: str, target: str) -> tuple[str, str]:
        before = self._describe(path)
        self._make_folder(path)
        with self._appliance.calling(f"linking {path}") as handle:
            handle.ln_sf(target, path)
        return before, f"a link to {target}"

    def _make_folder(self, path: str) -> None:
        with self._appliance.calling(f"making the folder of {path}") as handle:
            handle.mkdir_p(path.rpartition("/")[0] or "/")

    def _set_mode(self, path: str, mode: int) -> None:
        with self._appliance.calling(f"setting the mode of {path}") as handle:
            handle.chmod(mode, path)

    def _describe(self, path: str) -> str:
        with self._appliance.calling(f"looking at {path}") as handle:
            if handle.is_symlink(path):
                return f"a link to {handle.readlink(path)}"
        if not self._appliance.exists(path):
            return ""
        return f"a file of {format_size(self._appliance.size(path))}"


def _record(edit: Edit, before: str, after: str, *, done: bool) -> EditRecord:
    return EditRecord(
        area=edit.area.value,
        what=edit.what,
        reason=edit.reason,
        action=str(edit.action),
        before=_cut(before),
        after=_cut(after),
        done=done,
    )


def _difference(old: str, new: str) -> tuple[str, str]:
    """Return the lines of each text that the other lacks."""
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""))[2:]
    gone, come = (
        "\n".join(line[1:] for line in lines if line.startswith(mark)) for mark in ("-", "+")
    )
    return _cut(gone), _cut(come)


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n..."


def _tail(text: str) -> str:
    """Return the last lines of what a program printed."""
    return "\n".join(text.strip().splitlines()[-8:])[-_SHOWN:]
