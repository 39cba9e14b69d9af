# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for recorded machines (tests/machines)."""

import json
from pathlib import Path

import pytest

from agent.plan import Choices, make_plan
from p2v.model import planfile
from p2v.model.machine import Machine
from p2v.model.plan import Treatment

MACHINES = Path(__file__).parents[1] / "machines"
C, U, S = Treatment.COPY, Treatment.USED, Treatment.SWAP


def machine(name):
    return Machine.from_json(json.loads((MACHINES / f"{name}.json").read_text()))


@pytest.mark.parametrize(
    ("name", "treatments"),
    [
        ("gpt-bios-ext4-swap-xfs", [[C, U, S, U]]),
        ("mbr-logical-ntfs-dirty-fat32", [[U, C, U, C]]),
        ("4kn-gpt-esp-xfs-btrfs", [[U, U, U]]),
        ("lvm-over-two-disks", [[U, U], [U]]),
        ("damaged-gpt-and-hibernated-swap", [[], [S]]),
    ],
)
def test_every_recorded_machine_gets_a_plan(name, treatments):
    found = machine(name)
    plan = make_plan(found, Choices(disks=tuple(disk.name for disk in found.disks)))
    assert [[p.treatment for p in disk.partitions] for disk in plan.disks] == treatments
    assert planfile.load(planfile.dump(plan)) == plan


def test_one_disk_of_a_volume_group_alone_is_warned_of():
    found = machine("lvm-over-two-disks")
    (said,) = make_plan(found, Choices(disks=(found.disks[0].name,))).warnings
    assert said.startswith(f"The volume group vg0 is incomplete without {found.disks[1].name}")


def test_damage_and_hibernation_are_warned_of():
    found = machine("damaged-gpt-and-hibernated-swap")
    names = tuple(disk.name for disk in found.disks)
    damaged, hibernated = make_plan(found, Choices(disks=names)).warnings
    assert "The partition table cannot be read" in damaged
    assert "holds a hibernation image, which is not copied" in hibernated


def test_a_dirty_volume_is_copied_whole_and_said():
    found = machine("mbr-logical-ntfs-dirty-fat32")
    (said,) = make_plan(found, Choices(disks=(found.disks[0].name,))).warnings
    assert "needs recovery (it is marked dirty" in said
