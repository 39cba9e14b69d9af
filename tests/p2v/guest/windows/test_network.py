# SPDX-License-Identifier: GPL-3.0-or-later
import csv
import re
from dataclasses import replace

import pytest

from p2v.guest.edit import WriteFile
from p2v.guest.target import NicAddress, Platform, Target
from p2v.guest.windows.facts import Address, Interface
from p2v.guest.windows.firstboot import script
from p2v.guest.windows.network import COLUMNS, Carried, carried, table
from p2v.model.machine import FirmwareKind
from tests.p2v.guest.windows.making import (
    actions,
    control_set,
    facts,
    facts_of,
    planned,
    target,
    windows,
)
from tests.p2v.script.powershell import commands, faults, parse

POWERSHELL_2 = {
    "Add-Content",
    "ConvertFrom-Csv",
    "Get-ChildItem",
    "Get-Content",
    "Get-Date",
    "Get-WmiObject",
    "Join-Path",
    "Out-Null",
    "Out-String",
    "Remove-Item",
    "Select-Object",
    "Set-Content",
    "Set-ItemProperty",
    "Sort-Object",
    "Start-Sleep",
    "Test-Path",
    "Where-Object",
}
"""Those of its cmdlets that are in use; newer ones, such as New-NetIPAddress, Windows 7 lacks."""
MAC = "ec:f4:bb:48:7f:ed"
OFFICE = Interface(
    key="{08BA0CD8-E98C-475C-BADF-65130C043BD6}",
    name="Ethernet",
    device=r"PCI\VEN_8086&DEV_1502",
    mac=MAC,
    addresses=(Address("10.1.2.3", "255.255.255.0"), Address("10.1.2.4", "255.255.255.0")),
    gateways=("10.1.2.1",),
    dns=("10.1.2.10", "10.1.2.11"),
    suffix="example.com",
)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def written(edits) -> dict[str, str]:
    return {
        edit.action.path.rpartition("/")[2]: edit.action.text
        for edit in edits.edits
        if isinstance(edit.action, WriteFile)
    }


def test_addresses_move_from_the_old_adapter_to_the_one_with_its_mac():
    edits = planned(facts(windows(interfaces=(OFFICE,))), target(macs=(MAC,)))
    done = actions(edits)
    key = OFFICE.key
    assert rf"delete the key ControlSet001\Services\Tcpip\Parameters\Interfaces\{key}" in done
    assert any(one.endswith(r"\Connection\Name to 'Ethernet (before p2v)'") for one in done)
    (row,) = rows(written(edits)["interfaces.csv"])
    assert row == {
        "mac": MAC.upper(),
        "name": "Ethernet",
        "addresses": "10.1.2.3/255.255.255.0 10.1.2.4/255.255.255.0",
        "gateways": "10.1.2.1",
        "dns": "10.1.2.10 10.1.2.11",
        "wins": "",
        "suffix": "example.com",
    }


def test_the_registrys_mac_is_enough_where_the_vms_adapters_are_not_known():
    assert [one.mac for one in carried(windows(interfaces=(OFFICE,)), target())] == [MAC]


def test_addresses_of_an_adapter_that_the_vm_lacks_are_named_and_stay():
    edits = planned(facts(windows(interfaces=(OFFICE,))), target(macs=("02:00:00:00:00:01",)))
    assert edits.edits == ()
    (problem,) = edits.problems
    assert problem.code == "address-not-carried"
    assert "10.1.2.3/255.255.255.0" in problem.message and MAC in problem.message


def test_a_person_may_tell_the_mac_by_the_connections_name():
    unknown = replace(OFFICE, mac="")
    named = Target(Platform.HYPERV, FirmwareKind.BIOS, (NicAddress("ETHERNET", MAC),))
    assert [one.mac for one in carried(windows(interfaces=(unknown,)), named)] == [MAC]
    assert carried(windows(interfaces=(unknown,)), target(macs=(MAC,))) == []


def test_both_adapters_of_a_real_windows_7_are_told_apart():
    macs = ("00:0c:29:77:d9:81", "00:50:56:a5:12:69")
    edits = planned(facts_of("SYSTEM"), target(macs=macs))
    assert not [one for one in edits.problems if one.code == "address-not-carried"]
    found = {row["mac"].lower(): row for row in rows(written(edits)["interfaces.csv"])}
    assert found[macs[0]]["addresses"] == "192.168.1.123/255.255.255.0"
    assert found[macs[1]]["addresses"] == "10.3.58.5/255.255.255.0"
    assert found[macs[1]]["name"] == "Local Area Connection 2"


@pytest.mark.parametrize("name", ['a"b', "a\r\nb", "a|b", "..\\a"])
def test_a_name_that_windows_would_not_take_is_not_carried(name):
    (row,) = rows(table([Carried(replace(OFFICE, name=name), MAC)]))
    assert row["name"] == ""
    assert row["dns"] == "10.1.2.10 10.1.2.11"


# --- the first start


def test_the_first_start_is_a_service_in_every_control_set():
    sets = (control_set(auto_reboot=1), replace(control_set(), name="ControlSet002"))
    edits = planned(facts(windows(*sets)))
    done = actions(edits)
    for name in ("ControlSet001", "ControlSet002"):
        assert rf"set {name}\Services\p2v-firstboot\Start to 2" in done
        assert rf"set {name}\Services\p2v-firstboot\ObjectName to 'LocalSystem'" in done
    assert written(edits)["settings.csv"].split() == ['"AutoReboot"', '"1"']


def test_the_service_starts_powershell_without_a_script_file_that_a_policy_could_forbid():
    edits = planned(facts(windows(control_set(auto_reboot=1))))
    (command,) = (one for one in actions(edits) if "ImagePath" in one)
    assert command.endswith(
        r"""to '%SystemRoot%\System32\cmd.exe /d /c start "" /b """
        r"%SystemRoot%\System32\WindowsPowerShell\v1.0\powershell.exe -NoLogo -NoProfile "
        r"""-NonInteractive -Command "iex ([IO.File]::ReadAllText($env:SystemRoot + """
        r"""'\p2v-firstboot\firstboot.ps1'))"'"""
    )


def test_without_anything_left_to_do_there_is_no_first_start():
    assert not any("p2v-firstboot" in one for one in actions(planned(facts())))


def test_without_powershell_the_report_says_so():
    known = windows(control_set(auto_reboot=1), powershell=False)
    assert [one.code for one in planned(facts(known)).problems] == ["no-powershell"]


def test_the_script_parses_and_stays_with_what_powershell_2_knows():
    text = script()
    assert text.isascii() and "\r\n" in text
    root = parse(text)
    assert faults(root) == []
    used = {name for name, _ in commands(root)}
    own = set(re.findall(r"^function ([\w-]+)", text, re.MULTILINE))
    assert own <= used
    assert {name for name in used - own if re.fullmatch(r"\w+-\w+", name)} <= POWERSHELL_2


def test_the_script_reads_the_columns_that_are_written_and_runs_windows_own_programs_only():
    text = script()
    assert set(re.findall(r"\$row\.(\w+)", text)) == set(COLUMNS)
    programs = set(re.findall(r"'(\w+)\.exe'", text))
    assert programs == {"netsh", "pnputil", "sc", "icacls"}
    assert not re.search(r"https?://|Invoke-WebRequest|DownloadString", text)
