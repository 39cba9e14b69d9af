# SPDX-License-Identifier: GPL-3.0-or-later
import re
from dataclasses import replace

import pytest

from p2v.model.host import HypervisorKind
from p2v.model.machine import FirmwareKind
from p2v.model.vm import VmNic
from p2v.script import make_script
from tests.p2v.script.orders import CASES, NASTY, GiB, order
from tests.p2v.script.powershell import CMDLETS, COMMON, ELSEWHERE, commands, faults, parse, walk


def made(order):
    return make_script(HypervisorKind.HYPERV, order)


@pytest.mark.parametrize("name", CASES)
def test_the_script_parses(name):
    assert faults(parse(made(CASES[name]))) == []


def test_memory_is_a_multiple_of_what_hyperv_takes():
    assert "$Memory = 8592031744" in made(order(memory=8 * GiB + 1))
    assert "$Memory = 8589934592" in made(order(memory=8 * GiB))


def test_the_parser_would_see_a_broken_script():
    text = made(CASES["gen1-linux"])
    assert faults(parse(text.replace("} catch {", "} catch {{", 1)))
    assert faults(parse(text.replace("$Name = '", "$Name = ", 1)))


@pytest.mark.parametrize("year", CMDLETS)
@pytest.mark.parametrize("name", CASES)
def test_every_cmdlet_and_parameter_exists_in_every_server_version(name, year):
    root = parse(made(CASES[name]))
    functions = {
        node.children[1].text.decode() for node in walk(root) if node.type == "function_statement"
    }
    found = list(commands(root))
    assert len(found) > 20
    for command, parameters in found:
        if command in functions or not any(char.isalpha() for char in command):
            continue
        if command.startswith("$"):
            continue  # & $step.How
        known = ELSEWHERE.get(command)
        if known is None:
            assert command in CMDLETS[year], f"{command} is not in Windows Server {year}"
            known = set(CMDLETS[year][command])
        assert set(parameters) <= known | COMMON, f"{command} {parameters}"


def undefined(text):
    """Return the variables that are used and nowhere set: strict mode stops at them."""
    used = {node.text.decode().lower() for node in walk(parse(text)) if node.type == "variable"}
    used = {re.sub(r"[{}]", "", name) for name in used if ":" not in name}
    given = {"$_", "$null", "$true", "$false"}
    setters = r"(\$\w+)\s*=|\](\$\w+)[,)]|function \S+\((\$\w+)\)|foreach \((\$\w+) in"
    found = {name.lower() for match in re.findall(setters, text) for name in match if name}
    return used - found - given


@pytest.mark.parametrize("name", CASES)
def test_strict_mode_finds_every_variable_set(name):
    assert undefined(made(CASES[name])) == set()


def test_a_variable_that_is_set_nowhere_would_be_seen():
    text = made(CASES["gen1-linux"])
    assert undefined(text.replace("$Folder =", "$Foler =")) == {"$folder"}
    assert undefined('"a $b ${c} $($d.e)"') == {"$b", "$c", "$d"}


def test_the_check_would_see_a_parameter_that_does_not_exist():
    (found,) = commands(parse("New-VM -Name 'x' -Generatoin 2"))
    assert found == ("New-VM", ["Name", "Generatoin"])
    assert "Generatoin" not in CMDLETS["2016"]["New-VM"]


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_name_changes_no_command(name):
    harmless = list(commands(parse(made(order()))))
    nic = VmNic(name, "52:54:00:00:00:00", name, vlan=10)
    nasty = replace(order(name=name, nics=(nic,)), storage=name)
    plain = replace(order(nics=(replace(nic, name="n", network="s"),)), storage="s")
    text = made(nasty)
    assert text.isascii()
    assert list(commands(parse(text))) == list(commands(parse(made(plain))))
    assert len(harmless) == len(list(commands(parse(made(order(name=name))))))
    assert not faults(parse(text))


def test_names_are_never_matched_as_wildcards():
    for name, case in CASES.items():
        for command, parameters in commands(parse(made(case))):
            if command not in ("New-VM", "Add-VMNetworkAdapter"):  # there it is the new one's name
                assert not {"Name", "VMName", "Path", "SwitchName"} & set(parameters) or (
                    command == "Add-VMHardDiskDrive"
                ), (name, command)


def test_the_boot_disk_of_generation_1_is_on_ide_and_the_others_on_scsi():
    text = made(order(disks=3))
    assert "-ControllerType IDE -ControllerNumber 0 `\n" in text
    assert text.count("-ControllerType IDE") == 1
    assert "-ControllerLocation 0 -Path $image1" in text
    assert "-ControllerLocation 1 -Path $image2" in text


def test_the_65th_disk_gets_a_second_controller():
    text = made(order(disks=66, firmware=FirmwareKind.UEFI))
    assert ".Count -lt 2)" in text
    assert "-ControllerNumber 1 `\n            -ControllerLocation 1 -Path $image65" in text


def test_an_image_without_an_address_is_awaited_and_no_csharp_is_needed():
    bare = order()
    bare = replace(bare, disks=(replace(bare.disks[0], url="", sha256=""),))
    assert "Add-Type" not in made(bare)
    assert "Receive-Image 'web01-7f3a9c04-0.vhdx' '' ''" in made(bare)
    assert "Add-Type" in made(order())
