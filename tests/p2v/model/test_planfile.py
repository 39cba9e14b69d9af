# SPDX-License-Identifier: GPL-3.0-or-later
import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.model import planfile
from p2v.model.errors import UsageError
from p2v.model.plan import (
    Codec,
    ImageFormat,
    Plan,
    PlannedDisk,
    PlannedPartition,
    Treatment,
)

MiB = 1 << 20
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@st.composite
def disks(draw, name):
    sector = draw(st.sampled_from([512, 4096]))
    cuts = sorted(draw(st.sets(st.integers(0, 1000), max_size=6)))
    partitions = tuple(
        PlannedPartition(
            number=number,
            name=draw(text),
            start=start * MiB,
            size=(end - start) * MiB,
            content=draw(text),
            treatment=draw(st.sampled_from(Treatment)),
            reason=draw(text),
            uuid=draw(text),
            label=draw(text),
            mount_point=draw(text),
        )
        for number, (start, end) in enumerate(zip(cuts[::2], cuts[1::2], strict=False))
    )
    size = draw(st.integers(1000 * MiB // sector, 1 << 50)) * sector
    return PlannedDisk(name, draw(text), size, sector, draw(st.integers(0, 1 << 20)),
                       draw(text), draw(text), draw(text), partitions)  # fmt: skip


@st.composite
def plans(draw):
    names = draw(st.lists(text, min_size=1, max_size=3, unique=True))
    return Plan(
        name=draw(text),
        disks=tuple(draw(disks(name)) for name in names),
        format=draw(st.sampled_from(ImageFormat)),
        live=draw(st.booleans()),
        all_blocks=draw(st.booleans()),
        codec=draw(st.sampled_from(Codec)),
        bwlimit=draw(st.integers(0, 1 << 40)),
        compress_image=draw(st.booleans()),
        convert=draw(st.booleans()),
        warnings=tuple(draw(st.lists(text, max_size=3))),
    )


@given(plans())
def test_a_plan_reads_back_equal_from_toml_and_json(plan):
    assert planfile.load(planfile.dump(plan)) == plan
    assert planfile.from_json(json.loads(json.dumps(planfile.to_json(plan)))) == plan


def document():
    partition = {
        "number": 1,
        "name": "sda1",
        "start": MiB,
        "size": MiB,
        "content": "ext4",
        "treatment": "used",
    }
    disk = {"name": "sda", "path": "/dev/sda", "size": 8 * MiB, "partitions": [partition]}
    return {"version": 1, "name": "box", "disks": [disk]}


def test_what_has_a_default_may_be_left_out():
    plan = planfile.from_json(document())
    assert plan.format is ImageFormat.VHDX
    assert plan.disks[0].partitions[0].treatment is Treatment.USED


def change(path, value):
    result = document()
    place = result
    *way, last = path
    for step in way:
        place = place[step]
    place[last] = value
    return result


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["formt"], "vhdx", r"plan has the unknown key 'formt'"),
        (["format"], "vdi", r"plan.format is 'vdi'; it may be vhdx, qcow2, raw"),
        (["live"], "no", r"plan.live must be true or false, not text"),
        (["bwlimit"], True, r"plan.bwlimit must be a whole number, not true or false"),
        (["bwlimit"], -1, r"plan.bwlimit must not be negative"),
        (["disks"], [], r"the plan names no disk"),
        (["disks"], "sda", r"plan.disks must be a list, not text"),
        (["disks", 0], 3, r"plan.disks\[0\] must be a table of keys, not a whole number"),
        (["disks", 0, "size"], 1000.0, r"plan.disks\[0\].size must be a whole number"),
        (["disks", 0, "size"], 1000, r"disk sda: size 1000 is no number of sectors"),
        (["disks", 0, "logical_sector"], 520, r"logical_sector is 520"),
        (["disks", 0, "partitions", 0, "treatment"], "skip", r"treatment is 'skip'; it may be"),
        (["disks", 0, "partitions", 0, "size"], 9 * MiB, r"partition 1 leaves the disk"),
        (["disks", 0, "partitions", 0, "start"], -1, r"partition 1 overlaps"),
        (["disks", 0, "partitions", 0, "color"], "", r"unknown key 'color'"),
        (["version"], 2, r"version 2, this p2v reads version 1"),
    ],
)
def test_what_is_wrong_is_named(path, value, said):
    with pytest.raises(UsageError, match=said):
        planfile.from_json(change(path, value))


def test_what_is_missing_is_named():
    broken = document()
    del broken["disks"][0]["path"]
    with pytest.raises(UsageError, match=r"plan.disks\[0\] lacks the key 'path'"):
        planfile.from_json(broken)


def test_a_disk_twice_is_refused():
    broken = document()
    broken["disks"] *= 2
    with pytest.raises(UsageError, match="names the disk 'sda' twice"):
        planfile.from_json(broken)


@pytest.mark.parametrize("content", ["", "a = ", "[[[", "version = 1", "\x00"])
def test_what_is_no_plan_is_refused(content):
    with pytest.raises(UsageError):
        planfile.load(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@given(json_values, st.sampled_from(["name", "disks", "format", "warnings", "bwlimit", "live"]))
def test_no_value_gets_past_its_type(value, key):
    try:
        plan = planfile.from_json({**document(), key: value})
    except UsageError:
        return
    assert planfile.to_json(plan)[key] == (value if key != "disks" else planfile.to_json(plan)[key])


def test_the_toml_is_for_people():
    plan = planfile.from_json(document())
    lines = planfile.dump(plan).splitlines()
    assert lines[0].startswith("# A p2v migration plan.")
    assert "version = 1" in lines[:4]
    assert tomllib.loads("\n".join(lines))["disks"][0]["partitions"][0]["start"] == MiB
