# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines start from the live image and are migrated; their disks stay as they are.

Each is a QEMU with its own firmware, controllers and network cards; without hardware virtualisation
it takes one to three minutes until the image has started.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from p2v.guest.rehearsal.verdict import Outcome
from p2v.guest.report import report_path
from p2v.images.compare import compare_images
from p2v.model.units import parse_size
from tests.e2e.guests import MAC, Guest, build, make_quick
from tests.e2e.live_guest import guest
from tests.e2e.physical import (
    Hardware,
    cdrom,
    direct,
    disk,
    host_network,
    switched_on,
    usb_stick,
)
from tests.e2e.running import P2V, Converter, run, tool
from tests.e2e.sources import Spec, digest_of
from tests.p2v.guest.windows import building

pytestmark = [
    pytest.mark.root,
    pytest.mark.qemu,
    pytest.mark.timeout(3600),
]

ROOT = Path(__file__).parents[2]
CAPTURES = Path(__file__).parent / "captures"
MIGRATION_S = 1500.0
CONVERSION_S = 3000.0
TELL = "journalctl -b -o short-monotonic > /dev/ttyS0; systemctl poweroff"
slow = pytest.mark.slow


@pytest.fixture(scope="session")
def iso() -> Path:
    """The live image of this tree."""
    if given := os.environ.get("P2V_ISO"):
        return Path(given)
    done = run(["make", "-s", "-C", ROOT, "iso"], timeout_s=1800)
    assert done.code == 0, done.out + done.err
    return next((ROOT / "dist").glob("p2v-*.iso"))


def answers(converter: Converter, **more: object) -> dict[str, object]:
    """Return the answers of an unattended migration to `converter`, as a machine reaches it."""
    return {
        "confirm": "yes",
        "server": converter.address.replace("127.0.0.1", "10.0.2.2"),
        "token": converter.token(),
        "fingerprint": converter.fingerprint,
        "id": "iso-1",
        "wait": 600,
        "convert": False,
        "post": TELL,
        "fail": TELL,
        **more,
    }


def stick(folder: Path, said: dict[str, object]) -> list[str]:
    """Return QEMU's words for a stick labelled P2VCONF with an answer file.

    Folders `drivers` and `firmware` in `folder` are put onto it, too.
    """
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in said.items()]
    (folder / "p2v.toml").write_text("".join(lines))
    image = folder / "answers.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    tool("mformat", "-i", image, "-v", "P2VCONF", "::")
    tool("mcopy", "-i", image, folder / "p2v.toml", "::/")
    for more in ("drivers", "firmware"):
        if (folder / more).is_dir():
            tool("mcopy", "-s", "-i", image, folder / more, "::/")
    return ["-drive", f"file={image},format=raw,if=none,id=answers",
            "-device", "usb-ehci,id=ehci",
            "-device", "usb-storage,bus=ehci.0,drive=answers,removable=on"]  # fmt: skip


def overlay(base: Path, folder: Path) -> Path:
    """Return a disk that looks like `base`, and in which every write is seen."""
    path = folder / f"{base.stem}.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base.resolve(), path)
    return path


def assert_untouched(overlaid: Path) -> None:
    """Nothing was written to an overlay: the disk is, bit for bit, what it was."""
    mapped = json.loads(tool("qemu-img", "map", "--output=json", overlaid))
    assert [extent for extent in mapped if extent["depth"] == 0] == []


def migrated(
    hardware: Hardware, source: Path, device: str, converter: Converter, folder: Path,
    seconds: float = MIGRATION_S, **more: object,
) -> dict:  # fmt: skip
    """Start the machine with its disk and a stick of answers; return the migration's document."""
    said = answers(converter, **more)
    overlaid = overlay(source, folder)
    before = digest_of(source)
    words = [*hardware.devices, *disk(overlaid, device, "qcow2"), *stick(folder, said)]
    with switched_on(Hardware(hardware.firmware, hardware.memory, words), folder) as machine:
        machine.await_off(seconds)
        told = machine.serial
    document = converter.show("iso-1")
    assert document["state"] == "finished", (document["problem"], told[-6000:])
    assert_untouched(overlaid)
    assert digest_of(source) == before
    evidence = evidence_of(document)
    names = tool("tar", "-tzf", evidence).split()
    assert {"evidence/dmesg.txt", "evidence/inventory.json", "evidence/lsblk.json"} <= {*names}
    assert str(said["token"]) not in tool("tar", "-xOzf", evidence)
    return document


