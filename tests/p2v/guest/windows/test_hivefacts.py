# SPDX-License-Identifier: GPL-3.0-or-later
from uuid import UUID

import pytest

from p2v.guest.windows import hivefacts
from p2v.guest.windows.facts import Address
from p2v.guest.windows.registry.base import HiveDamagedError
from p2v.guest.windows.registry.hive import Hive
from tests.p2v.guest.windows import building


def of(name: str) -> hivefacts.HiveFacts:
    return hivefacts.read(Hive(building.real(name)))


def test_a_real_windows_7_has_two_control_sets_and_two_static_addresses():
    facts = of("SYSTEM")
    assert [one.name for one in facts.control_sets] == ["ControlSet001", "ControlSet002"]
    assert (facts.current, facts.product, facts.driver_database) == (
        "ControlSet001",
        "WinNT",
        False,
    )
    second, first = facts.interfaces
    assert first.name == "Local Area Connection"
    assert (first.mac, second.mac) == ("00:0c:29:77:d9:81", "00:50:56:a5:12:69")
    assert first.addresses == (Address("192.168.1.123", "255.255.255.0"),)
    assert (first.gateways, first.dns) == (("192.168.1.1",), ("192.168.1.112",))
    assert first.device.startswith(r"PCI\VEN_8086&DEV_100F")
    assert second.addresses == (Address("10.3.58.5", "255.255.255.0"),)
    assert "vmbus#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}" in facts.control_sets[0].critical


@pytest.mark.parametrize("name", ["SYSTEM_2", "SYSTEM_B"])
def test_real_windows_8_and_10_hold_the_vmbus_drivers_back(name):
    facts = of(name)
    assert facts.driver_database
    for driver in ("vmbus", "storvsc", "storflt", "intelide", "atapi"):
        service = facts.control_sets[0].service(driver)
        assert (service.start, service.overridden, service.in_drivers) == (0, True, True)
    assert facts.control_sets[0].service("storflt").file == "vmstorfl.sys"
    assert facts.control_sets[0].fast_startup == 1


def test_an_adapters_mac_is_read_where_windows_10_keeps_it(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(building.real("SYSTEM_B"))
    guid = "{08BA0CD8-E98C-475C-BADF-65130C043BD6}"
    with building.hivex(path, write=True) as handle:
        node = handle.root()
        for name in rf"ControlSet001\Services\Tcpip\Parameters\Interfaces\{guid}".split("\\"):
            node = handle.node_get_child(node, name)
        for name, kind, value in (
            ("EnableDHCP", 4, bytes(4)),
            ("IPAddress", 7, "10.0.0.5\0nonsense\0\0".encode("utf-16-le")),
            ("SubnetMask", 7, "255.0.0.0\0x\0\0".encode("utf-16-le")),
            ("NameServer", 1, "10.0.0.1,10.0.0.2\0".encode("utf-16-le")),
        ):
            handle.node_set_value(node, {"key": name, "t": kind, "value": value})
    (interface,) = hivefacts.read(Hive(path.read_bytes())).interfaces
    assert interface.mac == "ec:f4:bb:48:7f:ed"
    assert interface.name == "Ethernet"
    assert interface.addresses == (Address("10.0.0.5", "255.0.0.0"),)
    assert interface.dns == ("10.0.0.1", "10.0.0.2")


@pytest.mark.parametrize(
    ("device", "leaves"),
    [
        (r"PCI\VEN_8086&DEV_1502", True),
        (r"{5d624f94-8850-40c3-a3fa-a4fd2080baf3}\vwifimp_wfd", True),
        (r"COMPOSITEBUS\MS_IMPLAT_MP\{1}", True),
        (r"Root\VMS_MP\0000", True),
        (r"ROOT\NET\0000", False),
        (r"SWD\MSRRAS\MS_NDISWANIP", False),
        ("", False),
    ],
)
def test_software_adapters_come_along_and_keep_their_addresses(device, leaves):
    assert hivefacts._is_hardware(device) is leaves


def test_a_row_of_another_adapter_or_with_another_layout_tells_no_mac():
    guid = "{6AAFC9A9-0542-4DB2-8760-CCFFA953737C}"
    row = UUID(guid).bytes_le + bytes(32) + b"\6\0" + bytes.fromhex("000c2977d981") + bytes(30)
    assert hivefacts._mac_in(row, guid) == "00:0c:29:77:d9:81"
    assert hivefacts._mac_in(row, "{00000000-0542-4DB2-8760-CCFFA953737C}") == ""
    assert hivefacts._mac_in(row[:50], guid) == ""
    assert hivefacts._mac_in(row.replace(b"\6\0", b"\7\0"), guid) == ""
    assert hivefacts._mac_in(row, "no guid") == ""


def test_a_hive_of_something_else_is_refused():
    with pytest.raises(HiveDamagedError, match="control set"):
        hivefacts.read(Hive(building.empty_hive()))
