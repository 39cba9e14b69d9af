# SPDX-License-Identifier: GPL-3.0-or-later
"""Which migrations have a guest to convert, and what becomes of one that can't be."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from p2v.guest import convert as conversion
from p2v.guest.report import Verdict, load_report, report_path
from p2v.guest.target import Platform
from p2v.model.errors import NoGuestError
from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat, Plan, PlannedDisk, PlannedPartition, Treatment
from p2v.model.units import MiB
from p2v.model.vm import VmNic, VmSettings
from p2v.service.conversion import convert_guest, not_converted, platform_of

SIZE = 8 * MiB


@pytest.fixture
def asked(monkeypatch):
    """The requests that reach the appliance's door, where every guest is turned away."""
    requests = []

    def convert(request):
        requests.append(request)
        raise NoGuestError(
            image=request.images[0], problem="no operating system was found", way_out="-"
        )

    monkeypatch.setattr(conversion, "convert", convert)
    return requests


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\xeb\x63\x90".ljust(510, b"\0") + b"\x55\xaa" + bytes(SIZE - 512))
    return path


def plan(content="ext4", **vm) -> Plan:
    part = PlannedPartition(1, "sda1", MiB, SIZE - MiB, content, Treatment.USED)
    return Plan(
        "web01",
        (PlannedDisk("sda", "/dev/sda", SIZE, partitions=(part,)),),
        format=ImageFormat.RAW,
        vm=VmSettings(cpus=1, memory=MiB, nics=(VmNic("eno1", "52:54:00:00:00:01"),), **vm),
    )


def test_a_server_that_boots_from_its_second_disk_is_converted(tmp_path, disk, asked):
    data = tmp_path / "data.raw"
    data.write_bytes(bytes(510) + b"\x55\xaa" + bytes(SIZE - 512))
    first = plan()
    convert_guest(replace(first, disks=first.disks * 2), [data, disk])
    (request,) = asked
    assert request.images == (data, disk)


def test_a_disk_that_something_boots_from_is_converted(disk, asked):
    convert_guest(plan(), [disk])
    (request,) = asked
    assert request.images == (disk,)
    assert request.platform is Platform.KVM
    assert [(nic.name, nic.mac) for nic in request.nics] == [("eno1", "52:54:00:00:00:01")]


def test_a_guest_that_can_not_be_converted_is_reported_and_does_not_fail_its_migration(disk, asked):
    convert_guest(plan(), [disk])
    report = load_report(report_path(disk))
    assert report.verdict is Verdict.REFUSED and report.code == "no-guest"
    assert "no operating system was found" in not_converted([disk])


def test_what_nobody_asked_for_is_left_alone(disk, asked):
    convert_guest(replace(plan(), convert=False), [disk])
    convert_guest(replace(plan(), vm=None), [disk])
    assert asked == []
    assert not_converted([disk]) == ""


def test_a_data_disk_is_not_converted(disk, asked):
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(SIZE - 512))
    convert_guest(plan(), [disk])
    assert asked == []


def test_a_disk_with_an_efi_partition_is_converted(disk, asked):
    disk.write_bytes(bytes(SIZE))
    convert_guest(plan("vfat", firmware=FirmwareKind.UEFI), [disk])
    assert len(asked) == 1


def test_a_vhdx_is_for_hyper_v():
    assert platform_of(ImageFormat.VHDX) is Platform.HYPERV
    assert platform_of(ImageFormat.QCOW2) is Platform.KVM


def test_a_converter_that_only_stores_does_not_load_the_appliance():
    code = "import sys, p2v.service.steps; sys.exit('p2v.guest.appliance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
