# SPDX-License-Identifier: GPL-3.0-or-later
"""Take over images that others made: a VMDK becomes an image of ours before it is edited."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from p2v.guest.target import Platform
from p2v.images.base import partial_path
from p2v.images.copy import copy_disk
from p2v.images.open import create_writer, is_vmdk, open_disk
from p2v.model.errors import ImageError
from p2v.model.plan import ImageFormat

_FORMATS = {Platform.HYPERV: ImageFormat.VHDX, Platform.KVM: ImageFormat.QCOW2}


@contextmanager
def taken_over(
    images: Sequence[Path],
    platform: Platform,
    tell: Callable[[str, int, int], None],
    *,
    dry_run: bool,
) -> Iterator[tuple[Path, ...]]:
    """Give the images, each VMDK replaced by a copy beside it in the platform's format.

    The copy stays, whatever becomes of its conversion; that of a dry run is deleted. A VMDK is only
    ever read, and only by us.

    Raises:
        ImageError: a VMDK is damaged or of a kind that is not read, or its copy exists.
        NoRoomError: there is no room for a copy.
    """
    if not any(map(is_vmdk, images)):
        yield tuple(images)
        return
    form = _FORMATS[platform]
    if dry_run:
        with tempfile.TemporaryDirectory(prefix=".p2v-dry-run.", dir=images[0].parent) as folder:
            yield tuple(
                _copy(image, Path(folder, f"{index}.{form}"), form, tell)
                for index, image in enumerate(images)
            )
        return
    yield tuple(_copy(image, image.with_suffix(f".{form}"), form, tell) for image in images)


def _copy(
    image: Path, path: Path, form: ImageFormat, tell: Callable[[str, int, int], None]
) -> Path:
    if not is_vmdk(image):
        return image
    if path.exists():
        problem = f"its copy {path} exists already; convert that one, or move it away"
        raise ImageError(path=image, problem=problem)
    with claimed(image), closing(open_disk(image)) as reader:
        partial_path(path).unlink(missing_ok=True)  # of a copy that was cut off
        with closing(create_writer(form, path, reader.size)) as writer:
            try:
                copy_disk(
                    reader, writer, lambda done, total: tell(f"copying {image.name}", done, total)
                )
            except BaseException:
                partial_path(path).unlink(missing_ok=True)
                raise
    return path


@contextmanager
def claimed(image: Path) -> Iterator[None]:
    """Hold an image, so that no two conversions of it run at once."""
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ImageError(path=image, problem="somebody else is working on it") from None
    finally:
        os.close(fd)
