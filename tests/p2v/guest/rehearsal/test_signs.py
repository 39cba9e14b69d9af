# SPDX-License-Identifier: GPL-3.0-or-later
"""What guests say where they end, as real consoles showed it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.guest.rehearsal import signs
from p2v.guest.rehearsal.verdict import SENTENCES, Outcome

ENDS = [
    (Outcome.LOGIN, "Debian GNU/Linux 12 web01 ttyS0\n\nweb01 login: "),
    (Outcome.LOGIN, "[  OK  ] Reached target multi-user.target\r\nsrv-1.example.org login: "),
    (
        Outcome.INITRAMFS_SHELL,
        "Gave up waiting for root file system device.  Common problems:\n"
        "ALERT!  /dev/sdb1 does not exist.  Dropping to a shell!\n\n"
        "BusyBox v1.35.0 (Debian) built-in shell (ash)\n\n(initramfs) ",
    ),
    (
        Outcome.INITRAMFS_SHELL,
        "Warning: /dev/disk/by-uuid/1b-2c does not exist\n\n"
        'Generating "/run/initramfs/rdsosreport.txt"\n\n\nEntering emergency mode. Exit the shell '
        "to continue.\n\nPress Enter for maintenance\n(or press Control-D to continue): ",
    ),
    (
        Outcome.EMERGENCY_SHELL,
        'You are in emergency mode. After logging in, type "journalctl -xb" to view\n'
        "system logs.\n\nCannot open access to console, the root account is locked.\n"
        "See sulogin(8) man page for more details.\n\nPress Enter to continue.\n",
    ),
    (
        Outcome.KERNEL_PANIC,
        "[    6.1] VFS: Unable to mount root fs on unknown-block(0,0)\n"
        "[    6.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\n"
        "[    6.3] CPU: 0 PID: 1",
    ),
    (Outcome.BOOT_LOADER, "error: no such device: 1b2c.\nEntering rescue mode...\ngrub rescue> "),
    (Outcome.BOOT_LOADER, "GNU GRUB  version 2.06\n\n   Minimal BASH-like line\n\ngrub> "),
    (Outcome.NOTHING_BOOTABLE, "Booting from Hard Disk...\n\nNo bootable device.\n"),
    (
        Outcome.NOTHING_BOOTABLE,
        "BdsDxe: failed to load Boot0001 from PciRoot(0x0): Not Found\nUEFI Interactive Shell v2.2",
    ),
    (Outcome.PASSPHRASE, "Please unlock disk cryptroot: "),
    (Outcome.PASSPHRASE, "Please enter passphrase for disk QEMU_HARDDISK (luks-1)::"),
    (Outcome.WINDOWS_BOOT_ERROR, "BOOTMGR is missing\nPress Ctrl+Alt+Del to restart"),
    (Outcome.WINDOWS_STOP, "*** STOP: 0x0000007B (0xFFFFF880009A9928,0xFFFFFFFFC0000034)"),
    (None, ""),
    (None, "Last login: Mon Nov 23 on tty1\n# "),
    (None, "login: bad things"),
    (None, "Begin: Mounting root file system ... "),
    (None, "GNU GRUB  version 2.06\n *Debian GNU/Linux"),
]


@pytest.mark.parametrize(("outcome", "said"), ENDS)
def test_where_a_guest_ended_is_told_by_what_it_said(outcome, said):
    assert signs.outcome_of(signs.clean(said)) is outcome


def test_a_prompt_that_was_answered_is_none_any_more():
    said = "Please unlock disk cryptroot: \ncryptsetup: cryptroot: set up successfully\n"
    assert signs.outcome_of(signs.clean(said)) is None


def test_the_cause_is_the_first_line_that_gives_one():
    said = "[    1.2] all well\n[    6.1] Kernel panic - not syncing: no init\n[    6.2] CPU: 0"
    assert signs.cause_of(signs.clean(said)) == "Kernel panic - not syncing: no init"
    assert signs.cause_of(["all well"]) == ""


def test_what_failed_on_the_way_is_kept_once():
    said = (
        "[\x1b[0;32m  OK  \x1b[0m] Started one.\n"
        "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mtwo\x1b[0m.\r\n"
        "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mtwo\x1b[0m.\r\n"
        "[\x1b[0;1;33mDEPEND\x1b[0m] Dependency failed for \x1b[0;1;…8-4de7-9011.\n"
    )
    assert signs.concerns_of(signs.clean(said)) == (
        "[FAILED] Failed to start two.",
        "[DEPEND] Dependency failed for 8-4de7-9011.",
    )


def test_every_outcome_has_a_sentence():
    assert SENTENCES.keys() == set(Outcome)


@given(st.text())
def test_nothing_that_a_guest_says_steers_a_terminal(said):
    lines = signs.clean(f"\x1b[31m{said}\x1b]0;title\x07")
    signs.outcome_of(lines)
    assert not any(ord(char) < 32 or char == "\x7f" for line in lines for char in line)
