# SPDX-License-Identifier: GPL-3.0-or-later
"""Overlays: qcow2 files that take the edits while the images below them stay as they are."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from p2v.model.errors import ToolError
from p2v.model.extent import Extent

QEMU_IMG = "qemu-img"
_TIMEOUT_S = 600


def overlay_path(image: Path) -> Path:
    """Return where the overlay of an image lies: on its file system, which must have room."""
    return image.with_name(image.name + ".edits.qcow2")


def create_overlay(image: Path, image_format: str) -> Path:
    """Make an empty overlay over `image`, in place of one that an earlier run left."""
    path = overlay_path(image)
    path.unlink(missing_ok=True)
    base = ["-F", image_format, "-b", str(image.resolve())]
    qemu_img("create", "-q", "-f", "qcow2", *base, str(path))
    return path


def changed_extents(overlay: Path) -> list[Extent]:
    """Return what the overlay holds itself, in its clusters of 64 KiB."""
    text = qemu_img("map", "-f", "qcow2", "--output=json", str(overlay))
    return [
        Extent(entry["start"], entry["length"], entry["zero"])
        for entry in json.loads(text)
        if entry["depth"] == 0
    ]


def detach(overlay: Path) -> None:
    """Make the overlay, durably, a file of its own: what it does not hold reads as zeros."""
    qemu_img("rebase", "-q", "-u", "-f", "qcow2", "-b", "", str(overlay))
    fd = os.open(overlay, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def qemu_img(*words: str, timeout_s: float = _TIMEOUT_S) -> str:
    """Run qemu-img; return what it printed.

    Raises:
        ToolError: it is missing, failed or took too long.
    """
    argv: Sequence[str] = [QEMU_IMG, *words]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise ToolError(tool=QEMU_IMG, problem="it is not installed") from None
    except subprocess.TimeoutExpired:
        raise ToolError(tool=QEMU_IMG, problem=f"{words[0]} took too long") from None
    if done.returncode:
        raise ToolError(tool=QEMU_IMG, problem=done.stderr.strip().removeprefix("qemu-img: "))
    return done.stdout