def evidence_of(document: dict) -> Path:
    return image_of(document).parent / "evidence.tar.gz"


def inventory_of(document: dict) -> tuple[dict, dict]:
    """Return what the machine said of itself, and of the one disk that was migrated."""
    inventory = json.loads(tool("tar", "-xOzf", evidence_of(document), "evidence/inventory.json"))
    named = document["plan"]["disks"][0]["name"]
    (found,) = [disk for disk in inventory["disks"] if disk["name"] == named]
    return inventory, found


def image_of(document: dict) -> Path:
    (image,) = document["images"]
    return Path(image)


# --- the image itself ----------------------------------------------------------------------------


@slow
def test_two_builds_of_a_commit_are_alike_byte_for_byte(room):
    """One with the Debian part that is kept, and one that makes it anew."""
    tool("git", "clone", "-q", ROOT, room / "clone")
    for name, cache in (("kept", ROOT / ".cache/iso"), ("anew", room / "cache")):
        env = os.environ | {"P2V_ISO_CACHE": str(cache), "TMPDIR": str(room)}
        done = run([room / "clone/iso/build.sh"], env, timeout_s=1800)
        assert done.code == 0, done.out + done.err
        (room / "clone/dist").rename(room / name)
    for path in (room / "kept").iterdir():
        assert digest_of(path) == digest_of(room / "anew" / path.name), path.name


# --- the whole job, unattended -------------------------------------------------------------------


def test_a_bios_machine_that_starts_from_cd_is_migrated(iso, built, converter, tmp_path):
    source = built(Spec("iso-bios", table="dos", volumes=(("ext4", 64), ("ntfs", 64)))).path
    hardware = Hardware("bios", 1024, [*cdrom(iso), *host_network("e1000e")])
    device = "ide-hd,bus=ide.0,serial=P2VSATA"
    document = migrated(hardware, source, device, converter, tmp_path, all_blocks=True)
    assert compare_images(source, image_of(document)).same
    machine, drive = inventory_of(document)
    assert machine["firmware"] == {"kind": "bios", "secure_boot": None}
    assert machine["smbios"]["serial"] == "P2V0001"
    assert (drive["serial"], drive["smart"]["passed"]) == ("P2VSATA", True)


def test_a_uefi_machine_with_secure_boot_that_starts_from_usb_is_migrated(
    iso, built, converter, tmp_path
):
    source = built(Spec("iso-uefi", table="gpt", volumes=(("vfat", 64), ("lvm", 96)))).path
    hardware = Hardware("secure", 1024, [*usb_stick(iso), *host_network("virtio-net-pci")])
    whole = {"format": "raw", "all_blocks": True}
    document = migrated(hardware, source, "nvme,serial=P2VNVME", converter, tmp_path, **whole)
    assert digest_of(image_of(document)) == digest_of(source)
    machine, drive = inventory_of(document)
    assert machine["firmware"] == {"kind": "uefi", "secure_boot": True}
    assert (drive["serial"], drive["smart"]["passed"]) == ("P2VNVME", True)
    assert drive["smart"]["media_errors"] == 0 and drive["smart"]["temperature_c"]


UEFI_LVM = Guest(
    "uefi-lvm", "bookworm", Outcome.INITRAMFS_SHELL, uefi=True, layer="lvm", initramfs="dep",
    serial=True,
)  # fmt: skip
WHOLE_JOBS = {
    "bios": ("bios", "ide-hd,bus=ide.0,serial=P2VSATA"),
    "uefi-lvm": ("uefi", "nvme,serial=P2VNVME"),
}


@slow
@pytest.mark.parametrize("which", WHOLE_JOBS)
def test_a_server_is_migrated_converted_and_reaches_its_login(iso, converter, room, which):
    firmware, device = WHOLE_JOBS[which]
    source = make_quick(room / "server.img") if which == "bios" else build(UEFI_LVM)
    hardware = Hardware(firmware, 1024, [*cdrom(iso), *host_network("e1000e", MAC)])
    document = migrated(hardware, source, device, converter, room, CONVERSION_S, convert=True)
    image = image_of(document)
    report = json.loads(report_path(image).read_text())
    assert report["verdict"] == "converted"
    limits = ("--memory", "768M", "--timeout", "1500", "--progress", "none", "--json")
    seen = run([*P2V, "rehearse", str(image), *limits], timeout_s=CONVERSION_S)
    assert (seen.json["rehearsal"]["verdict"], seen.code) == ("login", 0), seen.out[-3000:]


