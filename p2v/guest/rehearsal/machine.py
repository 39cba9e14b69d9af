# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine of a rehearsal: the image below a throw-away overlay, and no network."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import monotonic, sleep

from p2v.guest.accelerator import QEMU, Accelerator
from p2v.guest.rehearsal.qmp import Gone, Qmp
from p2v.guest.rehearsal.screen import Picture, parse_ppm
from p2v.guest.scratch import Scratch
from p2v.model.errors import ToolError
from p2v.model.machine import FirmwareKind
from p2v.model.units import GiB, MiB

_START_S = 60.0
_CREATE_S = 60.0
_PIECE = 64 * 1024
_MOST_AT_ONCE = 1 * MiB
_OVERLAY_LIMIT = 16 * GiB
_ROOM = "/var/tmp"  # noqa: S108
"""Where the overlays lie: /tmp may be in memory."""
_CORES_FOR_TWO = 4
_FIRMWARE = Path("/usr/share/OVMF")
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Bus(StrEnum):
    """What the disks are attached to."""

    IDE = "ide"
    """PIIX IDE, as a Hyper-V VM of generation 1 has it; SATA (AHCI) with Secure Boot."""
    SATA = "sata"
    VIRTIO = "virtio"
    SCSI = "scsi"
    """virtio-scsi."""
    MEGARAID = "megaraid"
    """A MegaRAID SAS controller, as physical servers have it."""


_CONTROLLERS = {
    Bus.SATA: "ich9-ahci,id=bus",
    Bus.SCSI: "virtio-scsi-pci,id=bus",
    Bus.MEGARAID: "megasas,id=bus",
}


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk image; `format` is QEMU's name for it, `sector_size` in bytes."""

    path: Path
    format: str
    sector_size: int = 512


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the guest gets; `memory` in bytes."""

    accelerator: Accelerator
    firmware: FirmwareKind
    bus: Bus
    memory: int = 2 * GiB
    secure_boot: bool = False

    @property
    def cpus(self) -> int:
        """Two, or one where they would be emulated by fewer than twice as many.

        Emulated processors wait for each other, and on a busy host for very long: with both of two
        cores in use, two took three times as long as one for the same.
        """
        few = len(os.sched_getaffinity(0)) < _CORES_FOR_TWO
        return 1 if few and self.accelerator is Accelerator.TCG else 2


class Machine:
    """A running guest."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder = folder
        self._process = process
        self.qmp = Qmp(self._socket("qmp"))
        self._serial = socket.socket(socket.AF_UNIX)
        self._serial.connect(str(self._socket("serial")))
        self._serial.setblocking(False)
        self.qmp.call("cont")

    def close(self) -> None:
        """Let go of it; `running` ends the process."""
        self.qmp.close()
        self._serial.close()

    def console(self) -> bytes:
        """Return what came over the serial console since the last time, a bounded piece of it."""
        said = bytearray()
        with suppress(BlockingIOError, ConnectionError):
            while len(said) < _MOST_AT_ONCE and (piece := self._serial.recv(_PIECE)):
                said += piece
        return bytes(said)

    def answer(self, text: str) -> None:
        """Type `text` at the serial console."""
        with suppress(BlockingIOError, ConnectionError):
            self._serial.sendall(text.encode())

    def picture(self) -> Picture | None:
        """Return what is on the screen; None while the card changes its mode.

        Raises:
            Gone: QEMU has ended.
        """
        path = self._folder / "screen.ppm"
        self.qmp.call("screendump", filename=str(path))
        with suppress(ValueError, FileNotFoundError):
            return parse_ppm(path.read_bytes())
        return None

    def last_words(self) -> str:
        """Return why QEMU ended, in its own words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_START_S)
        said = (self._folder / "stderr").read_text(errors="replace").strip()
        return said.splitlines()[-1] if said else f"it ended with {self._process.poll()}"

    def overflowed(self) -> bool:
        """Return whether QEMU ended since the guest wrote more than an overlay may hold."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_START_S)
        return self._process.poll() == -25  # SIGXFSZ

    def _socket(self, name: str) -> Path:
        path = self._folder / name
        deadline = monotonic() + _START_S
        while not path.exists():
            if self._process.poll() is not None or monotonic() > deadline:
                raise ToolError(tool=QEMU, problem=self.last_words())
            sleep(0.05)
        return path


