# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines start from the live image and are migrated; their disks stay as they are.

Each is a QEMU with its own firmware, controllers and network cards; without hardware virtualisation
it takes one to three minutes until the image has started.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2v.guest.rehearsal.verdict import Outcome
from p2v.guest.report import report_path
from p2v.images.compare import compare_images
from p2v.model.units import parse_size
from tests.e2e.guests import MAC, Guest, build, make_quick
from tests.e2e.live_guest import guest
from tests.e2e.live_image import (
    MIGRATION_S,
    TELL,
    answers,
    assert_untouched,
    image_of,
    inventory_of,
    migrated,
    overlay,
    stick,
)
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
CONVERSION_S = 3000.0
slow = pytest.mark.slow


# --- the image itself -----------------------------------------------------------------------------


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


# --- the whole job, unattended --------------------------------------------------------------------


def test_a_bios_machine_that_starts_from_cd_is_migrated(iso, built, converter, tmp_path):
    source = built(Spec("iso-bios", table="dos", volumes=(("ext4", 64), ("ntfs", 64)))).path
    hardware = Hardware("bios", 1024, [*cdrom(iso), *host_network("e1000e")])
    device = "ide-hd,bus=ide.0,serial=P2VSATA"
    asked = {"vcpu": 3, "memory": "640M", "network": ["*=LAN:20"]}
    document = migrated(hardware, source, device, converter, tmp_path, all_blocks=True, **asked)
    assert compare_images(source, image_of(document)).same
    vm = document["plan"]["vm"]
    assert (vm["cpus"], vm["memory"]) == (3, 640 << 20)
    assert [(nic["network"], nic["vlan"]) for nic in vm["nics"]] == [("LAN", 20)]
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


@slow
def test_a_machine_without_a_network_is_migrated_by_a_stick(iso, built, converter, tmp_path):
    source = built(Spec("iso-stream", table="gpt", volumes=(("random", 96),))).path
    data = tmp_path / "data.img"
    with data.open("wb") as file:
        file.truncate(256 << 20)
    tool("mformat", "-i", data, "-F", "-v", "P2VDATA", "::")
    said = {"confirm": "yes", "stream": "P2VDATA", "id": "iso-1", "all_blocks": True,
            "convert": False, "post": TELL, "fail": TELL}  # fmt: skip
    overlaid = overlay(source, tmp_path)
    words = [*cdrom(iso), "-nic", "none", *disk(overlaid, "virtio-blk-pci", "qcow2"),
             *stick(tmp_path, said), "-drive", f"file={data},format=raw,if=none,id=data",
             "-device", "usb-storage,bus=ehci.0,drive=data,removable=on"]  # fmt: skip
    with switched_on(Hardware("bios", 1024, words), tmp_path / "machine") as machine:
        machine.await_off(MIGRATION_S)
        told = machine.serial
    assert "migration iso-1 is finished" in told, told[-6000:]
    tool("mcopy", "-s", "-i", data, "::/iso-1", tmp_path)
    image = image_of(converter.p2v("import", tmp_path / "iso-1"))
    assert compare_images(source, image).same
    assert (image.parent / "evidence.tar.gz").exists()
    assert_untouched(overlaid)


# --- attended -------------------------------------------------------------------------------------


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


# --- settings -------------------------------------------------------------------------------------


@slow
def test_an_unknown_key_stops_everything_and_is_named_on_the_screen(iso, tmp_path):
    words = [*direct(iso, tmp_path, "p2v.confirm=yes", "p2v.sever=https://10.0.2.2"), *cdrom(iso)]
    with switched_on(Hardware("bios", 1024, words), tmp_path) as machine:
        shown = machine.await_screen(r"'p2v\.sever'")
    assert "is 'server' meant?" in shown.replace("\n", "")  # the message is longer than a line


# --- live, then from the image --------------------------------------------------------------------

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
