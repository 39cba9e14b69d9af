# SPDX-License-Identifier: GPL-3.0-or-later
"""A "physical" machine: QEMU with firmware, disks, a screen, a keyboard and a serial line."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from p2v.guest.rehearsal.screen import NOTHING, Text, parse_ppm, read_text
from tests.e2e.running import tool, wait_for

OVMF = Path("/usr/share/OVMF")
BOOT_S = 600.0
CPU = "max,erms=off,la57=off"
"""What TCG is slow at is left out: memory cleared byte by byte, page tables of five levels."""
PROCESSORS = "1" if (os.cpu_count() or 1) < 4 else "2"
"""Two emulated ones wait for each other more than they do, where there are not enough real ones."""
_KEYS = {
    " ": "spc", "\n": "ret", "-": "minus", ".": "dot", "/": "slash", "=": "equal", ",": "comma",
    ":": "shift-semicolon", "_": "shift-minus", ">": "shift-dot", "|": "shift-backslash",
    '"': "shift-apostrophe", "*": "shift-8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the machine is made of; `devices` are further words of QEMU's command line."""

    firmware: str = "bios"
    memory: int = 1024
    devices: Sequence[str] = ()
    machine: str = "q35"
    smbios: str = "type=1,manufacturer=QEMU,product=Server,serial=P2V0001"


