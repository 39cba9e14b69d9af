# SPDX-License-Identifier: GPL-3.0-or-later
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.plan import Choices, make_plan
from agent.vm import VmChoices, chosen_vm, planned_vm
from p2v.model import planfile
from p2v.model.errors import UsageError
from p2v.model.machine import (
    Disk,
    DiskLoad,
    Firmware,
    FirmwareKind,
    Load,
    Machine,
    Nic,
    NicKind,
    NicLoad,
    Partition,
)
from p2v.model.vm import OsFamily, SecureBoot, VmNic

GiB = 1 << 30
MACHINES = Path(__file__).parent.parent / "machines"


@pytest.fixture(params=sorted(MACHINES.glob("*.json")), ids=lambda path: path.stem)
def machine(request):
    return Machine.from_json(json.loads(request.param.read_text()))


def test_every_recorded_machine_gets_a_virtual_machine_that_its_plan_keeps(machine):
    names = tuple(disk.name for disk in machine.disks)
    if not names:
        pytest.skip("there is no disk to plan")
    plan = make_plan(machine, Choices(disks=names))
    assert plan.vm.memory > 0 and plan.vm.cpus > 0
    assert all(0 <= disk.used <= disk.size for disk in plan.disks)
    assert planfile.load(planfile.dump(plan)) == plan


@pytest.fixture
def server(machine):
    return replace(
        machine,
        firmware=Firmware(FirmwareKind.UEFI, secure_boot=True),
        cpus=replace(machine.cpus, sockets=2, cores=4, threads=2),
        nics=(
            Nic("eno1", "52:54:00:00:00:01", NicKind.PHYSICAL, master="bond0"),
            Nic("eno2", "52:54:00:00:00:02", NicKind.PHYSICAL, master="bond0"),
            Nic("bond0", "52:54:00:00:00:01", NicKind.BOND, master="br0"),
            Nic("br0", "52:54:00:00:00:01", NicKind.BRIDGE),
            Nic("eno3", "52:54:00:00:00:03", NicKind.PHYSICAL),
            Nic("veth1", "52:54:00:00:00:09", NicKind.VIRTUAL),
        ),
        load=Load(
            window_s=2,
            cpu_percent=12.5,
            memory_used=GiB,
            disks=(DiskLoad("sda", 10, 20, 0, 0), DiskLoad("sdb", 1000, 0, 0, 0)),
            nics=(NicLoad("eno1", 5, 6), NicLoad("eno3", 7, 8), NicLoad("bond0", 5, 6)),
        ),
    )


def test_the_load_is_that_of_the_cards_and_the_chosen_disks(server):
    load = planned_vm(server, [Disk("sda", "/dev/sda", GiB)]).load
    assert (load.busy_cores, load.iops, load.network_bytes) == (2.0, 30, 26)


def test_a_bond_becomes_one_adapter(server):
    nics = planned_vm(server, []).nics
    assert nics == (
        VmNic("bond0", "52:54:00:00:00:01"),
        VmNic("eno3", "52:54:00:00:00:03"),
    )


@pytest.mark.parametrize(
    ("content", "family", "secure_boot"),
    [
        ("ext4", OsFamily.LINUX, SecureBoot.UEFI_CA),
        ("ntfs", OsFamily.WINDOWS, SecureBoot.MICROSOFT),
        ("", OsFamily.OTHER, SecureBoot.UEFI_CA),
    ],
)
def test_the_disks_tell_whose_signatures_are_wanted(server, content, family, secure_boot):
    disk = Disk("sda", "/dev/sda", GiB, partitions=(Partition(1, 0, GiB, content=content),))
    vm = planned_vm(server, [disk])
    assert (vm.os, vm.secure_boot) == (family, secure_boot)


def test_the_users_choices_take_the_place_of_what_was_found(server):
    found = planned_vm(server, [])
    wanted = VmChoices(
        create=True,
        host="hv1",
        memory=2 * GiB,
        networks=(("eno3", "LAN", 20),),
        connected=False,
        power_on=True,
    )
    vm = chosen_vm(found, wanted)
    assert (vm.create, vm.host, vm.memory, vm.cpus) == (True, "hv1", 2 * GiB, found.cpus)
    assert vm.nics == (
        VmNic("bond0", "52:54:00:00:00:01", connected=False),
        VmNic("eno3", "52:54:00:00:00:03", "LAN", 20, connected=False),
    )
    assert chosen_vm(found, VmChoices()) == found


def test_an_interface_is_known_by_its_mac_and_the_others_by_a_star(server):
    networks = (("52:54:00:00:00:03", "LAN", 20), ("*", "DMZ", 0))
    vm = chosen_vm(planned_vm(server, []), VmChoices(networks=networks))
    assert [(nic.name, nic.network, nic.vlan) for nic in vm.nics] == [
        ("bond0", "DMZ", 0),
        ("eno3", "LAN", 20),
    ]


def test_a_network_for_an_interface_that_is_not_there_is_refused(server):
    with pytest.raises(UsageError, match="there are: bond0, eno3"):
        chosen_vm(planned_vm(server, []), VmChoices(networks=(("eth7", "LAN", 0),)))
