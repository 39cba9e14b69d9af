# SPDX-License-Identifier: GPL-3.0-or-later
"""The libguestfs appliance: the only place where a guest's file systems are ever parsed.

It is a small virtual machine with its own kernel, without a network, that has the guest's disks and
nothing else. Whatever a hostile file system makes it do ends at its memory and its deadline. Every
method is a call into it and raises `GuestError` where that fails; paths are the guest's, resolved
inside the guest. What comes out is bounded: see each method.

https://libguestfs.org/guestfs.3.html, https://libguestfs.org/guestfs-security.1.html
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from p2v.guest import debian
from p2v.guest.accelerator import Accelerator, accelerator
from p2v.guest.scratch import Scratch
from p2v.guest.signals import Signals
from p2v.model.errors import GuestError, ToolError
from p2v.model.units import MiB

MEMORY_MIB = 1024
LAUNCH_S = 300
DEADLINE_S = 3 * 3600
"""For all that is done in one appliance; a conversion under emulation takes minutes."""
MAX_NAMES = 100_000
"""Names that `glob` returns at most."""
MAX_OUTPUT = 1 * MiB
_AGAIN_S = 0.2
"""How often an appliance that is to end is looked for: before it starts, files are made for it."""
_PIECE = 2 * MiB
"""libguestfs moves at most 4 MiB in a message."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of the appliance; `format` is QEMU's name for it: raw, qcow2, vpc, vhdx, vmdk."""

    path: Path
    format: str


