# SPDX-License-Identifier: GPL-3.0-or-later
"""What LVM says of its volumes, and whether snapshots can stand for a disk. Pure."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture import volumes
from agent.capture.volumes import NoSnapshotError, Part, parse_report, parts_of, wanted_snapshots
from agent.device import Place

MiB = 1 << 20
EXTENT = 4 * MiB
DISK = (254, 32)
PV = 65 * MiB  # where the physical volume begins on the disk

# As lvm2 2.03.11 (Debian 11) prints them.
PHYSICAL = """  /dev/md127|vg0|1048576|1569718272|1
  /dev/vdc2|vg1|1048576|467648512|1
  /dev/vdd||1048576|0|0
"""
GROUP = """  vg0|4194304|19
  vg1|4194304|61
"""
LOGICAL = """  vg0|root|1153433600|253|0|open||
  vg1|home|209715200|253|2|open||
  vg1|spare|4194304|253|3|||keep,these
"""
SEGMENT = """  /dev/md127|vg0|0|275|linear|root|0
  /dev/md127|vg0|275|99|free||0
  /dev/vdc2|vg1|0|20|linear|home|0
  /dev/vdc2|vg1|20|1|linear|spare|0
  /dev/vdc2|vg1|21|30|linear|home|83886080
  /dev/vdc2|vg1|51|60|free||0
"""


@pytest.fixture
def report():
    return parse_report(PHYSICAL, GROUP, LOGICAL, SEGMENT)


@pytest.fixture(autouse=True)
def on_disk(monkeypatch):
    places = {"/dev/vdc2": Place(DISK, PV)}
    monkeypatch.setattr(volumes, "place_of", places.get)


def replaced(logical=LOGICAL, segment=SEGMENT, physical=PHYSICAL):
    return parse_report(physical, GROUP, logical, segment)


def test_a_snapshot_is_made_of_every_volume_in_use(report):
    (wanted,) = wanted_snapshots(report, ["vg1"], [])
    assert wanted.volume.path == "vg1/home"
    assert wanted.extents == 52  # the volume, its table, and no more than can be needed
    assert wanted.volume.tags == ("",)


def test_room_is_divided_by_size_and_too_little_is_a_reason(report):
    (wanted,) = wanted_snapshots(report, ["vg0"], [])
    assert wanted.extents == 19
    small = parse_report(PHYSICAL, GROUP.replace("|19", "|2"), LOGICAL, SEGMENT)
    with pytest.raises(NoSnapshotError, match=r"vg0 has 8.0 MiB free, at least 55.0 MiB"):
        wanted_snapshots(small, ["vg0"], [])


def test_swap_needs_no_snapshot(report):
    assert wanted_snapshots(report, ["vg1"], [(253, 2)]) == ()


@pytest.mark.parametrize(
    ("logical", "segment", "reason"),
    [
        (
            LOGICAL.replace("home|209715200|253|2|open|", "home|9|253|2|open|other"),
            SEGMENT,
            "itself",
        ),
        (LOGICAL, SEGMENT.replace("linear|home", "raid1|home"), r"not linear \(raid1\)"),
        (LOGICAL, "", "thin or the like"),
        (LOGICAL.replace("|home|", "|[home]|"), SEGMENT, "not linear"),
    ],
)
def test_volumes_without_a_place_of_their_own_are_refused(logical, segment, reason):
    with pytest.raises(NoSnapshotError, match=reason):
        wanted_snapshots(replaced(logical, segment), ["vg1"], [])


def test_a_disk_is_its_snapshots_zeros_where_nothing_is_and_metadata_from_before(report):
    data = PV + MiB
    assert parts_of(report, DISK, ["vg1/home"]) == (
        Part(PV, MiB, None),
        Part(data, 20 * EXTENT, "vg1/home", 0),
        Part(data + 21 * EXTENT, 30 * EXTENT, "vg1/home", 20 * EXTENT),
        Part(data + 51 * EXTENT, 60 * EXTENT, ""),
    )
    assert parts_of(report, (8, 0), ["vg1/home"]) == ()


def test_a_second_copy_of_the_metadata_is_kept_too():
    found = parts_of(replaced(physical=PHYSICAL.replace("467648512|1", "467648512|2")), DISK, [])
    end = MiB + 111 * EXTENT
    assert found[-1] == Part(PV + end, 467648512 - end, None)
    far = PHYSICAL.replace("467648512|1", "967648512|2")
    with pytest.raises(NoSnapshotError, match="unusual place"):
        parts_of(replaced(physical=far), DISK, [])


def test_what_lvm_never_says_is_an_error():
    for physical, group, logical, segment in [
        ("a|b", GROUP, LOGICAL, SEGMENT),
        (PHYSICAL, GROUP, LOGICAL, SEGMENT.replace("vg1|0|20", "vg9|0|20")),
        (PHYSICAL, GROUP.replace("4194304", "4m"), LOGICAL, SEGMENT),
    ]:
        with pytest.raises(ValueError):
            parse_report(physical, group, logical, segment)


@given(*[st.text("|0123456789abv/[]\n ", max_size=60)] * 4)
def test_nonsense_is_a_value_error_or_a_report(physical, group, logical, segment):
    with suppress(ValueError):
        parse_report(physical, group, logical, segment)
