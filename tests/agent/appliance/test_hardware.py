# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

from agent.appliance.guard import writable_devices
from agent.appliance.hardware import check_hardware, missing_firmware
from agent.appliance.network import network_files
from agent.appliance.settings import parse_command_line


def pci(sysfs: Path, address: str, code: str, driver: bool) -> None:
    folder = sysfs / "bus/pci/devices" / address
    folder.mkdir(parents=True)
    for name, text in (("class", code), ("vendor", "0x8086"), ("device", "0x10d3")):
        (folder / name).write_text(f"{text}\n")
    (folder / "modalias").write_text("pci:v0000FFFFd0000FFFF\n")
    if driver:
        (folder / "driver").mkdir()


def test_a_controller_without_a_driver_is_named_with_its_numbers(tmp_path):
    pci(tmp_path, "0000:00:01.0", "0x010400", driver=False)
    pci(tmp_path, "0000:00:02.0", "0x020000", driver=True)
    pci(tmp_path, "0000:00:03.0", "0x030000", driver=False)  # a graphics card is nobody's concern
    found = check_hardware(tmp_path, "")
    assert [(each.kind, each.id) for each in found.undriven] == [
        ("storage controller", "8086:10d3")
    ]
    assert "8086:10d3" in found.undriven[0].advice
    assert found.to_json()["undriven"][0]["address"] == "0000:00:01.0"


def test_firmware_that_was_asked_for_in_vain_is_named_once():
    log = (
        "bnx2 0000:01:00.0: Direct firmware load for bnx2/bnx2-mips-09-6.2.1b.fw failed with -2\n"
        "bnx2 0000:01:00.0: firmware: failed to load bnx2/bnx2-mips-09-6.2.1b.fw (-2)\n"
        "qla2xxx: Direct firmware load for ql2500_fw.bin failed with error -2\n"
    )
    assert missing_firmware(log) == ("bnx2/bnx2-mips-09-6.2.1b.fw", "ql2500_fw.bin")


def test_a_disk_or_partition_that_can_be_written_to_is_seen(tmp_path):
    for name, state in (("sda", "1"), ("sda/sda1", "1"), ("sda/sda2", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ro").write_text(f"{state}\n")
    for number in (1, 2):
        (tmp_path / f"sda/sda{number}/partition").write_text("1\n")
        (tmp_path / f"sda{number}").symlink_to(f"sda/sda{number}")
    assert writable_devices(["sda"], tmp_path) == ["sda2"]


def test_no_setting_leaves_dhcp_everywhere():
    assert network_files(parse_command_line("p2v.ip=dhcp")) == {}


def test_a_fixed_address_on_a_vlan():
    line = "p2v.interface=aa:bb:cc:dd:ee:ff p2v.vlan=7 p2v.ip=10.0.0.9/24,10.0.0.1,10.0.0.2"
    files = network_files(parse_command_line(line))
    assert "MACAddress=aa:bb:cc:dd:ee:ff" in files["10-p2v.network"]
    assert "VLAN=vlan7" in files["10-p2v.network"]
    assert "Id=7" in files["10-p2v-vlan.netdev"]
    address = files["10-p2v-vlan.network"]
    assert "Address=10.0.0.9/24\nGateway=10.0.0.1\nDNS=10.0.0.2" in address
