# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.appliance import choose
from agent.appliance.settings import Settings
from agent.plan import make_plan
from p2v.model.errors import SourceChangedError, UsageError
from p2v.model.machine import Machine
from p2v.model.units import GiB

MACHINES = Path(__file__).parents[2] / "machines"


@pytest.fixture
def machine() -> Machine:
    text = (MACHINES / "gpt-bios-ext4-swap-xfs.json").read_text()
    return Machine.from_json(json.loads(text))


def renamed(machine: Machine, **disk: object) -> Machine:
    return replace(machine, disks=tuple(replace(each, **disk) for each in machine.disks))


def test_all_disks_of_the_machine_are_chosen_and_no_stick(machine):
    first = machine.disks[0]
    part = replace(first.partitions[0], label="P2VDATA")
    others = (
        replace(first, name="sdx", path="/dev/sdx", transport="usb"),
        replace(first, name="sdy", path="/dev/sdy", removable=True),
        replace(first, name="sdz", path="/dev/sdz", partitions=(part,)),
    )
    more = replace(machine, disks=(*machine.disks, *others))
    assert choose.choices(Settings(), more).disks == tuple(disk.name for disk in machine.disks)


def test_the_virtual_machine_is_as_it_was_asked_for(machine):
    said = Settings(host="best", vcpu=3, memory=GiB, network=(("*", "LAN", 20),), unplugged=True)
    vm = make_plan(machine, choose.choices(said, machine)).vm
    assert (vm.create, vm.host, vm.cpus, vm.memory) == (True, "", 3, GiB)
    assert {(nic.network, nic.vlan, nic.connected) for nic in vm.nics} == {("LAN", 20, False)}
    untold = make_plan(machine, choose.choices(Settings(), machine)).vm
    assert (untold.create, untold.cpus) == (False, machine.cpus.cores * machine.cpus.sockets)
    assert make_plan(machine, choose.choices(Settings(host="hv1"), machine)).vm.host == "hv1"


def test_no_disk_at_all_is_said(machine):
    with pytest.raises(UsageError, match="hardware check"):
        choose.choices(Settings(), replace(machine, disks=()))


def test_the_id_is_the_same_whenever_the_machine_starts(machine):
    plan = make_plan(machine, choose.choices(Settings(name="Web 01"), machine))
    one = choose.migration_id(plan.name, machine, plan)
    assert one.startswith("web-01-")
    nics = tuple(reversed(machine.nics))
    assert choose.migration_id(plan.name, replace(machine, nics=nics), plan) == one
    other = replace(machine, smbios=replace(machine.smbios, uuid="another"))
    assert choose.migration_id(plan.name, other, plan) != one


def test_a_machine_is_called_what_its_hardware_says(machine):
    smbios = replace(machine.smbios, product="PowerEdge R740", serial="ABC123")
    named = replace(machine, name="p2v", smbios=smbios)
    assert choose.machine_name(named) == "poweredge-r740-abc123"
    assert choose.machine_name(replace(named, name="web01")) == "web01"
    nothing = replace(smbios, product="", serial="", uuid="")
    assert choose.machine_name(replace(named, smbios=nothing)) == "machine"


def test_the_disks_of_a_live_plan_are_known_again_under_other_names(machine):
    machine = renamed(machine, transport="sata", removable=False)
    plan = replace(make_plan(machine, choose.choices(Settings(), machine)), live=True)
    here = choose.plan_here(plan, renamed(machine, name="nvme0n1", path="/dev/nvme0n1"))
    assert not here.live
    assert [disk.path for disk in here.disks] == ["/dev/nvme0n1"] * len(plan.disks)


def test_a_disk_of_another_size_is_not_taken_for_it(machine):
    machine = renamed(machine, transport="sata", removable=False)
    plan = make_plan(machine, choose.choices(Settings(), machine))
    with pytest.raises(SourceChangedError, match="not in this machine"):
        choose.plan_here(plan, renamed(machine, size=4096))


def test_two_disks_that_look_alike_are_not_guessed_between(machine):
    machine = renamed(machine, transport="sata", removable=False)
    plan = make_plan(machine, choose.choices(Settings(), machine))
    twin = replace(machine.disks[0], name="twin", path="/dev/twin")
    with pytest.raises(SourceChangedError, match="several"):
        choose.plan_here(plan, replace(machine, disks=(*machine.disks, twin)))
