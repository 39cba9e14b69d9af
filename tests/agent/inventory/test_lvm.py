# SPDX-License-Identifier: GPL-3.0-or-later
"""Physical volumes made by LVM's own commands, and what these say of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.inventory.volume.lvm import Physical, read, read_physical
from agent.inventory.volume.lvmtext import parse
from agent.inventory.volume.window import VolumeDamagedError, open_window

MiB = 1 << 20
SIZE = 128 * MiB
EXTENT = 4 * MiB
# There may be no device-mapper here: nothing is activated.
OPTIONS = ("-qq", "--driverloaded", "n", "--yes", "--config", "backup{backup=0 archive=0}")
COLUMNS = "pe_start,pvseg_start,pvseg_size,segtype"


class Lvm:
    """LVM's commands on some devices."""

    def __init__(self, run: Callable[..., str], devices: list[Path]) -> None:
        self._run = run
        self.devices = devices

    def __call__(self, command: str, *words: object) -> str:
        on = ("--devices", ",".join(map(str, self.devices)))
        return self._run(command, *OPTIONS, *on, *words)

    def create(self, name: str, size: str, *words: object) -> None:
        self("lvcreate", "-an", "-Zn", "-n", name, "-L", size, "group", *words)

    def free(self, device: Path) -> list[tuple[int, int]]:
        """Return what LVM calls free of a device, in bytes."""
        form = ("--units", "b", "--nosuffix", "--noheadings", "--separator", "|")
        rows = [row.strip().split("|") for row in
                self("pvs", "--segments", *form, "-o", COLUMNS, device).splitlines()]  # fmt: skip
        return [
            (int(start) + int(first) * EXTENT, int(count) * EXTENT)
            for start, first, count, kind in rows
            if kind == "free"
        ]


@pytest.fixture
def lvm(tmp_path, run, loop) -> Iterator[Lvm]:
    """A volume group on two disks."""
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(SIZE)
    with loop(paths[0]) as one, loop(paths[1]) as two:
        found = Lvm(run, [one, two])
        found("pvcreate", one, two)
        found("vgcreate", "group", one, two)
        yield found


def look(device: Path) -> Physical:
    with open_window(device, 0, SIZE) as window:
        return read_physical(window)


def assert_free_as_lvm_says(lvm: Lvm) -> None:
    for device in lvm.devices:
        assert list(look(device).free()) == lvm.free(device)


@pytest.mark.root
def test_what_is_free_is_what_lvm_calls_free_after_every_change(lvm):
    one, two = lvm.devices
    assert_free_as_lvm_says(lvm)
    for name in ("a", "b", "c-1.x_y+"):
        lvm.create(name, "12m", one)
        lvm.create(f"{name}2", "8m", two)
        assert_free_as_lvm_says(lvm)
    lvm("lvremove", "group/b", "group/a2")
    assert_free_as_lvm_says(lvm)
    lvm("lvextend", "-L", "40m", "group/a", one)
    lvm.create("striped", "16m", "-i", "2")
    assert_free_as_lvm_says(lvm)
    volumes = {volume.name: volume for volume in look(one).volumes}
    assert volumes.keys() == {"a", "c-1.x_y+", "b2", "c-1.x_y+2"}  # not the striped one
    assert volumes["c-1.x_y+"].whole and not volumes["a"].whole
    assert [part.at for part in volumes["a"].segments] == [0, 24 * MiB]
    assert sum(part.length for part in volumes["a"].segments) == volumes["a"].size == 40 * MiB
    assert volumes["b2"].segments == ()  # it is on the other disk


@pytest.mark.root
def test_the_texts_go_round_their_ring(lvm):
    """The area has a MiB; a text that is longer each time comes to its end after some dozens."""
    starts = set()
    for number in range(40):
        lvm("vgchange", "--addtag", f"{number}".rjust(1000, "x"), "group")
        with open_window(lvm.devices[0], 0, SIZE) as window:
            starts.add(struct.unpack("<Q", window.read(4096 + 40, 8))[0])
            assert read(window).group == "group"
    assert min(starts) < max(starts) and sorted(starts) != [*starts]


def metadata(lvm: Lvm, volumes: str) -> str:
    """Return the text of a group with these volumes on the devices."""
    form = ("--noheadings", "-o", "pv_uuid")
    uuids = [lvm("pvs", *form, device).strip() for device in lvm.devices]
    group = lvm("vgs", "--noheadings", "-o", "vg_uuid", "group").strip()
    physical = "".join(
        f'pv{number} {{ id = "{uuid}" device = "/dev/x" status = ["ALLOCATABLE"] flags = [] '
        f"dev_size = {SIZE // 512} pe_start = 2048 pe_count = 31 }}\n"
        for number, uuid in enumerate(uuids)
    )
    return (
        'contents = "Text Format Volume Group"\nversion = 1\ndescription = ""\n'
        'creation_host = "x"\ncreation_time = 1\n'
        f'group {{ id = "{group}" seqno = 9 format = "lvm2" status = ["RESIZEABLE", "READ", '
        '"WRITE"] flags = [] extent_size = 8192 max_lv = 0 max_pv = 0 metadata_copies = 0\n'
        f"physical_volumes {{ {physical} }}\nlogical_volumes {{ {volumes} }} }}\n"
    )