class Appliance:
    """A running appliance; its disks are /dev/sda, /dev/sdb, ... in the order of `drives`.

    Leave it with `close` (or as a context manager): that flushes and unmounts the guest's file
    systems. With `read_only` the drives never change; what is written inside is thrown away.

    Attributes:
        name: of the guest in errors: its first image.
        handle: the guestfs handle, for calls that have no method here; wrap them in `calling`.
    """

    def __init__(
        self,
        name: str,
        drives: Sequence[Drive],
        *,
        read_only: bool,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Start it.

        Raises:
            ToolError: libguestfs is not installed, or its virtual machine does not start.
            GuestError: a drive can't be opened.
        """
        self.name = name
        self._scratch = Scratch("appliance")
        self._id = self._scratch.path.name
        self._ended = threading.Event()
        self._late = False
        self._closed = False
        guestfs = debian.load("guestfs", "libguestfsmod")
        self.handle: Any = guestfs.GuestFS(python_return_dict=True, close_on_exit=False)
        self._signals = Signals(lambda: self._kill_until(self._ended))
        try:
            self._configure(drives, read_only)
            with self._watched(LAUNCH_S):
                self._launch()
        except BaseException:
            self._ended.set()
            self._signals.close()
            self.handle.close()
            self._scratch.close()
            raise
        self._watch = threading.Thread(
            target=self._kill_after, args=(deadline_s, self._ended), name="appliance", daemon=True
        )
        self._watch.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close(flush=kind is None)

    def close(self, *, flush: bool = True) -> None:
        """Stop the appliance, once; with `flush`, first make sure that all reached the drives.

        Raises:
            GuestError: it could not be flushed.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if flush:
                with self.calling("unmounting its file systems"):
                    self.handle.umount_all()
                    self.handle.sync()
                    self.handle.shutdown()
        finally:
            self._ended.set()
            self._signals.close()
            self.handle.close()
            self._scratch.close()

    @contextmanager
    def calling(self, what: str) -> Iterator[Any]:
        """Give the handle for calls of one purpose; turn their failure into a `GuestError`."""
        try:
            yield self.handle
        except RuntimeError as error:
            problem = "it took too long" if self._late else str(error)
            raise GuestError(image=self.name, problem=f"{what}: {problem}") from error

    # --- files

    def exists(self, path: str) -> bool:
        """Return whether there is anything at `path`."""
        with self.calling(f"looking for {path}") as handle:
            return bool(handle.exists(path))

    def is_file(self, path: str) -> bool:
        """Return whether `path` is, or links to, a file."""
        with self.calling(f"looking at {path}") as handle:
            return bool(handle.is_file_opts(path, followsymlinks=True))

    def is_dir(self, path: str) -> bool:
        """Return whether `path` is, or links to, a folder."""
        with self.calling(f"looking at {path}") as handle:
            return bool(handle.is_dir_opts(path, followsymlinks=True))

    def size(self, path: str) -> int:
        """Return the size of a file in bytes."""
        with self.calling(f"looking at {path}") as handle:
            return int(handle.filesize(path))

    def stamp(self, path: str) -> str:
        """Return what changes when a file is written: its number, size and time."""
        with self.calling(f"looking at {path}") as handle:
            found = handle.statns(path)
        return "{st_ino} {st_size} {st_ctime_sec}.{st_ctime_nsec:09}".format(**found)

    def read(self, path: str, limit: int) -> bytes:
        """Return the first `limit` bytes of a file, all of a shorter one."""
        content = bytearray()
        with self.calling(f"reading {path}") as handle:
            while len(content) < limit:
                piece = handle.pread(path, min(_PIECE, limit - len(content)), len(content))
                if not piece:
                    break
                content += piece
        return bytes(content)

    def write(self, path: str, content: bytes) -> None:
        """Make a file hold `content`; one that exists keeps its owner, mode and labels."""
        with self._carried(content) as carrier, self.calling(f"writing {path}") as handle:
            handle.upload(str(carrier), path)

    def upload(self, source: Path, path: str) -> None:
        """Copy the converter's file `source` into the guest."""
        with self.calling(f"writing {path}") as handle:
            handle.upload(str(source), path)

    def download(self, path: str, target: Path, limit: int) -> None:
        """Copy a file of at most `limit` bytes to the converter's `target`.

        Raises:
            GuestError: it is longer, or can't be read.
        """
        if (size := self.size(path)) > limit:
            problem = f"{path} has {size} bytes, more than the {limit} that are allowed"
            raise GuestError(image=self.name, problem=problem)
        with self.calling(f"reading {path}") as handle:
            handle.download_offset(path, str(target), 0, size)

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a shell pattern, sorted.

        Raises:
            GuestError: there are more than `MAX_NAMES`, or than a message can hold.
        """
        with self.calling(f"listing {pattern}") as handle:
            names: list[str] = sorted(handle.glob_expand(pattern, directoryslash=False))
        if len(names) > MAX_NAMES:
            problem = f"{pattern} matches {len(names)} names; it is not searched"
            raise GuestError(image=self.name, problem=problem)
        return names

    def spelled(self, path: str) -> str:
        """Return the path in the case in which its names are written on the disk.

        For Windows, whose programs ignore case. Names that are not there stay as they are.
        """
        with suppress(GuestError), self.calling(f"looking for {path}") as handle:
            return str(handle.case_sensitive_path(path))
        folder, _, name = path.rpartition("/")
        return f"{self.spelled(folder) if folder else ''}/{name}"

    def realpath(self, path: str) -> str:
        """Return the path without symbolic links."""
        with self.calling(f"following {path}") as handle:
            return str(handle.realpath(path))

    # --- programs

    def run(self, argv: Sequence[str], timeout_s: float) -> str:
        """Run a program of the guest in it; return what it printed, at most `MAX_OUTPUT` bytes.

        Its file systems /dev, /proc and /sys are the appliance's. What it prints on stderr is in
        the error if it fails.

        Raises:
            GuestError: it ended with an error, or not in time; then the appliance is stopped.
        """
        with self._watched(timeout_s), self.calling(f"running {' '.join(argv)}") as handle:
            return str(handle.command(list(argv)))[:MAX_OUTPUT]

    # --- inside

    def _configure(self, drives: Sequence[Drive], read_only: bool) -> None:
        handle = self.handle
        handle.set_backend("direct")
        if accelerator() is Accelerator.TCG:
            handle.set_backend_settings(["force_tcg"])
        handle.set_memsize(MEMORY_MIB)
        handle.set_network(False)
        handle.set_autosync(True)
        handle.set_tmpdir(str(self._scratch.path))
        with self.calling("naming its appliance"):
            handle.config("-name", self._id)
        for drive in drives:
            with self.calling("opening it"):
                handle.add_drive_opts(
                    str(drive.path),
                    readonly=read_only,
                    format=drive.format,
                    cachemode="writeback" if read_only else "unsafe",
                )

    def _launch(self) -> None:
        try:
            self.handle.launch()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]  # what follows is of use to its developers
            problem = f"its appliance does not start: {reason}"
            raise ToolError(tool="libguestfs", problem=problem) from error

    @contextmanager
    def _carried(self, content: bytes) -> Iterator[Path]:
        """Give a file of the converter that holds `content`, to be uploaded."""
        with tempfile.NamedTemporaryFile(dir=self._scratch.path) as file:
            file.write(content)
            file.flush()
            yield Path(file.name)

    @contextmanager
    def _watched(self, timeout_s: float) -> Iterator[None]:
        """Kill the appliance if the block takes longer; the call in it then fails."""
        done = threading.Event()
        watch = threading.Thread(
            target=self._kill_after, args=(timeout_s, done), name="appliance-call", daemon=True
        )
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()

    def _kill_after(self, timeout_s: float, done: threading.Event) -> None:
        if not done.wait(timeout_s):
            self._late = True
            self._kill_until(done)

    def _kill_until(self, done: threading.Event) -> None:
        """End its virtual machine, as soon as there is one; the call that waits for it fails."""
        ended: set[int] = set()
        while True:
            for pid in set(_children_named(self._id)) - ended:
                os.kill(pid, signal.SIGKILL)
                ended.add(pid)
            if done.wait(_AGAIN_S):
                return


def _children_named(name: str) -> Iterator[int]:
    """Yield this process's children that have `name` as a word of their command line.

    A child's id can't be another's meanwhile: libguestfs waits for it only when it is closed.
    """
    word = os.fsencode(name)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and word in (entry / "cmdline").read_bytes().split(b"\0"):
                yield int(entry.name)
        except OSError:
            continue
