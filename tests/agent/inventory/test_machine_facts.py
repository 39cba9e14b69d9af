# SPDX-License-Identifier: GPL-3.0-or-later
import json
import os
import subprocess
import sys
import threading

import pytest

from agent.inventory.collect import collect
from agent.inventory.cpu import parse_lscpu, read_cpus
from agent.inventory.firmware import read_firmware
from agent.inventory.load import Sample, load_between, measure_load, take_sample
from agent.inventory.nics import parse_nics
from agent.inventory.smart import parse_smart
from agent.inventory.smbios import parse_modules, read_smbios
from agent.inventory.system import parse_release, read_os
from p2v.model.errors import ToolError
from p2v.model.machine import FirmwareKind, NicKind

SECURE_BOOT = "firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


@pytest.mark.parametrize(
    ("variable", "expected"),
    [(b"\6\0\0\0\1", True), (b"\6\0\0\0\0", False), (b"\6\0", None), (None, None)],
)
def test_secure_boot_is_the_variables_fifth_byte(tmp_path, variable, expected):
    (tmp_path / SECURE_BOOT).parent.mkdir(parents=True)
    if variable is not None:
        (tmp_path / SECURE_BOOT).write_bytes(variable)
    firmware = read_firmware(tmp_path)
    assert (firmware.kind, firmware.secure_boot) == (FirmwareKind.UEFI, expected)


def test_without_efi_it_is_a_bios(tmp_path):
    assert read_firmware(tmp_path).kind is FirmwareKind.BIOS


def test_smbios_placeholders_are_nothing(tmp_path):
    (tmp_path / "class/dmi/id").mkdir(parents=True)
    (tmp_path / "class/dmi/id/sys_vendor").write_text("ACME Inc.\n")
    (tmp_path / "class/dmi/id/product_serial").write_text("To Be Filled By O.E.M.\n")
    found = read_smbios(tmp_path)
    assert (found.vendor, found.serial, found.product) == ("ACME Inc.", "", "")


def test_memory_modules_add_up():
    text = "Memory Device\n\tSize: 16 GB\nMemory Device\n\tSize: No Module Installed\n"
    assert parse_modules(text + "Memory Device\n\tSize: 512 MB\n\tVolatile Size: 512 MB\n") == (
        (16 << 30) + (512 << 20)
    )
    assert parse_modules("") is None


def test_the_processors_are_those_of_the_kernel():
    cpus = read_cpus()
    assert cpus.sockets * cpus.cores * cpus.threads == os.cpu_count()
    assert cpus.architecture == os.uname().machine


def test_lscpu_that_says_nonsense_is_an_error():
    for text in (b"", b"[]", b'{"lscpu": [{}]}', b'{"lscpu": 3}'):
        with pytest.raises(ToolError):
            parse_lscpu(text)


def test_os_release_of_a_mounted_root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/os-release").write_text('ID=debian\nVERSION_ID="12"\nNAME=Debian\n')
    (tmp_path / "etc/os-release").symlink_to("/etc/os-release")  # of the running system: not it
    found = read_os(tmp_path)
    assert (found.id, found.version, found.name, found.kernel) == ("debian", "12", "Debian", "")


def test_os_release_with_quotes_comments_and_noise():
    text = '# c\nA="x y"\nB=\'q\'\nC=a\\ b\nbroken\nD="open\nE=\n'
    assert parse_release(text) == {"A": "x y", "B": "q", "C": "a b", "E": ""}


def test_the_running_system_is_found():
    found = read_os()
    assert found.kernel == os.uname().release
    assert found.id


# --- load ----------------------------------------------------------------------------------------


def test_rates_are_differences_a_second():
    before = Sample(10.0, 100, 1000, {"sda": (1, 2, 3, 4)}, {"eth0": (5, 6)})
    after = Sample(12.0, 150, 1200, {"sda": (21, 42, 3, 1004)}, {"eth0": (205, 0)})
    load = load_between(before, after, 7, ("sda", "sdb"), ("eth0", "wlan0"))
    assert (load.window_s, load.cpu_percent, load.memory_used) == (2.0, 25.0, 7)
    (disk,) = load.disks
    assert (disk.read_iops, disk.write_iops) == (10.0, 0.0)
    assert (disk.read_bytes, disk.write_bytes) == (20 * 512, 500 * 512)
    (nic,) = load.nics
    assert (nic.receive_bytes, nic.send_bytes) == (100.0, 0.0), "a counter that began anew"


@pytest.mark.root
def test_reads_of_a_disk_are_measured(tmp_path, loop, run):
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(8 << 20))
    with loop("-r", path) as device:
        timer = threading.Timer(
            0.1, run, ["dd", f"if={device}", "of=/dev/null", "bs=1M", "iflag=direct"]
        )
        timer.start()
        load = measure_load(1.0, (device.name,), ("lo",))
        timer.join()
    (disk,) = load.disks
    assert disk.read_bytes * load.window_s == pytest.approx(8 << 20, rel=0.05)
    assert disk.write_bytes == 0
    assert [nic.name for nic in load.nics] == ["lo"]


def test_a_sample_knows_this_machines_devices():
    sample = take_sample()
    assert 0 < sample.busy < sample.total
    assert "lo" in sample.nics


