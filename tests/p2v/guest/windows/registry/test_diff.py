# SPDX-License-Identifier: GPL-3.0-or-later
from p2v.guest.windows.registry.diff import differences
from p2v.guest.windows.registry.hive import Hive
from tests.p2v.guest.windows import building


def edited(tmp_path, change) -> Hive:
    path = tmp_path / "hive"
    path.write_bytes(building.real("SYSTEM"))
    with building.hivex(path, write=True) as handle:
        change(handle)
    return Hive(path.read_bytes())


def node(handle, path):
    found = handle.root()
    for name in path.split("\\"):
        found = handle.node_get_child(found, name)
    return found


def changed(tmp_path, change) -> list[tuple[str, str | None]]:
    before = Hive(building.real("SYSTEM"))
    found = differences(before, edited(tmp_path, change))
    return [(one.key.replace(r"\services", r"\Services"), one.name) for one in found]


def test_a_hive_that_hivex_wrote_again_differs_in_nothing(tmp_path):
    assert changed(tmp_path, lambda handle: None) == []


def test_a_value_that_was_set_is_the_only_difference(tmp_path):
    def change(handle):
        value = {"key": "Start", "t": 4, "value": b"\0\0\0\0"}
        handle.node_set_value(node(handle, r"ControlSet001\Services\storvsc"), value)

    assert changed(tmp_path, change) == [(r"ControlSet001\Services\storvsc", "Start")]


def test_a_value_of_the_same_bytes_and_another_type_differs(tmp_path):
    def change(handle):
        value = {"key": "Start", "t": 3, "value": b"\3\0\0\0"}
        handle.node_set_value(node(handle, r"ControlSet001\Services\storvsc"), value)

    assert changed(tmp_path, change) == [(r"ControlSet001\Services\storvsc", "Start")]


def test_keys_that_came_or_went_are_named_with_what_is_in_them(tmp_path):
    def change(handle):
        handle.node_delete_child(node(handle, r"ControlSet002\Services\VMTools"))
        key = handle.node_add_child(node(handle, r"ControlSet001\Services"), "p2v")
        handle.node_set_value(key, {"key": "Start", "t": 4, "value": b"\2\0\0\0"})

    names = changed(tmp_path, change)
    assert (r"ControlSet001\Services\p2v", None) in names
    assert (r"ControlSet001\Services\p2v", "Start") in names
    assert (r"ControlSet002\Services\VMTools", None) in names
    assert (r"ControlSet002\Services\VMTools", "ImagePath") in names
    assert all(r"\VMTools" in key or key.endswith("p2v") for key, _ in names)


def test_other_permissions_are_a_difference(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(building.empty_hive())
    with building.hivex(path, write=True) as handle:
        handle.node_add_child(handle.root(), "child")
    before = path.read_bytes()
    system, everyone = bytes.fromhex("0101000000000005"), bytes.fromhex("0101000000000001")
    assert before.count(system) == 2
    after = before.replace(system, everyone)
    shown = [(one.key, one.name) for one in differences(Hive(before), Hive(after))]
    assert shown == [("", None), ("child", None)]
