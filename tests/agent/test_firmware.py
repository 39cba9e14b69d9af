# SPDX-License-Identifier: GPL-3.0-or-later
"""What the disks start by, whatever started the system that looks at them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.firmware import of_machine, possible
from agent.plan import Choices, make_plan
from agent.preflight.check import preflight
from agent.vm import VmChoices
from p2v.model.errors import UsageError
from p2v.model.machine import Disk, Firmware, FirmwareKind, Machine, Partition
from p2v.model.vm import SecureBoot

GiB = 1 << 30
BIOS, UEFI = FirmwareKind.BIOS, FirmwareKind.UEFI
MACHINES = Path(__file__).parent.parent / "machines"


def load(name: str) -> Machine:
    return Machine.from_json(json.loads((MACHINES / f"{name}.json").read_text()))


def started_by(kind: FirmwareKind) -> Machine:
    return replace(load("no-disks"), firmware=Firmware(kind, kind is UEFI or None))


def disk(table: str = "gpt", *flags: str, mounted: str = "") -> Disk:
    parts = tuple(
        Partition(n, n * GiB, GiB, flags=(flag,), mount_point=mounted)
        for n, flag in enumerate(flags or ("",), 1)
    )
    return Disk("sda", "/dev/sda", 9 * GiB, table=table, partitions=parts)


@pytest.mark.parametrize("own", [BIOS, UEFI])
@pytest.mark.parametrize(
    ("disks", "kinds"),
    [
        ([disk("gpt", "esp")], {UEFI}),
        ([disk("gpt", "bios_grub")], {BIOS}),
        ([disk("msdos", "boot")], {BIOS}),
        ([disk("msdos", "esp")], {BIOS, UEFI}),
        ([disk("gpt", "bios_grub", "esp")], {BIOS, UEFI}),
        ([disk("gpt", "esp"), disk("msdos")], {BIOS, UEFI}),
        ([disk("none")], {BIOS, UEFI}),
    ],
)
def test_the_tables_tell_what_may_start_the_disks_and_this_systems_own_comes_first(
    own, disks, kinds
):
    found = possible(started_by(own), disks)
    assert set(found) == kinds
    assert found[0] is own or own not in kinds


@pytest.mark.parametrize("own", [BIOS, UEFI])
def test_the_disks_that_this_system_runs_from_start_as_they_did(own):
    assert possible(started_by(own), [disk("gpt", "bios_grub", "esp", mounted="/")]) == (own,)


def test_a_stick_is_none_of_the_machines_disks():
    stick = replace(disk("msdos", "esp"), removable=True)
    machine = replace(started_by(UEFI), disks=(stick, disk("gpt", "bios_grub")))
    assert of_machine(machine) is BIOS


def test_a_machine_for_disks_that_start_otherwise_is_made_for_them():
    machine = replace(started_by(UEFI), disks=(disk("msdos", "boot"),))
    vm = make_plan(machine, Choices(disks=("sda",))).vm
    assert (vm.firmware, vm.secure_boot) == (BIOS, SecureBoot.OFF)
    said = [each.message for each in preflight(machine) if each.code == "firmware"]
    assert said == [
        "UEFI started this system, but not the disks. It starts by BIOS: a Hyper-V virtual "
        "machine of generation 1."
    ]


def test_where_the_disks_leave_a_choice_it_is_the_users():
    machine = replace(started_by(UEFI), disks=(disk("gpt", "bios_grub", "esp"),))
    for wanted, given in ((None, UEFI), (UEFI, UEFI), (BIOS, BIOS)):
        choices = Choices(disks=("sda",), vm=VmChoices(firmware=wanted))
        assert make_plan(machine, choices).vm.firmware is given


def test_an_impossible_pair_is_refused_with_the_way_out():
    machine = replace(started_by(UEFI), disks=(disk("gpt", "bios_grub"),))
    choices = Choices(disks=("sda",), vm=VmChoices(firmware=UEFI))
    with pytest.raises(UsageError, match=r"start by BIOS, not by UEFI; .*generation 1.*leave"):
        make_plan(machine, choices)


def test_the_command_line_chooses(tmp_path, capsys):
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    for kind in ("bios", "uefi"):
        assert main(["plan", "--disk", str(image), "--firmware", kind]) == 0
        assert f'firmware = "{kind}"' in capsys.readouterr().out
