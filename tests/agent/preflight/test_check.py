# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings for the machines in tests/machines."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.preflight.check import preflight
from agent.preflight.finding import Level
from p2v.model.machine import Cpus, Machine, Problem, Severity

MACHINES = Path(__file__).parents[2] / "machines"
NAMES = sorted(path.stem for path in MACHINES.glob("*.json"))


def machine(name):
    return Machine.from_json(json.loads((MACHINES / f"{name}.json").read_text()))


def codes(name, level):
    return [finding.code for finding in preflight(machine(name)) if finding.level is level]


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_sentences_and_the_worst_come_first(name):
    found = preflight(machine(name))
    order = [list(Level).index(finding.level) for finding in found]
    assert order == sorted(order) and len(set(found)) == len(found)
    for finding in found:
        assert finding.message.endswith((".", "?")), finding
        if finding.level is not Level.INFORMATION and finding.code != "ambiguous":
            assert finding.action or finding.code in ("smart-unreadable",), finding


@pytest.mark.parametrize(
    ("name", "critical"),
    [
        ("gpt-bios-ext4-swap-xfs", []),
        ("lvm-over-two-disks", []),
        ("live-and-busy", []),
        ("no-disks", ["no-disks"]),
        ("multipath", ["multipath"]),
        ("dying-disk", ["dying-disk"]),
        ("dual-boot-bitlocker", ["bitlocker", "hibernated"]),
        ("damaged-gpt-and-hibernated-swap", ["table-damaged", "hibernated"]),
    ],
)
def test_what_is_critical(name, critical):
    assert codes(name, Level.CRITICAL) == critical


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("dual-boot-bitlocker", {"dual-boot"}),
        ("windows-dynamic-disk", {"dynamic-disk"}),
        ("md-raid1-lvm", {"raid-member"}),
        ("dying-disk", {"bad-sectors", "unclean"}),
        ("live-and-busy", {"busy-cpu", "busy-disk"}),
    ],
)
def test_what_is_warned_of(name, warnings):
    assert warnings <= set(codes(name, Level.WARNING))


def test_paths_to_one_disk_are_named_with_the_one_to_choose():
    (finding,) = [f for f in preflight(machine("multipath")) if f.code == "multipath"]
    assert "sda and sdb, sdc, sdd are paths to one disk" in finding.message
    assert finding.action.startswith("Choose sda alone")


def test_other_processors_are_refused_and_32_bits_are_not():
    base = machine("gpt-bios-ext4-swap-xfs")
    arm = replace(base, cpus=Cpus("Neoverse", "aarch64"))
    assert "architecture" in [finding.code for finding in preflight(arm)]
    old = replace(base, cpus=Cpus("Xeon", "i686"))
    assert "architecture" not in [finding.code for finding in preflight(old)]


def test_a_machine_without_network_is_warned_of():
    bare = replace(machine("gpt-bios-ext4-swap-xfs"), nics=())
    assert "no-nic" in [finding.code for finding in preflight(bare)]
    down = tuple(replace(nic, up=False) for nic in machine("live-and-busy").nics)
    assert "no-link" in [f.code for f in preflight(replace(bare, nics=down))]


def test_what_the_inventory_could_not_read_is_among_them():
    problem = Problem(Severity.ERROR, "disk-unreadable", "sda", "It cannot be opened.", "Look.")
    found = preflight(replace(machine("gpt-bios-ext4-swap-xfs"), problems=(problem,)))
    assert (found[0].level, found[0].code) == (Level.CRITICAL, "disk-unreadable")
