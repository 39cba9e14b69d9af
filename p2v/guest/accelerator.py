# SPDX-License-Identifier: GPL-3.0-or-later
"""Which accelerator QEMU can really use here: that `/dev/kvm` opens does not mean that it works.

Under some nested hypervisors KVM says that it is there, and a guest then burns all its time in the
kernel, or every instruction is emulated there, a thousand times slower than by QEMU. So a machine
that counts and switches itself off is started under KVM, and has two seconds of CPU time for what
takes a tenth of one.
"""

from __future__ import annotations

import subprocess
import tempfile
from enum import StrEnum
from functools import cache
from pathlib import Path

from p2v.model.errors import ToolError

QEMU = "qemu-system-x86_64"

_CPU_S = 2
_WALL_S = 20
_EXIT_PORT = 0x501
# mov ecx, 100000000; again: dec ecx; jnz again: 0.04 s on a processor, 0.2 s translated (TCG).
_COUNT = bytes.fromhex("66b900e1f505 6649 75fc")
# mov dx, 0x501; mov al, 0x10; out dx, al; hlt -- isa-debug-exit ends QEMU with 2 * al + 1.
_SWITCH_OFF = bytes.fromhex("ba0105 b010 ee f4")
_SWITCHED_OFF = 0x21


class Accelerator(StrEnum):
    """How QEMU runs a guest's instructions: on the CPU (kvm), or translated in software (tcg)."""

    KVM = "kvm"
    TCG = "tcg"


@cache
def accelerator() -> Accelerator:
    """Return KVM if a guest really runs under it here, else TCG; takes seconds, once a process.

    Raises:
        ToolError: QEMU is not installed.
    """
    return (
        Accelerator.KVM if Path("/dev/kvm").exists() and _runs("kvm", "host") else Accelerator.TCG
    )


def _runs(accel: str, cpu: str) -> bool:
    limits = ["prlimit", f"--cpu={_CPU_S}", "--core=0", "--"]
    machine = [QEMU, "-accel", accel, "-cpu", cpu, "-M", "pc", "-m", "16", "-nodefaults"]
    leave = ["-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1", "-display", "none"]
    with tempfile.NamedTemporaryFile(prefix="p2v-probe-") as disk:
        disk.write((_COUNT + _SWITCH_OFF).ljust(510, b"\0") + b"\x55\xaa")
        disk.flush()
        drive = ["-drive", f"file={disk.name},format=raw,if=ide,snapshot=on"]
        try:
            done = subprocess.run(
                [*limits, *machine, *leave, *drive],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_WALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        except FileNotFoundError as error:
            raise ToolError(tool=QEMU, problem=f"{error.filename} is not installed") from error
    if done.returncode == 127:  # prlimit's word for a program that it can't find
        raise ToolError(tool=QEMU, problem="it is not installed")
    return done.returncode == _SWITCHED_OFF
