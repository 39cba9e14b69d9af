# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of an image: `NAME.partial` while it is written, `NAME` once it is committed.

Only one of the two exists at any moment, and one process writes it: the file is locked for as long
as it is open. Nothing is ever overwritten.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from p2v.images.base import partial_path
from p2v.images.durable import sync_folder
from p2v.model.errors import ImageError


def create_partial(path: Path) -> int:
    """Create the partial file of image `path` and return its locked descriptor.

    Raises:
        ImageError: the image, finished or not, is already there.
    """
    partial = partial_path(path)
    if path.exists():
        raise ImageError(path=path, problem="it already exists; it is not overwritten")
    try:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    except FileExistsError:
        raise ImageError(path=partial, problem="it already exists; it is not overwritten") from None
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(path=path, problem=f"there is no folder {path.parent}") from None
    _lock(fd, partial)
    sync_folder(path.parent)
    return fd


def reopen(path: Path) -> int:
    """Open the partial file of image `path`, or else the finished image; return it locked.

    Raises:
        ImageError: neither exists, both do, or somebody else is writing it.
    """
    partial = partial_path(path)
    if partial.exists() and path.exists():
        raise ImageError(path=path, problem=f"{partial.name} exists too; move one of them away")
    present = partial if partial.exists() else path
    try:
        fd = os.open(present, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ImageError(path=path, problem="there is no such image to resume") from None
    _lock(fd, present)
    return fd


def withdraw(path: Path) -> None:
    """Give a finished image its partial name again, durably; one that has it stays as it is."""
    if path.exists():
        path.rename(partial_path(path))
        sync_folder(path.parent)


def publish(path: Path) -> None:
    """Give the partial file its final name, durably; its content must be durable already.

    Raises:
        ImageError: another file took the name meanwhile.
    """
    if path.exists():
        raise ImageError(path=path, problem="it appeared meanwhile; it is not overwritten")
    partial_path(path).rename(path)
    sync_folder(path.parent)


def _lock(fd: int, path: Path) -> None:
    """Lock the file for this process, or close it and say who is in the way."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise ImageError(path=path, problem="it is being written by somebody else") from None