def windows_disk(folder: Path) -> Path:
    """Make a disk (MBR) of an NTFS volume with a real Windows 10 registry, clean."""
    files = building.system_files(folder, building.WINDOWS_10, building.real("SYSTEM_B"))
    disk = building.on_disk(folder, files)
    with disk.open("r+b") as file:
        file.write(bytes.fromhex("33c08ed0bc007c"))  # as the MBR of a Windows begins: it is started
    return disk


@slow
def test_a_windows_disk_is_migrated_and_converted(iso, converter, room):
    source = windows_disk(room)
    hardware = Hardware("bios", 1024, [*cdrom(iso), *host_network("e1000e")])
    document = migrated(hardware, source, "ide-hd,bus=ide.0", converter, room, convert=True)
    report = json.loads(report_path(image_of(document)).read_text())
    assert report["verdict"] == "converted", report
    assert all(check["passed"] for check in report["checks"])


# --- attended ------------------------------------------------------------------------------------


def to_the_end(
    see: Callable[[str], object], say: Callable[[str], None], press: Callable[[str], None],
    converter: Converter,
) -> None:  # fmt: skip
    """Go through the wizard, from its first screen to a finished migration."""
    address = f"10.0.2.2:{converter.port}"
    see("Where do the images go")
    press("tab")
    say(address)
    see(re.escape(address))
    press("tab")
    say(converter.code())
    press("ctrl-n")
    see("Findings: ")
    press("ctrl-n")
    see(r"1 disk, \d+")
    press("ctrl-n")
    see("Processors")
    press("ctrl-n")
    see("knows no hosts")
    press("ctrl-n")
    see("starts the migration")
    press("ctrl-n")
    see("DONE")


def attended(iso: Path, source: Path, folder: Path, *settings: str) -> tuple[Hardware, Path]:
    overlaid = overlay(source, folder)
    words = [*direct(iso, folder, *settings), *cdrom(iso), *host_network("virtio-net-pci"),
             *disk(overlaid, "virtio-blk-pci", "qcow2")]  # fmt: skip
    return Hardware("bios", 1024, words), overlaid


def assert_migrated(converter: Converter, source: Path, overlaid: Path) -> None:
    (migration,) = converter.migrations()
    assert migration["state"] == "finished"
    assert_untouched(overlaid)
    image = Path(migration["images"][0])
    assert compare_images(source, image).same
    assert (image.parent / "evidence.tar.gz").exists()


@slow
def test_keys_on_its_screen_migrate_a_machine(iso, built, converter, tmp_path):
    source = built(Spec("iso-screen", table="gpt", volumes=(("random", 96),))).path
    hardware, overlaid = attended(iso, source, tmp_path)
    with switched_on(hardware, tmp_path) as machine:
        to_the_end(machine.await_screen, machine.type, machine.press_all, converter)
    assert_migrated(converter, source, overlaid)


@slow
def test_keys_on_its_serial_line_migrate_a_machine(iso, built, converter, tmp_path):
    source = built(Spec("iso-serial", table="gpt", volumes=(("random", 96),))).path
    hardware, overlaid = attended(iso, source, tmp_path, "console=tty0", "console=ttyS0,115200")
    keys = {"tab": "\t", "ctrl-n": "\x0e"}
    with switched_on(hardware, tmp_path) as machine:
        to_the_end(machine.await_serial, machine.say, lambda key: machine.say(keys[key]), converter)
    assert_migrated(converter, source, overlaid)


# --- every way to start --------------------------------------------------------------------------


def shows_the_wizard(hardware: Hardware, folder: Path, name: str) -> None:
    with switched_on(hardware, folder) as machine:
        machine.await_screen("Where do the images go")
        if os.environ.get("P2V_CAPTURES"):
            machine.screen(CAPTURES / f"iso-{name}.png")


