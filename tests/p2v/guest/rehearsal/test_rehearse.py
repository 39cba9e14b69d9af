# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearsals of guests that are a boot sector: a real machine, its screen and keyboard, in seconds.

Whole systems are rehearsed in tests/e2e/test_guests.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from p2v.guest.rehearsal import machine, rehearse
from p2v.guest.rehearsal.machine import Bus
from p2v.guest.rehearsal.rehearse import Options, buses, drive_of, limits
from p2v.guest.rehearsal.verdict import Outcome
from p2v.guest.target import Platform
from p2v.model.errors import ImageError, ImageIncompleteError, NoSuchDiskError, UsageError
from p2v.model.machine import FirmwareKind
from p2v.model.units import MiB

# What starts a program, and what prints the text at SI on the screen.
HEAD = """
.code16
.globl _start
_start:
    cld
    xorw %ax, %ax
    movw %ax, %ds
"""
TAIL = """
stop: hlt
    jmp stop
print: lodsb
    testb %al, %al
    jz printed
    movb $0x0e, %ah
    movw $7, %bx
    int $0x10
    jmp print
printed: ret
"""
LOGIN = (
    HEAD
    + "movw $text, %si\n call print\n"
    + TAIL
    + 'text: .asciz "Server 1.0\\r\\n\\nweb01 login: "'
)
# Reads four keys, shows stars, and goes on if they were "Xy-1".
LOCKED = (
    HEAD
    + """
    movw $ask, %si
    call print
    movw $key, %di
next: xorw %ax, %ax
    int $0x16
    cmpb (%di), %al
    jne stop
    movw $star, %si
    call print
    incw %di
    cmpb $0, (%di)
    jne next
    movw $text, %si
    call print
"""
    + TAIL
    + """
ask: .asciz "Please unlock disk root: "
star: .asciz "*"
key: .asciz "Xy-1"
text: .asciz "\\r\\nweb01 login: "
"""
)
RESTART = HEAD + "ljmp $0xffff, $0\n" + TAIL
SWITCH_OFF = HEAD + "movw $0x604, %dx\n movw $0x2000, %ax\n outw %ax, %dx\n" + TAIL
WAIT = HEAD + "movw $text, %si\n call print\n" + TAIL + 'text: .asciz "Loading stage 2 ..."'
SERIAL = (
    HEAD
    + """
    movw $text, %si
again: lodsb
    testb %al, %al
    jz stop
    movw $0x3f8, %dx
    outb %al, %dx
    jmp again
"""
    + TAIL
    + 'text: .asciz "ALERT!  /dev/sdb1 does not exist.\\r\\n(initramfs) "'
)

TIMEOUT_S = 100.0
pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def guest(tmp_path):
    """``guest(program) -> Path``: a disk with this program in its boot sector."""

    def make(program: str) -> Path:
        source, objects, code = (tmp_path / f"boot.{end}" for end in ("s", "o", "bin"))
        source.write_text(program)
        subprocess.run(["as", "--32", "-o", objects, source], check=True)
        flat = ["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]
        subprocess.run(["ld", *flat, "-o", code, objects], check=True)
        path = tmp_path / "disk.raw"
        path.write_bytes(code.read_bytes().ljust(510, b"\0") + b"\x55\xaa" + bytes(MiB - 512))
        return path

    return make


def run(disk: Path, **options):
    options = {"timeout_s": TIMEOUT_S, "memory": 128 * MiB, "bus": Bus.IDE, **options}
    return rehearse.rehearse([disk], Options(**options))


@pytest.mark.qemu
@pytest.mark.parametrize(
    ("outcome", "program", "cause"),
    [
        (Outcome.LOGIN, LOGIN, ""),
        (Outcome.PASSPHRASE, LOCKED, "Please unlock disk root:"),
        (Outcome.RESTARTING, RESTART, ""),
        (Outcome.SWITCHED_OFF, SWITCH_OFF, ""),
        (Outcome.INITRAMFS_SHELL, SERIAL, "ALERT!  /dev/sdb1 does not exist."),
    ],
    ids=lambda value: value.value if isinstance(value, Outcome) else "",
)
def test_a_guest_s_end_is_told(guest, outcome, program, cause):
    disk = guest(program)
    before = disk.read_bytes()
    outturn = run(disk)
    assert outturn.verdict.outcome is outcome, outturn.verdict
    assert cause in outturn.verdict.cause
    assert outturn.rehearsal.verdict == outcome.value
    assert outturn.rehearsal.screenshot
    assert disk.read_bytes() == before


@pytest.mark.qemu
def test_an_empty_disk_has_nothing_to_boot(tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MiB))
    assert run(disk).verdict.outcome is Outcome.NOTHING_BOOTABLE


