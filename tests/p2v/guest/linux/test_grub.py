# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot menus: roots that last, and a console that can be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.guest.edit import RenameFile
from p2v.guest.linux import grub
from tests.p2v.guest.linux.making import ROOT, SWAP, guest, hyperv, written

CFG = "/boot/grub/grub.cfg"


def fixed(text, path=CFG):
    return written(grub.plan(guest({path: text}), hyperv(), ()), path)


def test_a_root_by_device_becomes_one_by_uuid():
    text = "\tlinux\t/boot/vmlinuz-6.1 root=/dev/loop1p3 ro  quiet\n\tinitrd /boot/initrd.img-6.1\n"
    assert fixed(text) == text.replace("/dev/loop1p3", f"UUID={ROOT}")


def test_what_grub_itself_searches_for_stays():
    text = f"set root='hd0,gpt3'\nsearch --no-floppy --fs-uuid --set=root {ROOT}\n"
    text += f"linux /boot/vmlinuz root=UUID={ROOT} ro\n"
    assert fixed(text) is None


def test_the_only_disk_is_the_first_whatever_it_was():
    legacy = "/boot/grub/menu.lst"
    text = "title Server\n\troot (hd1,0)\n\tkernel /vmlinuz-2.6.32 root=LABEL=root ro\n"
    assert fixed(text, legacy) == text.replace("hd1", "hd0")
    cfg = "set root='hd2,msdos1'\nlinux /vmlinuz root=LABEL=root\n"
    assert fixed(cfg) == cfg.replace("hd2", "hd0")
    with_windows = text + "title Windows\n\trootnoverify (hd0,0)\n"
    assert fixed(with_windows, legacy) is None
    two = guest({legacy: text}, disks=2)
    assert written(grub.plan(two, hyperv(), ()), legacy) is None


@pytest.mark.parametrize("word", ["linux", "linux16", "linuxefi", "kernel"])
def test_every_kind_of_kernel_line_is_seen(word):
    assert f"root=UUID={ROOT}" in fixed(f"{word} /vmlinuz root=/dev/sda3\n")


def test_a_swap_that_is_not_there_is_not_resumed_from():
    assert fixed("linux /vmlinuz root=/dev/sda3 resume=UUID=gone quiet\n") == (
        f"linux /vmlinuz root=UUID={ROOT} noresume quiet\n"
    )


def test_a_swap_by_device_is_named_by_uuid():
    assert f"resume=UUID={SWAP}" in fixed("linux /vmlinuz root=/dev/sda3 resume=/dev/sda2\n")


def test_a_serial_console_gets_a_screen_beside_it():
    assert fixed("linux /vmlinuz console=ttyS1,115200n8 ro\n") == (
        "linux /vmlinuz console=tty0 console=ttyS1,115200n8 ro\n"
    )
    assert fixed("linux /vmlinuz console=tty0 console=ttyS0,115200\n") is None


def test_the_menu_is_shown_on_the_screen_too():
    assert fixed("terminal_output serial\n") == "terminal_output serial console\n"
    assert fixed("GRUB_TERMINAL=serial\n", grub.DEFAULTS) == 'GRUB_TERMINAL="serial console"\n'
    assert fixed('GRUB_TERMINAL="serial"\n', grub.DEFAULTS) == 'GRUB_TERMINAL="serial console"\n'


def test_the_defaults_are_corrected_for_the_next_update():
    text = 'GRUB_CMDLINE_LINUX="root=/dev/sda3 net.ifnames=0"\nGRUB_DISABLE_LINUX_UUID=true\n'
    assert fixed(text, grub.DEFAULTS) == (
        f'GRUB_CMDLINE_LINUX="root=UUID={ROOT} net.ifnames=0"\n'
        "# before p2v: GRUB_DISABLE_LINUX_UUID=true\n"
    )


def test_a_boot_loader_specification_entry_is_corrected():
    path = "/boot/loader/entries/abc-5.14.conf"
    text = "title RHEL\nlinux /vmlinuz-5.14\noptions root=/dev/sda3 ro\n"
    assert fixed(text, path) == text.replace("/dev/sda3", f"UUID={ROOT}")


def test_a_grubenv_keeps_its_size():
    text = "# GRUB Environment Block\nkernelopts=root=/dev/sda3 ro\n".ljust(1024, "#")
    new = fixed(text, grub.GRUBENV)
    assert len(new) == 1024
    assert f"kernelopts=root=UUID={ROOT} ro\n" in new


def test_a_full_grubenv_is_left_alone():
    text = ("kernelopts=root=/dev/sda3 " + "x" * 1000)[:1023] + "\n"
    assert fixed(text, grub.GRUBENV) is None


def test_the_device_map_goes_aside():
    facts = guest({CFG: ""}, paths=("/boot/grub/device.map",))
    actions = [edit.action for edit in grub.plan(facts, hyperv(), ())]
    assert actions == [RenameFile("/boot/grub/device.map", "/boot/grub/device.map.before-p2v")]


@given(st.text())
def test_any_text_is_planned_and_its_plan_is_final(text):
    once = fixed(text)
    assert once is None or fixed(once) is None
