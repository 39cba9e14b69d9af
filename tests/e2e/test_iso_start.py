# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way to start the live image, up to the wizard.

With P2V_CAPTURES=1 what is on the screen is kept in captures/.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from p2v.guest.rehearsal.screen import Picture, parse_ppm, read_text
from tests.e2e.dhcp import http_boot, plugged_in
from tests.e2e.physical import BOOT_S, Hardware, Physical, cdrom, switched_on, usb_stick
from tests.e2e.running import tool, wait_for
from tests.e2e.webserver import web_server

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]

ROOT = Path(__file__).parents[2]
CAPTURES = Path(__file__).parent / "captures"


def shows_the_wizard(hardware: Hardware, folder: Path, name: str) -> None:
    with switched_on(hardware, folder) as machine:
        machine.await_screen("Where do the images go")
        if os.environ.get("P2V_CAPTURES"):
            machine.screen(CAPTURES / f"iso-{name}.png")


@pytest.mark.parametrize("medium", [cdrom, usb_stick], ids=["cd", "usb"])
@pytest.mark.parametrize("firmware", ["bios", "uefi", "uefi32", "secure"])
def test_it_starts_and_shows_the_wizard(iso, tmp_path, firmware, medium):
    hardware = Hardware(firmware, 1024, medium(iso))
    shows_the_wizard(hardware, tmp_path, f"{firmware}-{medium.__name__}")