@pytest.mark.qemu
@pytest.mark.slow
def test_an_empty_disk_has_nothing_to_boot_under_uefi_either(tmp_path):
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MiB))
    outturn = run(disk, firmware=FirmwareKind.UEFI, memory=256 * MiB, timeout_s=300)
    assert outturn.verdict.outcome is Outcome.NOTHING_BOOTABLE


@pytest.mark.qemu
def test_a_guest_that_gets_nowhere_is_stuck_at_what_it_shows_last(guest):
    outturn = run(guest(WAIT), timeout_s=8)
    assert outturn.verdict.outcome is Outcome.STUCK
    assert "Loading stage 2 ..." in outturn.verdict.sentence


@pytest.mark.qemu
def test_a_passphrase_is_typed_on_the_keyboard(guest):
    outturn = run(guest(LOCKED), passphrase="Xy-1")
    assert outturn.verdict.outcome is Outcome.LOGIN, outturn.verdict


@pytest.mark.qemu
def test_a_wrong_passphrase_ends_where_it_was_asked_for(guest):
    outturn = run(guest(LOCKED), passphrase="Xz", timeout_s=30)
    assert outturn.verdict.outcome is not Outcome.LOGIN


@pytest.mark.qemu
def test_a_guest_without_its_disk_is_tried_on_the_next_bus(guest):
    outturn = rehearse.rehearse([guest(SERIAL)], Options(timeout_s=TIMEOUT_S, memory=128 * MiB))
    assert [one.bus for one in outturn.rehearsal.attempts] == ["ide", "scsi"]
    assert outturn.rehearsal.bus == "scsi"


@pytest.mark.qemu
@pytest.mark.parametrize("form", ["qcow2", "vhdx"])
def test_images_of_every_format_start(guest, tmp_path, form):
    image = tmp_path / f"a,b.{form}"
    raw = guest(LOGIN)
    subprocess.run(["qemu-img", "convert", "-O", form, raw, image], check=True)
    assert run(image).verdict.outcome is Outcome.LOGIN


@pytest.mark.parametrize("bus", Bus)
@pytest.mark.parametrize("firmware", FirmwareKind)
@pytest.mark.qemu
def test_every_bus_starts_with_every_firmware(guest, monkeypatch, bus, firmware):
    monkeypatch.setattr(rehearse.Watch, "run", lambda self, timeout_s: self._verdict(Outcome.STUCK))
    outturn = run(guest(LOGIN), bus=bus, firmware=firmware)
    assert outturn.rehearsal.bus == bus


def test_a_guest_has_no_network_and_a_sandboxed_qemu(tmp_path):
    hardware = machine.Hardware(rehearse.Accelerator.TCG, FirmwareKind.BIOS, Bus.IDE)
    words = machine.command([], [], hardware, tmp_path)
    assert words[words.index("-nic") + 1] == "none"
    assert words[words.index("-sandbox") + 1].startswith("on,")


def test_what_qemu_may_not_open_is_refused(tmp_path):
    base, child = tmp_path / "base.qcow2", tmp_path / "child.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1M"], check=True)
    over = ["-f", "qcow2", "-F", "qcow2", "-b", base]
    subprocess.run(["qemu-img", "create", "-q", *over, child], check=True)
    with pytest.raises(ImageError, match="parent"):
        drive_of(child)
    vmdk = tmp_path / "disk.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", vmdk, "1M"], check=True)
    with pytest.raises(ImageError, match="VMDK"):
        drive_of(vmdk)
    with pytest.raises(NoSuchDiskError):
        drive_of(tmp_path / "none.qcow2")
    partial = base.rename(tmp_path / "disk.qcow2.partial")
    with pytest.raises(ImageIncompleteError):
        drive_of(partial)


def test_a_bios_has_no_secure_boot(guest):
    with pytest.raises(UsageError, match="Secure Boot"):
        rehearse.rehearse([guest(LOGIN)], Options(secure_boot=True))


def test_the_bus_is_what_the_guest_was_converted_for():
    assert buses(Options(bus=Bus.MEGARAID)) == (Bus.MEGARAID,)
    assert buses(Options(platform=Platform.KVM))[0] is Bus.VIRTIO
    assert buses(Options(platform=Platform.HYPERV))[0] is Bus.IDE
    assert Bus.IDE not in buses(Options(), large_sectors=True)


def test_it_says_that_qemu_is_not_hyper_v():
    assert "not Hyper-V" in limits(Platform.HYPERV, Bus.IDE)[0]
    assert not any("Hyper-V" in limit for limit in limits(Platform.KVM, Bus.VIRTIO))
