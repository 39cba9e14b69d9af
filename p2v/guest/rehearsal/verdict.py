# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rehearsal comes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Where a guest ended. The values are stable slugs (docs/rehearsal.md)."""

    LOGIN = "login"
    PASSPHRASE = "passphrase"  # noqa: S105
    EMERGENCY_SHELL = "emergency-shell"
    INITRAMFS_SHELL = "initramfs-shell"
    KERNEL_PANIC = "kernel-panic"
    BOOT_LOADER = "boot-loader"
    NOTHING_BOOTABLE = "nothing-bootable"
    WINDOWS_BOOT_ERROR = "windows-boot-error"
    WINDOWS_STOP = "windows-stop"
    SWITCHED_OFF = "switched-off"
    RESTARTING = "restarting"
    NO_ROOM = "no-room"
    GRAPHICAL_SCREEN = "graphical-screen"
    STUCK = "stuck"


SENTENCES = {
    Outcome.LOGIN: "It reached its login prompt.",
    Outcome.PASSPHRASE: "It asks for the passphrase of an encrypted disk, and got none that fits.",
    Outcome.EMERGENCY_SHELL: "It ended in an emergency shell: a service or mount it needs failed.",
    Outcome.INITRAMFS_SHELL: "It ended in its initramfs: the root file system was not found.",
    Outcome.KERNEL_PANIC: "Its kernel panicked.",
    Outcome.BOOT_LOADER: "It ended in its boot loader: no kernel was started.",
    Outcome.NOTHING_BOOTABLE: "The firmware found nothing to boot on its disks.",
    Outcome.WINDOWS_BOOT_ERROR: "Windows could not be started, and says so.",
    Outcome.WINDOWS_STOP: "Windows stopped with a blue screen.",
    Outcome.SWITCHED_OFF: "It switched itself off.",
    Outcome.RESTARTING: "It restarts over and over.",
    Outcome.NO_ROOM: "It wrote more than a rehearsal keeps.",
    Outcome.GRAPHICAL_SCREEN: "It shows a graphical screen, which can't be read: look at it.",
    Outcome.STUCK: "It came to neither a login prompt nor an error in the time it had.",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome and what shows it.

    Attributes:
        outcome: the class of it.
        cause: the line in which the guest says why, or the last one that it showed; "" for none.
        console: the last lines of its serial console.
        screen: the lines on its screen.
        concerns: what failed on the way, in the guest's words.
    """

    outcome: Outcome
    cause: str = ""
    console: tuple[str, ...] = ()
    screen: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()

    @property
    def reached_login(self) -> bool:
        """Whether the guest works, as far as a rehearsal can tell."""
        return self.outcome is Outcome.LOGIN

    @property
    def sentence(self) -> str:
        """The verdict for people, with the cause."""
        said = SENTENCES[self.outcome]
        return f"{said} {self.cause}" if self.cause else said
