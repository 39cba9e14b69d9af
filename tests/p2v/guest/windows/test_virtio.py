# SPDX-License-Identifier: GPL-3.0-or-later
from pathlib import Path

import pytest

from p2v.guest.edit import UploadFile
from p2v.guest.facts import GuestFacts
from p2v.guest.target import Platform
from p2v.guest.windows import virtio
from p2v.model.errors import UsageError
from tests.p2v.guest.windows.building import sh
from tests.p2v.guest.windows.making import (
    actions,
    control_set,
    facts,
    planned,
    refused,
    service,
    target,
    windows,
)

KVM = target(Platform.KVM)


def by_driver(folder: Path, *names: str) -> str:
    """Lay out a folder as virtio-win's ISO is."""
    for name in names:
        for driver, files in {
            "viostor": ("viostor.inf", "viostor.sys", "viostor.cat", "viostor.pdb"),
            "vioscsi": ("vioscsi.inf", "vioscsi.sys"),
            "NetKVM": ("netkvm.inf", "netkvm.sys", "netkvmco.exe", "vioprot.inf"),
            "qxldod": ("qxldod.inf",),
        }.items():
            for arch in ("x86", "amd64"):
                for file in files:
                    path = folder / driver / name / arch / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(f"{name} {arch}")
    return str(folder)


def on_kvm(drivers: str, found: GuestFacts):
    return planned(found, target(Platform.KVM, drivers=drivers))


def uploads(edits) -> dict[str, str]:
    return {
        edit.action.path: Path(edit.action.source).read_text()
        for edit in edits.edits
        if isinstance(edit.action, UploadFile)
    }


@pytest.mark.parametrize("drivers", ["", "/nonexistent/virtio-win"])
def test_without_drivers_kvm_is_refused_with_a_way_out(drivers):
    refusal = refused(facts(), target(Platform.KVM, drivers=drivers))
    assert refusal.code == "no-virtio-drivers"
    assert "--virtio-win" in refusal.hint and "SATA" in refusal.hint


def test_drivers_for_other_versions_only_are_none(tmp_path):
    folder = by_driver(tmp_path, "w7", "2k12R2")
    assert refused(facts(), target(Platform.KVM, drivers=folder)).code == "no-virtio-drivers"


def test_the_drivers_of_the_guests_version_and_processor_are_installed(tmp_path):
    edits = on_kvm(by_driver(tmp_path, "2k16", "2k19", "w10"), facts())
    found = uploads(edits)
    assert set(found.values()) == {"2k19 amd64"}
    assert {path.rpartition("/")[2] for path in found} == {
        "viostor.inf",
        "viostor.sys",
        "viostor.cat",
        "vioscsi.inf",
        "vioscsi.sys",
        "netkvm.inf",
        "netkvm.sys",
        "netkvmco.exe",
    }
    assert "/Windows/System32/drivers/viostor.sys" in found
    assert "/Windows/System32/drivers/vioscsi.sys" in found


def test_the_packages_layout_is_known_too(tmp_path):
    folder = tmp_path / "drivers" / "by-os" / "amd64" / "2k19"
    folder.mkdir(parents=True)
    for name in ("viostor.sys", "viostor.inf", "balloon.inf", "qemufwcfg.inf"):
        (folder / name).write_text("x")
    names = {path.rpartition("/")[2] for path in uploads(on_kvm(str(tmp_path), facts()))}
    assert names == {"viostor.sys", "viostor.inf", "balloon.inf"}


@pytest.mark.parametrize(
    ("product", "version", "build", "names"),
    [
        ("WinNT", (6, 1), 7601, ("w7",)),
        ("ServerNT", (6, 1), 7601, ("2k8r2",)),
        ("ServerNT", (6, 3), 9600, ("2k12r2",)),
        ("WinNT", (10, 0), 19045, ("w10",)),
        ("WinNT", (10, 0), 22631, ("w11", "w10")),
        ("LanmanNT", (10, 0), 14393, ("2k16",)),
        ("ServerNT", (10, 0), 26100, ("2k25", "2k22", "2k19", "2k16")),
    ],
)
def test_windows_are_called_as_virtio_win_calls_them(product, version, build, names):
    found = facts(windows(product=product, build=build), version=version)
    assert virtio.names(found.system, found.windows) == names


def test_windows_10_finds_the_disks_driver_in_its_driver_database(tmp_path):
    done = actions(on_kvm(by_driver(tmp_path, "2k19"), facts()))
    package = "p2v-viostor.inf_amd64_0000000000000000"
    assert r"set ControlSet001\Services\viostor\Start to 0" in done
    assert rf"set DriverDatabase\DriverInfFiles\p2v-viostor.inf\Active to '{package}'" in done
    device = "VEN_1AF4&DEV_1042&SUBSYS_11001AF4&REV_01"
    assert rf"set DriverDatabase\DeviceIds\PCI\{device}\p2v-viostor.inf to 01ff0000" in done
    assert not any("CriticalDeviceDatabase" in one for one in done)


def test_windows_7_finds_it_in_its_critical_device_database(tmp_path):
    known = windows(driver_database=False, product="WinNT")
    found = facts(known, version=(6, 1), architecture="i386")
    edits = on_kvm(by_driver(tmp_path, "w7"), found)
    assert set(uploads(edits).values()) == {"w7 x86"}
    device = "PCI#VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00"
    entry = rf"set ControlSet001\Control\CriticalDeviceDatabase\{device}\Service to 'viostor'"
    assert entry in actions(edits)


def test_sata_stays_a_way_to_start(tmp_path):
    known = windows(control_set(service("storahci", 0, overridden=True)))
    done = actions(on_kvm(by_driver(tmp_path, "2k19"), facts(known)))
    assert r"delete the key ControlSet001\Services\storahci\StartOverride" in done


def test_an_iso_is_unpacked_for_as_long_as_it_is_needed(tmp_path):
    source, iso = tmp_path / "tree", tmp_path / "virtio-win.iso"
    by_driver(source, "2k19")
    sh("xorriso", "-as", "mkisofs", "-quiet", "-J", "-R", "-o", iso, source)
    with virtio.unpacked(iso) as folder:
        names = {path.rpartition("/")[2] for path in uploads(on_kvm(folder, facts()))}
        assert not (Path(folder) / "qxldod").exists()
    assert {"viostor.sys", "netkvm.inf"} <= names
    assert not Path(folder).exists()


def test_a_folder_is_taken_as_it_is(tmp_path):
    with virtio.unpacked(tmp_path) as folder:
        assert folder == str(tmp_path)
    with virtio.unpacked(None) as folder:
        assert folder == ""


@pytest.mark.parametrize("content", [None, b"", b"not an ISO" * 1000])
def test_what_is_no_iso_is_a_mistake_of_the_caller(tmp_path, content):
    path = tmp_path / "virtio-win.iso"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError), virtio.unpacked(path):
        pass
