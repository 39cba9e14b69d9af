# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sort of disk through agent, TLS and converter into every format, and what arrives.

The default run takes a few representative cells; `slow` marks the rest of the cross product.
"""

from __future__ import annotations

import itertools

import pytest

from p2v.model.units import MiB
from tests.e2e import images
from tests.e2e.sources import WITH_FILES, Spec, assert_same_volumes, attached, digest_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

_REST = (
    ("ext4", 96),
    ("xfs", 320),
    ("swap", 16),
    ("btrfs", 128),
    ("ntfs", 48),
    ("lvm", 80),
)
SPECS = {
    spec.name: spec
    for spec in (
        Spec("gpt", 512, "gpt", (("vfat", 48), *_REST), rest=7 * 512),
        Spec("gpt4k", 4096, "gpt", (("vfat", 288), *_REST), rest=3 * 4096),
        Spec("mbr", 512, "dos", (("xfs", 4300), ("vfat", 48), *_REST), logical=3, rest=512),
        Spec("mbr4k", 4096, "dos", (("vfat", 288), *_REST), logical=2, rest=4096),
        *(
            Spec(f"bare-{kind}{name}", sector, "", ((kind, 0),), rest=size * MiB + 5 * sector)
            for kind, size in (*_REST, ("vfat", 300), ("random", 5), ("blank", 300))
            for name, sector in (("", 512), ("4k", 4096))
        ),
        Spec("one-sector", 512, "", (("random", 0),), rest=512),
    )
}
FORMATS = {
    "vhdx": ("--format", "vhdx"),
    "qcow2": ("--format", "qcow2"),
    "qcow2z": ("--format", "qcow2", "--compress-image"),
    "raw": ("--format", "raw"),
}
QUICK = {  # by mode, what the default run takes
    "used": {("gpt4k", "vhdx"), ("mbr", "qcow2"), ("bare-xfs", "qcow2z"), ("bare-blank", "vhdx")},
    "all": {
        ("gpt4k", "qcow2z"),
        ("gpt", "vhdx"),
        ("bare-random4k", "vhdx"),
        ("one-sector", "qcow2"),
    },
}


def cells(mode: str) -> list:
    return [
        pytest.param(
            SPECS[name],
            FORMATS[form],
            id=f"{name}-{form}",
            marks=() if (name, form) in QUICK[mode] else pytest.mark.slow,
        )
        for name, form in itertools.product(SPECS, FORMATS)
    ]


@pytest.mark.parametrize(("spec", "options"), cells("used"))
def test_every_file_of_every_file_system_arrives(built, image_of, room, spec, options):
    disk = built(spec)
    before = digest_of(disk.path)
    with attached(disk.path, spec.sector) as loop:
        image, document = image_of(loop, *options)
    assert digest_of(disk.path) == before, "the source has changed"
    assert document["notes"] == []
    assert document["counters"]["handled"] == spec.size
    images.check(image, spec.sector)
    raw = images.unpack(image, spec.sector, room)
    assert raw.stat().st_size == spec.size
    assert_same_volumes(raw, disk, room)
    if any(volume.kind in WITH_FILES[:-1] for volume in disk.volumes):
        assert document["counters"]["read"] < spec.size


@pytest.mark.parametrize(("spec", "options"), cells("all"))
def test_all_blocks_give_a_bit_identical_disk(built, image_of, spec, options):
    disk = built(spec)
    before = digest_of(disk.path)
    with attached(disk.path, spec.sector) as loop:
        image, document = image_of(loop, *options, "--all-blocks")
    assert digest_of(disk.path) == before, "the source has changed"
    assert document["counters"]["read"] == spec.size
    images.check(image, spec.sector)
    images.compare(image, disk.path, spec.sector)
