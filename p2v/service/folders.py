# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""The migrations' folders: images, digest maps, plan and report of each."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

from p2v.images.durable import sync_folder, write_durably
from p2v.model import planfile
from p2v.model.errors import MigrationStateError, NoRoomError
from p2v.model.plan import Plan
from p2v.service.entry import Receivers

log = logging.getLogger(__name__)

PLAN_NAME = "plan.toml"
EVIDENCE_NAME = "evidence.tar.gz"
_UNFINISHED = ".new"


class Folders:
    """The folders under `root`. A folder that bears its migration's name is complete."""

    def __init__(self, root: Path, receivers: Receivers) -> None:
        self._root = root
        self._receivers = receivers
        root.mkdir(mode=0o700, exist_ok=True)

    def path(self, id: str) -> Path:
        """Return the folder of a migration."""
        return self._root / id

    def make(self, id: str, plan: Plan) -> tuple[str, ...]:
        """Make a folder with empty images for `plan`, durably; return the images' final paths.

        Raises:
            MigrationStateError: something of that name is there.
            NoRoomError: the file system is full.
        """
        folder = self.path(id)
        if folder.exists():
            raise MigrationStateError(
                id=id, state="not in the store", problem=f"but its folder {folder} exists"
            )
        unfinished = folder.with_name(id + _UNFINISHED)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        try:
            receiver = self._receivers.create(unfinished, plan)
            names = [image.name for image in receiver.images]
            receiver.close()
            write_durably(unfinished / PLAN_NAME, planfile.dump(plan).encode())
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        sync_folder(self._root)
        return tuple(str(folder / name) for name in names)

    def keep(self, id: str, name: str, content: bytes) -> None:
        """Put a file into a migration's folder, durably, instead of an earlier one.

        Raises:
            NoRoomError: the file system is full.
        """
        path = self.path(id) / name
        try:
            write_durably(path, content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoRoomError(path=path.parent, needed=len(content)) from error

    def remove(self, id: str) -> None:
        """Delete a migration's folder with all that is in it; harmless where there is none."""
        folder = self.path(id)
        if folder.exists():
            shutil.rmtree(folder)
            sync_folder(self._root)

    def sweep(self, known: Collection[str]) -> None:
        """Delete folders whose making was cut off; name those that belong to no migration."""
        for folder in self._root.iterdir():
            if folder.name.endswith(_UNFINISHED):
                shutil.rmtree(folder)
            elif folder.name not in known:
                log.warning("%s belongs to no migration of the store; it is left alone", folder)