@contextmanager
def running(drives: Sequence[Drive], hardware: Hardware) -> Iterator[Machine]:
    """Start a guest on overlays of `drives`; at the end it is killed and the overlays are gone.

    Raises:
        ToolError: QEMU is missing or can't use an image.
    """
    with Scratch("rehearsal", _ROOM) as scratch:
        folder = scratch.path
        overlays = [_overlay(drive, folder / f"disk{n}") for n, drive in enumerate(drives)]
        with (folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [*_limits(), *command(drives, overlays, hardware, folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        try:
            try:
                machine = Machine(folder, process)
            except (Gone, ConnectionError) as error:
                raise ToolError(tool=QEMU, problem=_last_line(folder / "stderr")) from error
            with closing(machine):
                yield machine
        finally:
            process.kill()
            process.wait()


def command(
    drives: Sequence[Drive], overlays: Sequence[Path], hardware: Hardware, folder: Path
) -> list[str]:
    """Return QEMU's command line; sockets are made in `folder`, and the guest waits for `cont`."""
    tcg = hardware.accelerator is Accelerator.TCG
    # Secure Boot needs System Management Mode, which the older machine type lacks.
    machine = "q35,smm=on" if hardware.secure_boot else "pc"
    argv = [QEMU, "-S", "-nodefaults", "-no-user-config", "-sandbox", _SANDBOX, "-M", machine]
    argv += ["-accel", "tcg,thread=multi" if tcg else "kvm", "-cpu", "max" if tcg else "host"]
    argv += ["-smp", str(hardware.cpus), "-m", f"{hardware.memory // MiB}M", "-nic", "none"]
    # A guest that switches itself off leaves its screen to be looked at.
    argv += ["-display", "none", "-vga", "std", "-action", "shutdown=pause"]
    argv += ["-chardev", f"socket,id=serial,path={folder}/serial,server=on,wait=off"]
    argv += ["-serial", "chardev:serial", "-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
    if hardware.firmware is FirmwareKind.UEFI:
        argv += _uefi(hardware.secure_boot, folder)
    bus = Bus.SATA if hardware.secure_boot and hardware.bus is Bus.IDE else hardware.bus
    if bus in _CONTROLLERS:
        argv += ["-device", _CONTROLLERS[bus]]
    for number, (drive, overlay) in enumerate(zip(drives, overlays, strict=True)):
        node = f"file={_quoted(overlay)},format=qcow2,id=disk{number},if=none"
        argv += ["-drive", f"{node},cache=unsafe,discard=unmap"]
        argv += ["-device", _disk(bus, number, drive.sector_size)]
    return argv


def _disk(bus: Bus, number: int, sector_size: int) -> str:
    sectors = f"logical_block_size={sector_size},physical_block_size={max(sector_size, 512)}"
    place = {
        Bus.IDE: f"ide-hd,bus=ide.{number // 2},unit={number % 2}",
        Bus.SATA: f"ide-hd,bus=bus.{number}",
        Bus.VIRTIO: f"virtio-blk-pci,{sectors}",
        Bus.SCSI: f"scsi-hd,bus=bus.0,scsi-id={number},{sectors}",
        Bus.MEGARAID: f"scsi-hd,bus=bus.0,scsi-id={number},{sectors}",
    }[bus]
    return f"{place},drive=disk{number},bootindex={number}"


def _uefi(secure_boot: bool, folder: Path) -> list[str]:
    """Return the options for UEFI; its variables are empty, as those of a new VM."""
    kinds = ("secboot", "ms") if secure_boot else ("", "")
    code, template = (
        _FIRMWARE / (f"OVMF_{part}_4M.{kind}.fd" if kind else f"OVMF_{part}_4M.fd")
        for part, kind in zip(("CODE", "VARS"), kinds, strict=True)
    )
    variables = folder / "variables"
    try:
        shutil.copyfile(template, variables)
    except FileNotFoundError as error:
        raise ToolError(tool="OVMF", problem=f"{template} is missing; install ovmf") from error
    argv = ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
    argv += ["-drive", f"if=pflash,format=raw,file={variables}"]
    if secure_boot:
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    return argv


def _limits() -> list[str]:
    """Return the words before QEMU's that end it with us, and bound what a guest may write."""
    return ["setpriv", "--pdeathsig", "KILL", "prlimit", f"--fsize={_OVERLAY_LIMIT}", "--core=0"]


def _overlay(drive: Drive, path: Path) -> Path:
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", drive.format]
    try:
        done = subprocess.run(
            [*argv, "-b", str(drive.path.absolute()), str(path)],
            capture_output=True,
            timeout=_CREATE_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise ToolError(tool="qemu-img", problem="it is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ToolError(tool="qemu-img", problem=f"no answer within {_CREATE_S:g} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ToolError(tool="qemu-img", problem=said[-1] if said else "it failed")
    return path


def _quoted(path: Path) -> str:
    return str(path).replace(",", ",,")


def _last_line(path: Path) -> str:
    said = path.read_text(errors="replace").strip()
    return said.splitlines()[-1] if said else "it ended at once"
