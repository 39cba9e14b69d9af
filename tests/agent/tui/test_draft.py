# SPDX-License-Identifier: GPL-3.0-or-later
"""The choices on screens are those that a command line can make, word for word."""

from __future__ import annotations

import argparse
import shlex

import pytest

from agent.cli.migrate import add_run_options
from agent.cli.plan_options import add_plan_options, choices_from
from agent.job.launch import Target
from agent.plan import make_plan
from agent.tui.draft import Draft
from agent.vm import parse_cpus, parse_memory, parse_name
from p2v.model.errors import UsageError
from p2v.model.plan import ImageFormat
from tests.agent.tui.conftest import MACHINES, load

GiB = 1 << 30
NAMES = sorted(path.stem for path in MACHINES.glob("*.json") if path.stem != "no-disks")


def by_command(draft: Draft):
    parser = argparse.ArgumentParser()
    add_plan_options(parser)
    add_run_options(parser, "now")
    words = shlex.split(draft.command())
    assert words[:2] == ["p2v-agent", "migrate"]
    args = parser.parse_args(words[2:])
    return make_plan(draft.found, choices_from(args)), args


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("everything", [False, True])
def test_the_command_line_makes_the_same_plan(name, everything):
    draft = Draft(Target(server="https://converter.example:8443"))
    draft.look_at(load(name))
    if everything:
        draft.name = "it's a new name"
        draft.format, draft.compress, draft.all_blocks = ImageFormat.QCOW2, True, True
        draft.convert, draft.wait, draft.bwlimit = False, True, 10 << 20
        draft.cpus, draft.memory = 3, 5 * GiB
        draft.host, draft.power_on, draft.connected = "hv 1", True, False
        nics = draft.plan().vm.nics
        draft.networks = {
            nic.name: text for nic, text in zip(nics, ("LAN:20", "dmz"), strict=False)
        }
    plan, args = by_command(draft)
    assert plan == draft.plan()
    assert args.server == "https://converter.example:8443"
    assert args.cutover == (["wait"] if everything and plan.live else ["now"])


def test_what_was_chosen_of_a_machine_that_changed_is_kept_as_far_as_it_is_there():
    draft = Draft()
    draft.look_at(load("md-raid1-lvm"))
    draft.disks, draft.exclude, draft.networks = {"sdb"}, {"sdb1"}, {"gone0": "LAN"}
    draft.look_at(load("md-raid1-lvm"))
    assert (draft.disks, draft.exclude, draft.networks) == ({"sdb"}, {"sdb1"}, {})
    draft.look_at(load("dual-boot-bitlocker"))
    assert draft.disks == {"nvme0n1"} and not draft.exclude


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (parse_cpus, ["1", " 240 "], ["0", "241", "two", ""]),
        (parse_memory, ["0.5", "12288"], ["0.4", "12289", "nan", "lots", ""]),
        (parse_name, ["web01", "a b"], ["", "a/b", "x" * 65, "a\nb"]),
    ],
)
def test_fields_take_what_a_machine_can_have(parse, good, bad):
    for text in good:
        parse(text)
    for text in bad:
        with pytest.raises(UsageError):
            parse(text)
