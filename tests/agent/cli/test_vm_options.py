# SPDX-License-Identifier: GPL-3.0-or-later
import argparse

import pytest

from agent.cli.vm_options import add_vm_options, vm_choices_from
from agent.vm import VmChoices
from p2v.model.errors import UsageError

GiB = 1 << 30


def parse(*words):
    parser = argparse.ArgumentParser()
    add_vm_options(parser)
    return vm_choices_from(parser.parse_args(words))


def test_without_options_no_machine_is_made():
    assert parse() == VmChoices()


def test_best_leaves_the_choice_of_the_host_to_the_rating():
    assert parse("--host", "best") == VmChoices(create=True)
    assert parse("--host", "hv1") == VmChoices(create=True, host="hv1")


def test_networks_may_have_a_vlan():
    found = parse("--network", "eno1=LAN", "--network", "eno2=DMZ one:20", "--memory", "2G")
    assert found.networks == (("eno1", "LAN", 0), ("eno2", "DMZ one", 20))
    assert found.memory == 2 * GiB


def test_a_cable_may_be_left_out():
    assert parse("--unplugged", "--power-on", "--clustered") == VmChoices(
        connected=False, power_on=True, clustered=True
    )


def test_a_network_that_names_no_interface_is_refused():
    with pytest.raises(UsageError, match="eno1=LAN:20"):
        parse("--network", "LAN")