@slow
@pytest.mark.parametrize("medium", [cdrom, usb_stick], ids=["cd", "usb"])
@pytest.mark.parametrize("firmware", ["bios", "uefi", "uefi32", "secure"])
def test_it_starts_and_shows_the_wizard(iso, tmp_path, firmware, medium):
    hardware = Hardware(firmware, 1024, medium(iso))
    shows_the_wizard(hardware, tmp_path, f"{firmware}-{medium.__name__}")


@slow
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


@contextmanager
def web_server(folder: Path) -> Iterator[int]:
    """Serve a folder by HTTP; give the port."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@slow
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


# --- hardware ------------------------------------------------------------------------------------

CONTROLLERS = {
    "ide": "ide-hd,bus=ide.0",
    "ahci": "ide-hd,bus=ahci.0",
    "nvme": "nvme,serial=P2VNVME",
    "virtio-blk": "virtio-blk-pci",
    "virtio-scsi": "scsi-hd,bus=vscsi.0",
    "megasas": "scsi-hd,bus=megasas.0",
    "lsi": "scsi-hd,bus=lsi.0",
}
BUSES = ("ich9-ahci,id=ahci", "virtio-scsi-pci,id=vscsi", "megasas,id=megasas", "lsi,id=lsi")
CARDS = ("e1000e", "vmxnet3", "virtio-net-pci", "rtl8139")


@slow
def test_disks_and_network_cards_of_every_kind_are_found_with_1_gib(iso, converter, tmp_path):
    words = [word for bus in BUSES for word in ("-device", bus)]
    for number, card in enumerate(CARDS):
        net = f"user,id=net{number},net=10.0.{number + 2}.0/24"
        words += ["-netdev", net, "-device", f"{card},netdev=net{number}"]
    for size, (name, device) in enumerate(CONTROLLERS.items(), 16):
        path = tmp_path / f"{name}.img"
        with path.open("wb") as file:
            file.truncate(size << 20)  # by which it is told from the others
        words += disk(path, device)
    words += [
        *direct(iso, tmp_path),
        *cdrom(iso, "ide.1"),
        *stick(tmp_path, answers(converter, pre="p2v-agent inventory --json > /dev/ttyS0")),
    ]
    with switched_on(Hardware("bios", 1024, words, machine="pc"), tmp_path) as machine:
        machine.await_off(MIGRATION_S)
        said = machine.serial
    inventory, _ = json.JSONDecoder().raw_decode(said[said.index("{") :])
    found = {found["size"] >> 20 for found in inventory["disks"]}
    assert {*range(16, 16 + len(CONTROLLERS))} <= found
    drivers = {nic["driver"] for nic in inventory["nics"]}
    assert {"e1000e", "vmxnet3", "virtio_net", "8139cp"} <= drivers
    document = converter.show("iso-1")
    assert (document["state"], len(document["images"])) == ("finished", len(CONTROLLERS))


MODULE = "usr/lib/modules/{}/kernel/drivers/net/ethernet/intel/e100.ko.xz"
FIRMWARE = "usr/lib/firmware/e100/d102e_ucode.bin"
HIDE = f"""#!/bin/sh
[ "$1" = prereqs ] && exit
rm "$rootmnt"/{MODULE.format("*")} "$rootmnt"/{FIRMWARE}
"""
APPEND = "echo /scripts/init-bottom/hide >> /scripts/init-bottom/ORDER\n"


def hidden_from_the_image(iso: Path, folder: Path, initrd: Path) -> None:
    """Let the started system have no e100 and no firmware for it; put both into `folder`."""
    tool("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/live", folder / "live-all")
    (system,) = (folder / "live-all").glob("*.squashfs")
    names = tool("unsquashfs", "-l", "-d", "", system, MODULE.format("*")).split()
    (module,) = [name for name in names if name.endswith("e100.ko.xz")]
    tool("unsquashfs", "-q", "-d", folder / "taken", system, module.lstrip("/"), FIRMWARE)
    for source, target in (
        (module.lstrip("/"), "drivers/e100.ko.xz"),
        (FIRMWARE, "firmware/e100/d102e_ucode.bin"),
    ):
        (folder / target).parent.mkdir(parents=True)
        (folder / "taken" / source).rename(folder / target)
    more = folder / "more"
    for name, text in (("scripts/init-bottom/hide", HIDE), ("conf/conf.d/hide", APPEND)):
        (more / name).parent.mkdir(parents=True)
        (more / name).write_text(text)
        (more / name).chmod(0o755)
    initrd.chmod(0o600)
    pad = -initrd.stat().st_size % 4
    with initrd.open("ab") as file:
        file.write(bytes(pad))
        file.flush()
        files = "\n".join(str(path.relative_to(more)) for path in sorted(more.rglob("*")))
        cpio = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(cpio, input=files.encode(), stdout=file, cwd=more, check=True)


@slow
def test_a_driver_and_firmware_that_the_image_lacks_come_from_a_stick(
    iso, built, converter, tmp_path
):
    """An i82551: its driver asks for firmware before the card is brought up, and insists."""
    source = built(Spec("iso-stick", table="gpt", volumes=(("ext4", 64),))).path
    words = [*direct(iso, tmp_path), *cdrom(iso), *host_network("i82551")]
    hidden_from_the_image(iso, tmp_path, tmp_path / "live/initrd")
    tell = f"ls /{MODULE.format('*')} /{FIRMWARE} > /dev/ttyS0 2>&1; {TELL}"
    hardware = Hardware("bios", 1024, words)
    document = migrated(
        hardware, source, "virtio-blk-pci", converter, tmp_path, post=tell, all_blocks=True
    )
    assert compare_images(source, image_of(document)).same
    said = (tmp_path / "serial.log").read_text(errors="replace")
    assert "loaded drivers/e100.ko.xz" in said and "loaded firmware/e100/d102e_ucode.bin" in said
    assert len(re.findall(r"cannot access .*(?:e100.ko.xz|d102e_ucode.bin)", said)) == 2


# --- settings ------------------------------------------------------------------------------------


@slow
def test_an_unknown_key_stops_everything_and_is_named_on_the_screen(iso, tmp_path):
    words = [*direct(iso, tmp_path, "p2v.confirm=yes", "p2v.sever=https://10.0.2.2"), *cdrom(iso)]
    with switched_on(Hardware("bios", 1024, words), tmp_path) as machine:
        shown = machine.await_screen(r"'p2v\.sever'")
    assert "is 'server' meant?" in shown.replace("\n", "")  # the message is longer than a line


# --- live, then from the image -------------------------------------------------------------------

LIVE_PASS = """
for card in /sys/class/net/e*; do
    ip link set dev "${{card##*/}}" up
    ip address add 10.0.2.15/24 dev "${{card##*/}}"
