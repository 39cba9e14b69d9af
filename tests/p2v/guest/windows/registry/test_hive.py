# SPDX-License-Identifier: GPL-3.0-or-later
import struct
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.guest.windows.registry.base import PAGE, BaseBlock, HiveDamagedError
from p2v.guest.windows.registry.hive import Hive, Kind, Value, walk
from tests.p2v.guest.windows import building


def everything(hive: Hive) -> dict[str, list[tuple[str, int, bytes]]]:
    return {
        path: sorted((value.name, value.kind, value.data) for value in key.values())
        for path, key in walk(hive.root())
    }


def everything_by_hivex(path) -> dict[str, list[tuple[str, int, bytes]]]:
    found = {}
    with building.hivex(path) as handle:
        todo = [("", handle.root())]
        while todo:
            at, node = todo.pop()
            found[at] = sorted(
                (handle.value_key(value), *handle.value_value(value))
                for value in handle.node_values(node)
            )
            for child in handle.node_children(node):
                name = handle.node_name(child)
                todo.append((f"{at}\\{name}" if at else name, child))
    return found


@pytest.mark.parametrize("name", ["SYSTEM", "SYSTEM_2", "SYSTEM_B"])
def test_every_key_and_value_of_a_real_hive_is_what_hivex_reads(name, tmp_path):
    hive = building.real(name)
    path = tmp_path / name
    path.write_bytes(hive)
    ours, theirs = everything(Hive(hive)), everything_by_hivex(path)
    assert len(ours) > 20_000
    assert ours == theirs


def test_big_values_are_put_together_from_their_segments(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(building.empty_hive())
    contents = {str(size): bytes(range(256)) * (size // 256 + 1) for size in (16344, 16345, 70_000)}
    with building.hivex(path, write=True) as handle:
        key = handle.node_add_child(handle.root(), "big")
        for name, data in contents.items():
            value = {"key": name, "t": 3, "value": data[: int(name)]}
            handle.node_set_value(key, value)
    key = Hive(path.read_bytes()).find("BIG")
    assert {value.name: value.data for value in key.values()} == {
        name: data[: int(name)] for name, data in contents.items()
    }


def test_keys_and_values_are_found_whatever_their_case():
    hive = Hive(building.real("SYSTEM"))
    key = hive.find(r"controlset001\SERVICES\VmBus")
    assert key.name == "vmbus"
    assert key.number("START") == 0
    assert key.text("imagepath") == r"system32\drivers\vmbus.sys"
    assert hive.find(r"ControlSet001\Services\nothing") is None


def test_a_dirty_hive_is_not_read():
    with pytest.raises(HiveDamagedError, match="not written to its end"):
        Hive(building.packed("SYSTEM_B"))


def test_strings_end_where_they_say_and_lists_have_no_empty_ones():
    assert Value("", Kind.SZ, "a\0b\0".encode("utf-16-le")).texts == ("a",)
    assert Value("", Kind.MULTI_SZ, "a\0b\0\0".encode("utf-16-le")).texts == ("a", "b")
    assert Value("", Kind.BINARY, b"abcd").texts == ()
    assert Value("", Kind.SZ, b"a").text == "\ufffd"


def test_a_key_in_itself_is_noticed(tmp_path):
    path = tmp_path / "hive"
    path.write_bytes(building.empty_hive())
    with building.hivex(path, write=True) as handle:
        handle.node_add_child(handle.root(), "child")
    raw = bytearray(path.read_bytes())
    root = BaseBlock.parse(bytes(raw)).root
    (list_at,) = struct.unpack_from("<I", raw, PAGE + root + 4 + 28)
    struct.pack_into("<I", raw, PAGE + list_at + 4 + 4, root)
    hive = Hive(bytes(raw))
    with pytest.raises(HiveDamagedError, match="listed twice"):
        list(walk(hive.root()))


@pytest.mark.parametrize("limit", ["MAX_READS", "MAX_DATA", "MAX_LISTED"])
def test_a_hive_that_is_read_for_more_than_it_can_hold_is_given_up(limit, monkeypatch):
    monkeypatch.setattr(f"p2v.guest.windows.registry.hive.{limit}", 2)
    hive = Hive(small_hive())
    with pytest.raises(HiveDamagedError):
        everything(hive)


def test_a_list_of_more_values_than_a_hive_can_have_is_not_even_begun():
    raw = bytearray(small_hive())
    alpha = Hive(bytes(raw)).find("alpha")
    struct.pack_into("<I", raw, PAGE + alpha.at + 4 + 36, 0xFFFFFFFF)
    with pytest.raises(HiveDamagedError, match="4294967295 entries"):
        list(Hive(bytes(raw)).find("alpha").values())


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_damaged_cells_are_errors_and_nothing_else(data):
    raw = bytearray(small_hive())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(PAGE + 32, len(raw) - 4))
        struct.pack_into(
            "<I", raw, at, data.draw(st.integers(0, 0xFFFFFFFF) | st.integers(0, 2 * PAGE))
        )
    try:
        hive = Hive(bytes(raw))
        for _, key in walk(hive.root()):
            key.security()
            list(key.values())
    except HiveDamagedError:
        pass


@cache
def small_hive() -> bytes:
    """Return a hive with some of everything, made once."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "hive"
        path.write_bytes(building.empty_hive())
        with building.hivex(path, write=True) as handle:
            for name in ("alpha", "beta", "größe"):
                key = handle.node_add_child(handle.root(), name)
                handle.node_add_child(key, "below")
                handle.node_set_value(key, {"key": "n", "t": 4, "value": b"\1\0\0\0"})
                handle.node_set_value(key, {"key": "s", "t": 1, "value": b"x\0" * 40})
                handle.node_set_value(key, {"key": "b", "t": 3, "value": bytes(17_000)})
        return path.read_bytes()
