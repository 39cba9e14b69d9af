# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests say where they end: firmware, boot loaders, initramfs, kernels, systemd, Windows.

Pure functions on the lines of a console. A prompt must be the last line; an error may be followed
by others. What a guest says comes from its disk: a hostile one can say that it works, and all that
it gains is a good verdict on itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2v.guest.rehearsal.verdict import Outcome

# systemd shortens lines in the middle, and does not spare the escape sequences there.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*(?:…|[ -/]*[@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Za-z0-9]|[ -/]*[0-~])"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_KERNEL_TIME = re.compile(r"^\[\s*\d+\.\d+\] ")
_MAX_LINE = 400


@dataclass(frozen=True, slots=True)
class Sign:
    """A pattern that shows an outcome: as the last line (`prompt`), or anywhere."""

    outcome: Outcome
    pattern: re.Pattern[str]
    prompt: bool = False


def _sign(outcome: Outcome, pattern: str, *, prompt: bool = False) -> Sign:
    return Sign(outcome, re.compile(pattern), prompt)


# In this order: systemd's emergency shell inside of dracut's initramfs has the words of both.
_SIGNS = (
    _sign(Outcome.LOGIN, r"^(?!Last |.*fail)\S+ login:$", prompt=True),
    _sign(
        Outcome.PASSPHRASE,
        r"(?i)(^Please unlock disk .*|enter passphrase for .*|enter password for .*):\s*\**"
        r"(\s*\(press TAB for no echo\)\s*\**)?$",
        prompt=True,
    ),
    _sign(Outcome.INITRAMFS_SHELL, r"^\(initramfs\)$", prompt=True),
    _sign(Outcome.INITRAMFS_SHELL, r"^dracut:/#$", prompt=True),
    _sign(Outcome.INITRAMFS_SHELL, r"/run/initramfs/rdsosreport\.txt"),
    _sign(Outcome.KERNEL_PANIC, r"Kernel panic - not syncing"),
    _sign(Outcome.EMERGENCY_SHELL, r"You are in (emergency|rescue) mode"),
    _sign(Outcome.EMERGENCY_SHELL, r"Give root password for maintenance"),
    _sign(Outcome.EMERGENCY_SHELL, r"root account is locked"),
    _sign(Outcome.EMERGENCY_SHELL, r"^Press Enter for maintenance"),
    _sign(Outcome.BOOT_LOADER, r"^grub( rescue)?>$", prompt=True),
    _sign(Outcome.BOOT_LOADER, r"GRUB (Geom|Hard Disk|Read) Error|Entering rescue mode"),
    _sign(Outcome.BOOT_LOADER, r"^(boot|LILO boot):$", prompt=True),
    _sign(Outcome.NOTHING_BOOTABLE, r"No bootable device\.|No bootable option or device was found"),
    _sign(Outcome.NOTHING_BOOTABLE, r"UEFI Interactive Shell|^Shell>$"),
    _sign(Outcome.NOTHING_BOOTABLE, r"(?i)missing operating system|operating system not found"),
    _sign(Outcome.NOTHING_BOOTABLE, r"Invalid partition table"),
    _sign(Outcome.WINDOWS_STOP, r"\*\*\* STOP: 0x|A problem has been detected and [Ww]indows"),
    _sign(
        Outcome.WINDOWS_BOOT_ERROR,
        r"(BOOTMGR|NTLDR) is (missing|compressed)|BOOTMGR image is corrupt"
        r"|Windows failed to start|couldn't be loaded because|needs to be repaired"
        r"|An operating system wasn't found|Windows could not start because",
    ),
)

_WAITING = re.compile(r"GNU GRUB  ?version|Windows Boot Manager|Choose an operating system")

_CAUSES = re.compile(
    r"ALERT!|[Kk]ernel panic|VFS: (Cannot open root|Unable to mount)|error: |Error:"
    r"|dracut.*(Warning|FATAL): .*(does not exist|failed|could not|Could not|cannot|Cannot)"
    r"|Failed to (mount|start|find)|Dependency failed for|Timed out waiting for device|"
    r"No bootable|failed to load Boot|Status: +0x|STOP: 0x|can't be found|No key available|"
    r"cryptsetup failed|bad password"
)
# systemd names what depends on a failure after it, and a shell follows from what came first.
_CONCERNS = re.compile(
    r"\[(FAILED|DEPEND)\]|Timed out waiting for device|I/O error|EXT4-fs error|"
    r"XFS .*(Corruption|corruption)|BTRFS (error|critical)|: fsck failed"
)


def clean(text: str) -> list[str]:
    """Return the lines of what came over a serial console, without what steers a terminal."""
    plain = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = (
        _CONTROLS.sub("", line.replace("\t", " ")).rstrip()[:_MAX_LINE]
        for line in plain.split("\n")
    )
    return [line for line in lines if line]


def outcome_of(lines: Sequence[str]) -> Outcome | None:
    """Return what the lines of a console or screen show, None while nothing is decided."""
    last = lines[-1].strip() if lines else ""
    for sign in _SIGNS:
        if any(sign.pattern.search(line) for line in ((last,) if sign.prompt else lines)):
            return sign.outcome
    return None


def waits(lines: Iterable[str]) -> bool:
    """Return whether a boot menu is shown that waits for a key."""
    return any(_WAITING.search(line) for line in lines)


def cause_of(lines: Sequence[str]) -> str:
    """Return the line in which a guest says why it failed; "" if there is none."""
    found = [line for line in lines if _CAUSES.search(line)]
    return _KERNEL_TIME.sub("", found[0]).strip() if found else ""


def concerns_of(lines: Iterable[str], limit: int = 20) -> tuple[str, ...]:
    """Return what went wrong on the way to the login, each once, at most `limit`."""
    found = (_KERNEL_TIME.sub("", line).strip() for line in lines if _CONCERNS.search(line))
    return tuple(dict.fromkeys(found))[:limit]
