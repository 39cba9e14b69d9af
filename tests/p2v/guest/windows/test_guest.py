# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole conversions of disks that hold real registries, in the appliance."""

import gzip
import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from p2v.guest.convert import Request, convert
from p2v.guest.report import Report, Verdict
from p2v.guest.target import NicAddress, Platform
from p2v.guest.windows.registry.diff import differences
from p2v.guest.windows.registry.hive import Hive
from p2v.model.errors import NoGuestError
from tests.p2v.guest.windows import building
from tests.p2v.guest.windows.building import (
    CONFIG,
    SYSTEM32,
    WINDOWS_10,
    MiB,
    on_disk,
    packed,
    real,
    sh,
    system_files,
)

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(1800)]

MAC = "ec:f4:bb:48:7f:ed"
GUID = "{08BA0CD8-E98C-475C-BADF-65130C043BD6}"
BOOT_DRIVERS = ("vmbus", "storvsc", "storflt", "intelide", "pciide", "atapi")
WINDOWS_7 = {
    "ProductName": "Windows 7 Enterprise",
    "CurrentVersion": "6.1",
    "CurrentBuildNumber": "7601",
    "EditionID": "Enterprise",
    "InstallationType": "Client",
}
VISTA = WINDOWS_7 | {"ProductName": "Windows Vista Business", "CurrentVersion": "6.0"}


def read_back(image: Path, start: int, path: str) -> bytes:
    """Return a file of the NTFS volume at a place of a disk, read by another NTFS driver."""
    volume = image.with_suffix(".read")
    with image.open("rb") as source, volume.open("wb") as out:
        source.seek(start)
        while piece := source.read(MiB):
            out.write(piece)
        out.truncate(160 * MiB)
    done = subprocess.run(
        ["ntfscat", volume, path.lstrip("/")], capture_output=True, check=True, timeout=60
    )
    volume.unlink()
    return done.stdout


def converted(image: Path, platform: Platform = Platform.HYPERV, **changes: object) -> Report:
    nics = (NicAddress("eno1", MAC),)
    return convert(Request((image,), platform, nics=nics, **changes))  # type: ignore[arg-type]


def start_of(path: Path, service: str) -> tuple[int, bool]:
    """Return the start type of a service, and whether an override is left, as hivex reads them."""
    with building.hivex(path) as handle:
        node = handle.root()
        for name in ("ControlSet001", "Services", service):
            node = handle.node_get_child(node, name)
        start = handle.value_dword(handle.node_get_value(node, "Start"))
        return start, handle.node_get_child(node, "StartOverride") is not None


def test_a_windows_10_whose_registry_was_being_written_starts_on_hyperv(tmp_path):
    files = system_files(tmp_path, WINDOWS_10, packed("SYSTEM_B"))
    for number, log in enumerate(building.logs(), 1):
        files[f"{CONFIG}/SYSTEM.LOG{number}"] = log
    image = on_disk(tmp_path, files)

    report = converted(image)

    assert report.verdict is Verdict.CONVERTED, report.summary
    assert all(edit.done for edit in report.edits) and all(check.passed for check in report.checks)
    hive = tmp_path / "SYSTEM"
    hive.write_bytes(read_back(image, MiB, f"{CONFIG}/SYSTEM"))
    for driver in BOOT_DRIVERS:
        assert start_of(hive, driver) == (0, False)
    assert start_of(hive, "p2v-firstboot") == (2, False)
    after = Hive(hive.read_bytes())
    changed = {one.key.casefold() for one in differences(Hive(real("SYSTEM_B")), after)}
    assert changed == {
        "controlset001\\" + key
        for key in (
            *(rf"services\{name}\startoverride" for name in BOOT_DRIVERS),
            r"services\p2v-firstboot",
            r"services\stdcfltn",
            r"control\class\{4d36e967-e325-11ce-bfc1-08002be10318}",
            r"control\crashcontrol",
            r"control\session manager\power",
        )
    }
    assert read_back(image, MiB, f"{CONFIG}/SYSTEM.LOG1") == b""
    assert read_back(image, MiB, f"{CONFIG}/SYSTEM.LOG2") == b""
    assert read_back(image, MiB, "/Users/Administrator/notes.txt") == b"keep me"
    assert b"Invoke-Netsh" in read_back(image, MiB, "/Windows/p2v-firstboot/firstboot.ps1")

    again = converted(image)
    assert again.verdict is Verdict.UNCHANGED, [edit.action for edit in again.edits]


@pytest.mark.slow
def test_by_uefi_it_gets_a_fallback_loader_and_keeps_its_address(tmp_path):
    hive = tmp_path / "edited"
    hive.write_bytes(real("SYSTEM_B"))
    with building.hivex(hive, write=True) as handle:
        node = handle.root()
        for name in rf"ControlSet001\Services\Tcpip\Parameters\Interfaces\{GUID}".split("\\"):
            node = handle.node_get_child(node, name)
        for name, kind, value in (
            ("EnableDHCP", 4, bytes(4)),
            ("IPAddress", 7, "10.0.0.5\0\0".encode("utf-16-le")),
            ("SubnetMask", 7, "255.0.0.0\0\0".encode("utf-16-le")),
        ):
            handle.node_set_value(node, {"key": name, "t": kind, "value": value})
    files = system_files(tmp_path, WINDOWS_10, hive.read_bytes())
    efi = {"/EFI/Microsoft/Boot/bootmgfw.efi": b"the boot manager" * 100}
    image = on_disk(tmp_path, files, efi)

    report = converted(image)

    assert report.verdict is Verdict.CONVERTED, report.summary
    assert report.target.generation == 2
    sh("mcopy", "-i", f"{image}@@{MiB}", "::/EFI/BOOT/BOOTX64.EFI", tmp_path / "fallback")
    assert (tmp_path / "fallback").read_bytes() == efi["/EFI/Microsoft/Boot/bootmgfw.efi"]
    table = read_back(image, 33 * MiB, "/Windows/p2v-firstboot/interfaces.csv").decode()
    assert f'"{MAC.upper()}","Ethernet","10.0.0.5/255.0.0.0"' in table
    after = Hive(read_back(image, 33 * MiB, f"{CONFIG}/SYSTEM"))
    assert after.find(rf"ControlSet001\Services\Tcpip\Parameters\Interfaces\{GUID}") is None
    assert start_of_hive(after, "intelide") == (0, True)


