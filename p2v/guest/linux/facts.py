# SPDX-License-Identifier: GPL-3.0-or-later
"""What the steps for Linux guests may know of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

MAX_TEXT = 256 * 1024
"""Bytes of a configuration file that are read; a longer one is cut, and marked so."""


class DriverState(StrEnum):
    """How a kernel has a driver."""

    BUILT_IN = "built-in"
    MODULE = "module"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver of a kernel."""

    name: str
    state: DriverState


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installed kernel.

    Attributes:
        version: as `uname -r` shows it.
        image: path of the kernel, "" where only its modules are left.
        initramfs: path of its initramfs, "" where it has none.
        drivers: those that targets ask for, each with how the kernel has it.
        in_initramfs: the modules among them that the initramfs holds.
        stamp: of the initramfs that was listed; another one has another.
    """

    version: str
    image: str = ""
    initramfs: str = ""
    drivers: tuple[Driver, ...] = ()
    in_initramfs: tuple[str, ...] = ()
    stamp: str = ""

    def state(self, driver: str) -> DriverState:
        """Return how the kernel has `driver`."""
        return next((one.state for one in self.drivers if one.name == driver), DriverState.MISSING)

    def holds(self, driver: str) -> bool:
        """Return whether the initramfs holds `driver`."""
        return driver in self.in_initramfs


@dataclass(frozen=True, slots=True)
class TextFile:
    """A configuration file: its bytes as UTF-8, other bytes as surrogate escapes.

    `path` is where it was found, `target` where a symbolic link leads (else the same). A file that
    is `cut` is longer than `MAX_TEXT`: it may be looked at, and must not be rewritten.
    """

    path: str
    text: str
    cut: bool = False
    target: str = ""


@dataclass(frozen=True, slots=True)
class LinuxFacts:
    """A Linux guest.

    Attributes:
        kernels: newest first.
        files: the configuration files that steps ask for with their `FILES`, by path.
        paths: those of the steps' `PATHS` (programs, folders, marks) that exist.
        default_kernel: version of the kernel that the boot loader starts, "" where unknown.
        esp: device of an EFI system partition that the guest mounts nowhere, "" for none.
        esp_files: the files in its folders /EFI/*, as paths on it.
    """

    kernels: tuple[Kernel, ...] = ()
    files: tuple[TextFile, ...] = ()
    paths: tuple[str, ...] = ()
    default_kernel: str = ""
    esp: str = ""
    esp_files: tuple[str, ...] = ()

    def file(self, path: str) -> TextFile | None:
        """Return the configuration file `path`, None if the guest has none."""
        return next((one for one in self.files if one.path == path), None)

    def matching(self, pattern: str) -> Iterator[TextFile]:
        """Yield the files whose path matches the shell pattern, in order of path."""
        return (one for one in self.files if fnmatchcase(one.path, pattern))

    def has(self, path: str) -> bool:
        """Return whether a path of the steps' `PATHS` exists."""
        return path in self.paths