# --- network -------------------------------------------------------------------------------------


@pytest.mark.root
def test_interfaces_addresses_and_routes():
    """In a network namespace of its own, with a veth pair, a bridge and routes."""
    setup = """
        ip link add name p2vt0 address 02:00:00:00:00:01 type veth peer name p2vt1
        ip link add name p2vbr type bridge && ip link set p2vt1 master p2vbr
        ip addr add 192.0.2.10/24 dev p2vt0 && ip addr add 2001:db8::7/64 dev p2vt0 nodad
        for l in p2vt0 p2vt1 p2vbr; do ip link set $l up; done
        ip route add default via 192.0.2.1 metric 50
    """
    code = (
        "import json; from agent.inventory.nics import *; from p2v.model.document import encode;"
        "print(json.dumps(encode([read_nics(), read_routes()])))"
    )
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", f'{setup}\nexec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    nics, routes = json.loads(done.stdout)
    found = {nic["name"]: nic for nic in nics}
    assert "lo" not in found
    veth = found["p2vt0"]
    assert (veth["mac"], veth["up"]) == ("02:00:00:00:00:01", True)
    assert veth["addresses"] == ["192.0.2.10/24", "2001:db8::7/64"]
    assert (veth["kind"], found["p2vbr"]["kind"]) == ("virtual", "bridge")
    assert found["p2vt1"]["master"] == "p2vbr"
    default = {"destination": "default", "interface": "p2vt0", "gateway": "192.0.2.1", "metric": 50}
    assert default in routes


def test_bonds_and_vlans(tmp_path):
    """The fields that ip-link(8) gives them with -d; a member keeps its own address apart."""
    links = [
        {
            "ifname": "eno1",
            "flags": ["UP", "SLAVE"],
            "mtu": 9000,
            "master": "bond0",
            "address": "02:00:00:00:00:02",
            "permaddr": "02:00:00:00:00:01",
        },
        {
            "ifname": "bond0",
            "address": "02:00:00:00:00:02",
            "linkinfo": {"info_kind": "bond", "info_data": {"mode": "802.3ad"}},
        },
        {
            "ifname": "bond0.7",
            "link": "bond0",
            "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1Q", "id": 7}},
            "addr_info": [
                {"local": "192.0.2.3", "prefixlen": 24, "scope": "global"},
                {"local": "fe80::1", "prefixlen": 64, "scope": "link"},
            ],
        },
        {},
    ]
    (tmp_path / "eno1/device").mkdir(parents=True)
    (tmp_path / "eno1/device/driver").symlink_to("/sys/bus/pci/drivers/igb")
    (tmp_path / "eno1/speed").write_text("1000\n")
    member, bond, vlan = parse_nics(json.dumps(links).encode(), tmp_path)
    assert (member.kind, member.driver, member.speed) == (NicKind.PHYSICAL, "igb", 1000)
    assert (member.mac, member.master, member.mtu) == ("02:00:00:00:00:01", "bond0", 9000)
    assert (bond.kind, bond.bond_mode, bond.speed) == (NicKind.BOND, "802.3ad", None)
    assert (vlan.kind, vlan.vlan, vlan.parent) == (NicKind.VLAN, 7, "bond0")
    assert vlan.addresses == ("192.0.2.3/24",)


def test_ip_that_says_nonsense_is_an_error(tmp_path):
    with pytest.raises(ToolError):
        parse_nics(b"Error", tmp_path)


# --- health --------------------------------------------------------------------------------------


def test_a_disk_without_health_has_none():
    text = b'{"smartctl": {"exit_status": 1, "messages": [{"string": "Unable to detect"}]}}'
    assert parse_smart(text) is None


def test_health_of_ata_and_nvme():
    ata = {
        "smartctl": {"exit_status": 64},
        "smart_status": {"passed": True},
        "temperature": {"current": 31},
        "power_on_time": {"hours": 12345},
        "ata_smart_attributes": {
            "table": [{"id": 5, "raw": {"value": 8}}, {"id": 197, "raw": {"value": 2}}]
        },
    }
    found = parse_smart(json.dumps(ata).encode())
    assert (found.passed, found.temperature_c, found.power_on_hours) == (True, 31, 12345)
    assert (found.reallocated_sectors, found.pending_sectors) == (8, 2)
    nvme = {
        "smartctl": {"exit_status": 8},
        "smart_status": {"passed": False},
        "nvme_smart_health_information_log": {"media_errors": 3, "percentage_used": 101},
    }
    found = parse_smart(json.dumps(nvme).encode())
    assert (found.passed, found.media_errors, found.percentage_used) == (False, 3, 101)


def test_smartctl_that_says_nonsense_is_an_error():
    for text in (b"", b"[]", b"{}"):
        with pytest.raises(ToolError):
            parse_smart(text)


def test_what_cannot_be_read_is_a_problem(monkeypatch, tmp_path):
    """Without a single tool on PATH the inventory still comes, and says what it lacks."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("agent.tools._SYSTEM_PATH", str(tmp_path))
    codes = {problem.code for problem in collect().problems}
    assert {"disks-unreadable", "network-unreadable", "cpus-unreadable"} <= codes