done
export P2V_TOKEN={token} P2V_FINGERPRINT={fingerprint}
cp p2v-agent /root/
/root/p2v-agent migrate --server https://10.0.2.2:{port} --name old01 --format raw --all-blocks \\
    --live --no-convert --cutover later --disk vda --disk vdb --disk vdc --progress none || exit
head -c 3M /dev/urandom > /root/written-since
"""


@slow
def test_what_was_begun_live_is_finished_from_the_image_by_what_differs(iso, converter, room):
    server = guest(room)
    program = room / "p2v-agent"
    tool(sys.executable, ROOT / "agent/onefile/build.py", program, "--level", "1")
    script = LIVE_PASS.format(
        token=converter.token(), fingerprint=converter.fingerprint, port=converter.port
    )
    server.run(script, {"p2v-agent": program}, room)
    (begun,) = converter.migrations()
    assert begun["state"] == "receiving", begun
    before = [digest_of(path) for path in server.disks]
    words = [*direct(iso, room), *cdrom(iso), *host_network(),
             *stick(room, answers(converter, id=begun["id"], all_blocks=True))]  # fmt: skip
    for number, path in enumerate(server.disks):
        words += disk(path, "virtio-blk-pci", serial=f"disk{number}")
    with switched_on(Hardware("bios", 1024, words), room / "iso") as machine:
        machine.await_off(MIGRATION_S)
        told = machine.serial
    document = converter.show(begun["id"])
    assert document["state"] == "finished", (document["problem"], told[-6000:])
    assert [digest_of(path) for path in server.disks] == before
    for image, path in zip(document["images"], server.disks, strict=True):
        assert compare_images(path, Path(image)).same
    sent, same = re.search(r"finished: (\S+ \S+) sent, (\S+ \S+) were there", told).groups()
    assert parse_size(same.replace(" ", "")) > 10 * parse_size(sent.replace(" ", "")), told