def volume(name: str, status: str, *segments: str) -> str:
    unique = f"{zlib.crc32(name.encode()):08x}"
    uuid = f"{unique[:6]}-aaaa-bbbb-cccc-dddd-eeee-ffff{unique[6:]}"
    shown = ", ".join(f'"{word}"' for word in status.split())
    text = "".join(
        f"segment{number} {{ {segment} }} " for number, segment in enumerate(segments, 1)
    )
    return (
        f'{name} {{ id = "{uuid}" status = [{shown}] flags = [] '
        f"segment_count = {len(segments)} {text} }}\n"
    )


def linear(count: int, device: int, first: int) -> str:
    return (
        f'start_extent = 0 extent_count = {count} type = "striped" stripe_count = 1 '
        f'stripes = ["pv{device}", {first}]'
    )


OPEN, INNER = "READ WRITE VISIBLE", "READ WRITE"
KINDS = {
    "raid1": (
        volume("mirrored", OPEN, 'start_extent = 0 extent_count = 3 type = "raid1" '
               'device_count = 2 region_size = 4096 raids = ["m_rmeta_0", "m_rimage_0", '
               '"m_rmeta_1", "m_rimage_1"]')
        + volume("m_rmeta_0", INNER, linear(1, 0, 2))
        + volume("m_rimage_0", INNER, linear(3, 0, 5))
        + volume("m_rmeta_1", INNER, linear(1, 1, 0))
        + volume("m_rimage_1", INNER, linear(3, 1, 1)),
        {"plain"},
    ),
    "snapshot": (
        volume("origin", OPEN, linear(3, 0, 2)) + volume("cow", OPEN, linear(2, 0, 8))
        + volume("snapshot0", INNER, 'start_extent = 0 extent_count = 3 type = "snapshot" '
                 'chunk_size = 8 origin = "origin" cow_store = "cow"'),
        {"plain"},
    ),
    "thin": (
        volume("pool", OPEN, 'start_extent = 0 extent_count = 3 type = "thin-pool" '
               'metadata = "p_tmeta" pool = "p_tdata" transaction_id = 1 chunk_size = 128 '
               'discards = "passdown" zero_new_blocks = 1')
        + volume("p_tmeta", INNER, linear(1, 0, 4)) + volume("p_tdata", INNER, linear(3, 1, 6))
        + volume("thin", OPEN, 'start_extent = 0 extent_count = 9 type = "thin" '
                 'thin_pool = "pool" transaction_id = 0 device_id = 1'),
        {"plain"},
    ),
    "zero": (
        volume("nothing", OPEN, 'start_extent = 0 extent_count = 9 type = "zero"'),
        {"plain"},
    ),
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_volumes_that_are_made_of_others_have_no_map_but_their_extents(lvm, tmp_path, kind):
    volumes, plain = KINDS[kind]
    path = tmp_path / "text"
    path.write_text(metadata(lvm, volumes + volume("plain", OPEN, linear(4, 0, 20))))
    lvm("vgcfgrestore", "--force", "-f", path, "group")
    assert_free_as_lvm_says(lvm)
    found = {volume.name for volume in look(lvm.devices[0]).volumes if volume.segments}
    assert found == plain


@pytest.mark.root
def test_a_kind_that_places_data_by_itself_makes_nothing_free(lvm, tmp_path):
    moved = ('start_extent = 0 extent_count = 2 type = "mirror" mirror_count = 2 '
             'region_size = 1024 extents_moved = 0 mirrors = ["pv0", 3, "pv1", 3]')  # fmt: skip
    path = tmp_path / "text"
    path.write_text(metadata(lvm, volume("pvmove0", "READ WRITE PVMOVE LOCKED", moved)))
    lvm("vgcfgrestore", "--force", "-f", path, "group")
    with pytest.raises(VolumeDamagedError, match="segments of the kind 'mirror'"):
        look(lvm.devices[0])
    with open_window(lvm.devices[0], 0, SIZE) as window:
        assert (read(window).group, read(window).used) == ("group", None)


@pytest.mark.root
def test_a_volume_that_is_in_no_group_is_not_free(lvm):
    lvm("vgremove", "group")
    with pytest.raises(VolumeDamagedError, match="no metadata of a volume group"):
        look(lvm.devices[0])


# --- damage --------------------------------------------------------------------------------------

TEXT = (
    'group { id = "g" seqno = 1 extent_size = 8 physical_volumes { pv0 { id = "u" pe_start = 8 '
    'pe_count = 9 } } logical_volumes { a { id = "a" status = ["READ", "VISIBLE"] '
    'segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "striped" '
    'stripe_count = 1 stripes = ["pv0", 3] } } } }'
).replace('"u"', f'"{"u" * 32}"')


def image(text: bytes, *, crc: int | None = None) -> bytearray:
    """Return a physical volume of 64 KiB with this text."""
    disk = bytearray(64 << 10)
    disk[512:520], disk[532:536] = b"LABELONE", struct.pack("<I", 32)
    disk[536:544] = b"LVM2 001"
    disk[544:576] = b"u" * 32
    struct.pack_into("<Q6Q", disk, 576, len(disk), 60 << 10, 0, 0, 0, 4096, 16 << 10)
    struct.pack_into("<Q6Q", disk, 576, len(disk), 4096, 0, 0, 0, 0, 0)
    struct.pack_into("<QQQQQQQ", disk, 584, 32 << 10, 0, 0, 0, 4096, 16 << 10, 0)
    disk[4100:4116] = b"\x20LVM2\x20x[5A%r0N*>"
    seen = zlib.crc32(text, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF if crc is None else crc
    struct.pack_into("<QQII", disk, 4096 + 40, 512, len(text), seen, 0)
    disk[4096 + 512 : 4096 + 512 + len(text)] = text
    return disk


def on(path: Path, disk: bytes) -> Physical:
    path.write_bytes(disk)
    with open_window(path, 0, len(disk)) as window:
        return read_physical(window)


def test_a_small_one_by_hand(tmp_path):
    found = on(tmp_path / "pv", image(TEXT.encode()))
    assert (found.data, found.end, found.used) == (4096, 40960, ((16384, 8192),))
    assert list(found.free()) == [(4096, 12288), (24576, 16384)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('["pv0", 3]', '["pv0", 8]', "beyond the end"),
        ('["pv0", 3]', '["pv0", -1]', "beyond the end"),
        ('["pv0", 3]', '["pv7", 3]', "unknown device"),
        ('["pv0", 3]', '["pv0"]', "make no sense"),
        ("stripe_count = 1", "stripe_count = 0", "make no sense"),
        ("pe_count = 9", "pe_count = 99", "larger"),
        ("extent_size = 8", "extent_size = 0", "does not know"),
        ("extent_size = 8", "extent_size = x", "no number 'extent_size'"),
        ("segment_count = 1", "segment_count = 2", "not the segments"),
        ("segment_count = 1", "segment_count = 99999999999", "not the segments"),
        ("start_extent = 0", "start_extent = 1", "gaps"),
        ('id = "u', 'id = "v', "does not know"),
        ("seqno = 1", "seqno = 1 seqno = 2", "new name"),
        ("} }", "}", "ends early|wanted|new name|after"),
    ],
)
def test_what_makes_no_sense_makes_nothing_free(tmp_path, old, new, said):
    assert old in TEXT
    with pytest.raises(VolumeDamagedError, match=said):
        on(tmp_path / "pv", image(TEXT.replace(old, new, 1).encode()))


def test_two_volumes_in_one_place_make_nothing_free(tmp_path):
    again = TEXT.replace("logical_volumes {", "logical_volumes { b { segment_count = 1 segment1 { "
                         'start_extent = 0 extent_count = 1 type = "striped" stripe_count = 1 '
                         'stripes = ["pv0", 4] } }')  # fmt: skip
    with pytest.raises(VolumeDamagedError, match="two volumes in one place"):
        on(tmp_path / "pv", image(again.encode()))


def test_a_text_with_another_checksum_makes_nothing_free(tmp_path):
    with pytest.raises(VolumeDamagedError, match="checksum"):
        on(tmp_path / "pv", image(TEXT.encode(), crc=7))


@settings(deadline=None, max_examples=300,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.lists(st.tuples(st.integers(512, 640) | st.integers(4096, 5400), st.integers(0, 255)),
                min_size=1, max_size=8))  # fmt: skip
def test_damaged_bytes_are_no_more_than_an_error(tmp_path, changes):
    disk = image(TEXT.encode())
    for at, value in changes:
        disk[at] = value
    try:
        found = on(tmp_path / "pv", disk)
    except VolumeDamagedError:
        return
    assert all(found.data <= at < at + length <= found.end for at, length in found.free())


@settings(deadline=None, max_examples=300,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(st.data())
def test_a_damaged_text_with_a_right_checksum_is_no_more_than_an_error(tmp_path, data):
    words = TEXT.split(" ")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at] = data.draw(st.sampled_from([*words, "0", "-1", "99999999999999999", "[", '"']))
    try:
        found = on(tmp_path / "pv", image(" ".join(words).encode()))
    except VolumeDamagedError:
        return
    assert all(found.data <= at < at + length <= found.end for at, length in found.free())


@example("{" * 100)
@example("a = [" * 100)
@example('a = "\\')
@given(st.text(st.sampled_from('ab1_-.={}[],"\\# \n\0')))
def test_any_text_is_read_or_refused(text):
    try:
        parse(text)
    except VolumeDamagedError:
        return


def test_values_comments_and_escapes():
    text = 'a {\n# b = 1\nb = [1, "x # y", -2] # tail 6\nc = "q\\"\\\\" d-1 { } }\n# end'
    assert parse(text) == {"a": {"b": (1, "x # y", -2), "c": 'q"\\', "d-1": {}}}