@dataclass
class Physical:
    """A machine that runs."""

    folder: Path
    process: subprocess.Popen[bytes]
    qmp: socket.socket
    _lines: Any = field(repr=False)
    read: int = 0
    """How far `await_serial` has read."""

    def ask(self, command: str, **arguments: object) -> Any:
        """Ask QEMU something over QMP."""
        message = {"execute": command, "arguments": arguments}
        self.qmp.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "error" in answer:
                raise AssertionError(f"{command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]

    @property
    def serial(self) -> str:
        """What came out of the serial line so far."""
        return (self.folder / "serial.log").read_text(errors="replace")

    def screen(self, path: Path) -> Path:
        """Take a picture of the screen (PNG)."""
        self.ask("screendump", filename=str(path), format="png")
        return path

    def text(self) -> Text:
        """Read the text off the screen."""
        path = self.folder / "screen.ppm"
        self.ask("screendump", filename=str(path))
        try:
            return read_text(parse_ppm(path.read_bytes()))
        except ValueError:  # it is being written
            return NOTHING

    def await_screen(self, pattern: str, timeout_s: float = BOOT_S) -> str:
        """Wait until the screen shows what the regular expression says; return all of it."""
        deadline = monotonic() + timeout_s
        while True:
            shown = "\n".join(self.text().lines)
            if re.search(pattern, shown):
                return shown
            assert self.running, f"no {pattern!r} before it went off; the screen:\n{shown}"
            assert monotonic() < deadline, f"no {pattern!r} on the screen:\n{shown}"
            time.sleep(1)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        for char in text:
            name = _KEYS.get(char, f"shift-{char.lower()}" if char.isupper() else char)
            self.press(*name.split("-"))

    def press(self, *keys: str) -> None:
        """Press keys together, by QEMU's names."""
        self.ask("send-key", keys=[{"type": "qcode", "data": key} for key in keys])
        time.sleep(0.1)

    def press_all(self, keys: str) -> None:
        """Press keys together that are named in one word: ``ctrl-n``."""
        self.press(*keys.split("-"))

    def say(self, text: str) -> None:
        """Type on the serial line."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.folder / "serial"))
            line.sendall(text.encode())
            time.sleep(0.2)

    def await_serial(self, pattern: str, timeout_s: float = BOOT_S) -> str:
        """Wait until the serial line has said what the regular expression says; return all of it.

        What was waited for before, and what came before that, does not count again.
        """
        deadline = monotonic() + timeout_s
        while not (found := re.compile(pattern).search(self.serial, self.read)):
            assert self.running, f"no {pattern!r} before it went off: {self.serial[-3000:]}"
            assert monotonic() < deadline, f"no {pattern!r} on the line: {self.serial[-3000:]}"
            time.sleep(0.5)
        self.read = found.end()
        return self.serial

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def await_off(self, timeout_s: float = BOOT_S) -> None:
        """Wait until the machine has switched itself off."""
        wait_for(lambda: not self.running, timeout_s, 0.5)


def firmware_words(hardware: Hardware, folder: Path) -> list[str]:
    """Return QEMU's words for firmware; ``secure`` is UEFI with Secure Boot enforced."""
    if hardware.firmware == "bios":
        return ["-M", hardware.machine]
    code, variables = {
        "uefi": ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        "uefi32": ("OVMF32_CODE_4M.secboot.fd", "OVMF32_VARS_4M.fd"),
        "secure": ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
    }[hardware.firmware]
    shutil.copy(OVMF / variables, folder / "vars.fd")
    guarded = ["-M", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
    flash = "if=pflash,format=raw,unit"
    return [
        *(guarded if "secboot" in code else ["-M", hardware.machine]),
        *("-drive", f"{flash}=0,readonly=on,file={OVMF / code}"),
        *("-drive", f"{flash}=1,file={folder / 'vars.fd'}"),
    ]


@contextmanager
def switched_on(hardware: Hardware, folder: Path) -> Iterator[Physical]:
    """Run a machine for the block; it is switched off at the end, if it has not done so itself."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        "qemu-system-x86_64",
        *firmware_words(hardware, folder),
        *("-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", PROCESSORS),
        *("-m", str(hardware.memory)),
        *("-display", "none", "-vga", "std", "-smbios", hardware.smbios, "-no-reboot"),
        *("-chardev", f"socket,id=line,path={folder}/serial,server=on,wait=off,"
          f"logfile={folder}/serial.log"),
        *("-serial", "chardev:line"),
        *("-qmp", f"unix:{folder}/qmp,server=on,wait=off"),
        *hardware.devices,
    ]  # fmt: skip
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        with socket.socket(socket.AF_UNIX) as qmp:
            wait_for(lambda: (folder / "qmp").exists() or process.poll() is not None)
            assert process.poll() is None, (folder / "qemu.log").read_text()
            qmp.connect(str(folder / "qmp"))
            with qmp.makefile("rb") as lines:
                lines.readline()
                machine = Physical(folder, process, qmp, lines)
                machine.ask("qmp_capabilities")
                yield machine
    finally:
        process.kill()
        process.wait()


def disk(path: Path, device: str = "virtio-blk-pci", form: str = "raw", **more: str) -> list[str]:
    """Return QEMU's words for a disk on `device`; what is written to it is kept."""
    name = f"disk{abs(hash((str(path), device))) % 10**8}"
    words = "".join(f",{key.replace('_', '-')}={value}" for key, value in more.items())
    return ["-drive", f"file={path},format={form},if=none,id={name}",
            "-device", f"{device},drive={name}{words}"]  # fmt: skip


def cdrom(path: Path, bus: str = "ide.1") -> list[str]:
    """Return QEMU's words for a CD in a SATA or IDE drive."""
    return ["-drive", f"file={path},format=raw,if=none,id=cd,media=cdrom,readonly=on",
            "-device", f"ide-cd,bus={bus},drive=cd,bootindex=1"]  # fmt: skip


def usb_stick(path: Path) -> list[str]:
    """Return QEMU's words for a USB stick that the machine starts from."""
    return ["-drive", f"file={path},format=raw,if=none,id=stick,readonly=on",
            "-device", "qemu-xhci", "-device", "usb-storage,drive=stick,bootindex=1"]  # fmt: skip


def direct(iso: Path, folder: Path, *settings: str) -> list[str]:
    """Return QEMU's words to start the image's kernel at once, past firmware and menu."""
    live = folder / "live"
    tool("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/live", live)
    (menu,) = re.findall(r'^set options="(boot=live .*)"$', menu_of(iso, folder), re.M)
    words = " ".join([menu, *settings])
    return ["-kernel", f"{live}/vmlinuz", "-initrd", f"{live}/initrd", "-append", words]


def menu_of(iso: Path, folder: Path) -> str:
    """Return the configuration of the image's boot menu."""
    path = folder / "grub.cfg"
    tool("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/boot/grub/grub.cfg", path)
    return path.read_text()


def host_network(device: str = "virtio-net-pci", mac: str = "52:54:00:12:34:56") -> list[str]:
    """Return QEMU's words for a network in which the host is 10.0.2.2."""
    return ["-netdev", "user,id=net", "-device", f"{device},netdev=net,mac={mac}"]