@pytest.mark.parametrize("part", ["bootx64.efi", "grubx64.efi"])
def test_secure_boot_refuses_a_boot_loader_that_was_tampered_with(iso, tmp_path, part):
    tool("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/EFI", tmp_path / "EFI")
    program = tmp_path / "EFI/boot" / part
    program.chmod(0o600)
    content = bytearray(program.read_bytes())
    content[len(content) // 2] ^= 1
    program.write_bytes(content)
    image = tmp_path / "tampered.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    tool("mformat", "-i", image, "-F", "::")
    tool("mcopy", "-i", image, "-s", tmp_path / "EFI", "::/")
    words = ["-nic", "none", *usb_stick(image)]
    refused = "Access Denied|Security Violation|Verification failed"
    with switched_on(Hardware("secure", 1024, words), tmp_path) as machine:
        machine.await_serial(refused)  # where the firmware says what it shows
        if os.environ.get("P2V_CAPTURES"):
            machine.screen(CAPTURES / f"iso-tampered-{part}.png")
    with switched_on(Hardware("uefi", 1024, words), tmp_path / "open") as machine:
        machine.await_serial("GRUB")  # which finds no menu on this medium


# --- the menu ------------------------------------------------------------------------------------

ENTRIES = ("migrate", "large text", "serial line", "memory", "check", "shell")


def choose(machine: Physical, entry: str) -> None:
    """Choose from the menu on the screen."""
    machine.await_screen("migrate this machine")
    for _ in range(ENTRIES.index(entry)):
        machine.press("down")
    machine.press("ret")


def halved(picture: Picture) -> Picture:
    """Leave out every second line, and of each line every second pixel."""
    row = picture.width * 3
    rows = (picture.pixels[at : at + row] for at in range(0, len(picture.pixels), 2 * row))
    pixels = b"".join(line[at : at + 3] for line in rows for at in range(0, row, 6))
    return Picture(picture.width // 2, picture.height // 2, pixels)


def test_with_large_text_the_wizard_is_twice_the_size(iso, tmp_path):
    def shown() -> str:
        machine.text()
        picture = parse_ppm((tmp_path / "screen.ppm").read_bytes())
        return "\n".join(read_text(halved(picture)).lines)

    with switched_on(Hardware("bios", 1024, cdrom(iso)), tmp_path) as machine:
        choose(machine, "large text")
        wait_for(lambda: "Where do the images go" in shown(), BOOT_S, 1.0)
        if os.environ.get("P2V_CAPTURES"):
            machine.screen(CAPTURES / "iso-large.png")


def test_on_the_serial_line_the_menu_and_the_wizard_are_used_without_a_screen(iso, tmp_path):
    with switched_on(Hardware("bios", 1024, cdrom(iso)), tmp_path) as machine:
        machine.await_serial("migrate this machine")
        for key in "\x0e" * ENTRIES.index("serial line") + "\r":  # ^N is GRUB's, too
            machine.say(key)
        machine.await_serial("Where do the images go")


def test_from_memory_the_medium_can_be_removed(iso, tmp_path):
    with switched_on(Hardware("bios", 2048, cdrom(iso)), tmp_path) as machine:
        choose(machine, "memory")
        machine.await_screen("Where do the images go")
        machine.ask("eject", device="cd", force=True)
        machine.press("alt", "f2")
        machine.await_screen("#")
        machine.type("find /usr -type f | xargs cat | wc -c\n")  # all of it, little was read yet
        shown = machine.await_screen(r"(?m)^\d{9}\s*$|rror")
        assert "rror" not in shown, shown


def test_a_shell_is_given_in_place_of_the_wizard_and_the_log_hides_secrets(iso, tmp_path):
    with switched_on(Hardware("bios", 1024, cdrom(iso)), tmp_path) as machine:
        choose(machine, "shell")
        machine.await_screen("#")
        machine.type("p2v-agent --version\n")
        machine.await_screen(r"p2v-agent \d")
        machine.type("logger console p2v.token=abc42 p2v.font=large\n")  # as the kernel logs it
        machine.press("alt", "f3")
        machine.await_screen(r"console p2v\.token=\(hidden\) p2v\.font=large")


def test_a_medium_is_checked_and_a_damaged_one_is_told(iso, tmp_path):
    with switched_on(Hardware("bios", 1024, cdrom(iso)), tmp_path) as machine:
        choose(machine, "check")
        machine.await_screen("Verification successful")
    damaged = tmp_path / "damaged.iso"
    shutil.copyfile(iso, damaged)
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        file.write(b"damaged")
    with switched_on(Hardware("bios", 1024, cdrom(damaged)), tmp_path / "damaged") as machine:
        choose(machine, "check")
        machine.await_screen("Verification failed, tty8")
        machine.press("alt", "f8")
        shown = machine.await_screen("squashfs: FAILED")
        assert shown.count("FAILED") == 1, shown
    damaged.unlink()


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("firmware", "loader"),
    [("bios", "boot.ipxe"), ("bios", "bios.pxe"), ("secure", "bootx64.efi")],
    ids=["bios-ipxe", "bios-grub", "secure-grub"],
)
def test_it_starts_from_the_network(iso, tmp_path, firmware, loader):
    layout = tmp_path / "pxe"
    layout.mkdir()
    with web_server(layout) as port:
        tool(ROOT / "iso/pxe.sh", iso, layout, f"http://10.0.2.2:{port}")
        net = f"user,id=net,tftp={layout},bootfile={loader}"
        # UEFI starts from the network by itself; the card's own iPXE is for BIOS.
        rom = "" if firmware == "bios" else ",romfile="
        words = ["-netdev", net, "-device", f"virtio-net-pci,netdev=net,bootindex=1{rom}"]
        shows_the_wizard(Hardware(firmware, 2048, words), tmp_path, f"{firmware}-{loader}")


def test_uefi_starts_it_by_http_alone(iso, tmp_path):
    """Firmware, shim and GRUB fetch everything by HTTP, with Secure Boot enforced."""
    layout = tmp_path / "pxe"
    layout.mkdir()
    with plugged_in() as cable, web_server(layout, cable.here) as port:
        url = f"http://{cable.here}:{port}"
        tool(ROOT / "iso/pxe.sh", iso, layout, url)
        with http_boot(cable, f"{url}/bootx64.efi", tmp_path):
            shows_the_wizard(Hardware("secure", 2048, cable.words), tmp_path, "secure-http")