def start_of_hive(hive: Hive, service: str) -> tuple[int | None, bool]:
    key = hive.find(rf"ControlSet001\Services\{service}")
    return key.number("Start"), key.subkey("StartOverride") is not None


@pytest.mark.slow
def test_a_windows_7_is_changed_in_both_its_control_sets(tmp_path):
    image = on_disk(tmp_path, system_files(tmp_path, WINDOWS_7, packed("SYSTEM"), 0x14C))
    report = converted(image)
    assert report.verdict is Verdict.CONVERTED, report.summary
    assert [one.code for one in report.problems].count(
        "address-not-carried"
    ) == 2  # no such adapters
    after = Hive(read_back(image, MiB, f"{CONFIG}/SYSTEM"))
    for name in ("ControlSet001", "ControlSet002"):
        assert after.find(rf"{name}\Services\storvsc").number("Start") == 0
        assert after.find(rf"{name}\Services\VMTools").number("Start") == 4


@pytest.mark.slow
def test_on_kvm_it_gets_the_drivers_of_a_folder(tmp_path):
    folder = tmp_path / "virtio-win"
    for name in ("viostor", "vioscsi", "NetKVM"):
        path = folder / name / "w10" / "amd64"
        path.mkdir(parents=True)
        for suffix in ("inf", "sys", "cat"):
            (path / f"{name.lower()}.{suffix}").write_bytes(f"{name} {suffix}".encode())
    image = on_disk(tmp_path, system_files(tmp_path, WINDOWS_10, real("SYSTEM_B")))
    report = converted(image, Platform.KVM, drivers=str(folder))
    assert report.verdict is Verdict.CONVERTED, report.summary
    assert read_back(image, MiB, f"{SYSTEM32}/drivers/viostor.sys") == b"viostor sys"
    netkvm = read_back(image, MiB, "/Windows/p2v-firstboot/drivers/netkvm.inf")
    assert netkvm == b"NetKVM inf"
    after = Hive(read_back(image, MiB, f"{CONFIG}/SYSTEM"))
    assert start_of_hive(after, "viostor") == (0, False)
    assert after.find(r"DriverDatabase\DriverInfFiles\p2v-viostor.inf") is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "system", "extra", "mark", "code"),
    [
        (WINDOWS_10, "SYSTEM_B", {"/hiberfil.sys": b"hibr" + bytes(8188)}, False, "hibernated"),
        (WINDOWS_10, "SYSTEM", {}, True, "unclean-volume"),
        (WINDOWS_10, "SYSTEM_2", {}, False, "damaged-registry"),
        (VISTA, "SYSTEM", {}, False, "windows-too-old"),
    ],
    ids=["hibernated", "marked for chkdsk", "logs lost", "Vista"],
)
def test_a_refusal_names_the_way_out_and_changes_nothing(
    tmp_path, version, system, extra, mark, code
):
    files = system_files(tmp_path, version, packed(system)) | extra
    windows, image = tmp_path / "ntfs", tmp_path / "windows.raw"
    building.volume(windows, files)
    if mark:
        sh("ntfsfix", windows)
    building.disk(image, windows)
    before = hashlib.sha256(image.read_bytes()).digest()
    report = converted(image)
    assert (report.verdict, report.code) == (Verdict.REFUSED, code)
    assert report.hint
    assert hashlib.sha256(image.read_bytes()).digest() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aes-xts_128", "suspended"])
def test_a_real_volume_of_bitlocker_is_refused_with_the_way_out(tmp_path, name):
    volume, image = tmp_path / "volume", tmp_path / "windows.raw"
    volume.write_bytes(bitlocker(tmp_path, name))
    building.disk(image, volume)
    with pytest.raises(NoGuestError, match="encrypted") as caught:
        converted(image)
    assert "manage-bde -off" in caught.value.way_out


def bitlocker(folder: Path, name: str) -> bytes:
    """Return a volume that Windows encrypted, of the tests of dissect.fve (AGPL-3.0, on PyPI)."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:"]
    done = subprocess.run(
        [*pip, "-d", str(folder), "dissect.fve==4.6"], capture_output=True, timeout=300, check=False
    )
    if done.returncode:
        pytest.skip(f"PyPI can't be reached: {done.stderr[-200:].decode()}")
    archive = folder / "dissect_fve-4.6.tar.gz"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == (
        "49141e62cd3cc735c324f3c76c8635b3fbd0613316b2f823ee78a481c7c543fe"
    )
    with tarfile.open(archive) as tar:
        member = tar.extractfile(f"dissect_fve-4.6/tests/_data/bde/{name}.bin.gz")
        assert member is not None
        return gzip.decompress(member.read())
