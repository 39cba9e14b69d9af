# SPDX-License-Identifier: GPL-3.0-or-later
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.guest.edit import DeleteKey, SetValue
from p2v.guest.windows import hivefacts
from p2v.guest.windows.check import check_registry
from p2v.guest.windows.registry.hive import Hive
from p2v.guest.windows.values import set_number
from tests.p2v.guest.windows import building
from tests.p2v.guest.windows.making import facts_of, planned

PLANNED = (
    set_number("SYSTEM", r"services\STORVSC", "start", 0),
    set_number("SYSTEM", r"Services\new\Parameters", "Number", 7),
    DeleteKey("SYSTEM", r"Services\vmbus\StartOverride"),
)


class Editing:
    """A small hive that hivex makes, and then changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(building.empty_hive())
        self.put(r"Services\storvsc", "Start", 3)
        self.put(r"Services\vmbus\StartOverride", "0", 3)
        self.put(r"Services\disk", "Start", 0)
        self.before = self.read()

    def put(self, key: str, name: str, number: int) -> None:
        with building.hivex(self._path, write=True) as handle:
            node = handle.root()
            for part in key.split("\\"):
                node = handle.node_get_child(node, part) or handle.node_add_child(node, part)
            value = {"key": name, "t": 4, "value": number.to_bytes(4, "little")}
            handle.node_set_value(node, value)

    def drop(self, key: str) -> None:
        with building.hivex(self._path, write=True) as handle:
            node = handle.root()
            for part in key.split("\\"):
                node = handle.node_get_child(node, part)
            handle.node_delete_child(node)

    def read(self) -> Hive:
        return Hive(self._path.read_bytes())

    def checked(self) -> list[tuple[bool, str]]:
        checks = check_registry(self.before, self.read(), PLANNED)
        return [(check.passed, check.evidence) for check in checks]


@pytest.fixture
def hive(tmp_path: Path) -> Editing:
    editing = Editing(tmp_path / "hive")
    editing.put(r"Services\storvsc", "Start", 0)
    editing.put(r"Services\new\Parameters", "Number", 7)
    editing.drop(r"Services\vmbus\StartOverride")
    return editing


def test_a_hive_with_exactly_the_planned_changes_passes(hive):
    assert [passed for passed, _ in hive.checked()] == [True, True]


def test_an_action_that_did_not_reach_the_hive_is_named(hive):
    hive.put(r"Services\storvsc", "Start", 3)
    hive.put(r"Services\vmbus\StartOverride", "0", 3)
    (passed, evidence), _ = hive.checked()
    assert not passed
    assert "STORVSC" in evidence and "StartOverride" in evidence and "new" not in evidence


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda hive: hive.put(r"Services\disk", "Start", 4), r"Services\disk\Start"),
        (lambda hive: hive.put(r"Services\storvsc", "Group", 1), r"Services\storvsc\Group"),
        (lambda hive: hive.put(r"Services\other", "Start", 1), r"Services\other"),
        (lambda hive: hive.drop(r"Services\vmbus"), r"Services\vmbus"),
        (lambda hive: hive.drop(r"Services\disk"), r"Services\disk"),
    ],
    ids=["another value", "a value beside", "a new key", "the key above", "another key"],
)
def test_a_change_that_nobody_planned_is_named(hive, change, named):
    change(hive)
    _, (passed, evidence) = hive.checked()
    assert not passed
    assert named in evidence


@pytest.mark.parametrize("name", ["SYSTEM", "SYSTEM_2", "SYSTEM_B"])
def test_the_plan_of_a_real_system_changes_what_it_says_and_leaves_nothing_to_plan(name, tmp_path):
    facts = facts_of(name)
    actions = [
        edit.action
        for edit in planned(facts).edits
        if isinstance(edit.action, SetValue | DeleteKey)
    ]
    path = tmp_path / "hive"
    path.write_bytes(building.real(name))
    with building.hivex(path, write=True) as handle:
        for action in actions:
            carry_out(handle, action)
    after = Hive(path.read_bytes())
    assert all(check.passed for check in check_registry(Hive(building.real(name)), after, actions))
    read = hivefacts.read(after)
    known = replace(facts.windows, control_sets=read.control_sets, interfaces=read.interfaces)
    assert planned(replace(facts, windows=known)).edits == ()


def carry_out(handle, action: SetValue | DeleteKey) -> None:
    node = handle.root()
    for part in action.key.split("\\"):
        node = handle.node_get_child(node, part) or handle.node_add_child(node, part)
    if isinstance(action, DeleteKey):
        handle.node_delete_child(node)
    else:
        value = {"key": action.name, "t": action.kind, "value": bytes.fromhex(action.data)}
        handle.node_set_value(node, value)
