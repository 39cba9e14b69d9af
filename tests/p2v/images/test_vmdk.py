# SPDX-License-Identifier: GPL-3.0-or-later
"""VMDK images as qemu-img makes them, and as nobody should."""

from __future__ import annotations

import os
import random
import subprocess
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2v.images.compare import compare_images
from p2v.images.copy import copy_disk
from p2v.images.open import create_writer, is_vmdk, open_disk
from p2v.images.vmdk import VmdkReader
from p2v.model.errors import ImageError
from p2v.model.plan import ImageFormat
from p2v.model.units import KiB, MiB

KINDS = (
    "monolithicSparse",
    "streamOptimized",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A disk larger than 2 GiB, mostly holes, with data at odd places and at both ends."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    chance = random.Random(7)
    with path.open("wb") as file:
        file.truncate(2100 * MiB)
        for at in (0, 5 * MiB + 512, 300 * MiB, 2047 * MiB + 100 * KiB, 2100 * MiB - 70 * KiB):
            file.seek(at)
            file.write(chance.randbytes(70 * KiB))
        file.seek(64 * MiB)
        file.write(b"text " * (3 * MiB // 5))
    return path


def vmdk(raw: Path, folder: Path, kind: str) -> Path:
    path = folder / "disk.vmdk"
    options = ["-O", "vmdk", "-o", f"subformat={kind}"]
    subprocess.run(["qemu-img", "convert", *options, raw, path], check=True)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_as_the_disk_that_it_was_made_of(raw, tmp_path, kind):
    path = vmdk(raw, tmp_path, kind)
    assert is_vmdk(path)
    result = compare_images(path, raw)
    assert result.same and result.size_a == result.size_b
    with closing(open_disk(path)) as reader:
        extents = list(reader.extents())
        assert extents[0].offset == 0 and extents[-1].end == reader.size
        assert all(one.end == two.offset for one, two in pairwise(extents))
        if kind != "monolithicFlat" and kind != "twoGbMaxExtentFlat":
            assert sum(one.length for one in extents if not one.zero) < 8 * MiB


@pytest.mark.parametrize("kind", ["monolithicSparse", "streamOptimized"])
def test_odd_ranges_are_what_the_disk_holds_there(raw, tmp_path, kind):
    path, chance = vmdk(raw, tmp_path, kind), random.Random(3)
    with closing(VmdkReader.open(path)) as reader, raw.open("rb") as file:
        for _ in range(300):
            at = chance.choice((0, 5 * MiB, 64 * MiB, 2047 * MiB)) + chance.randrange(MiB)
            length = chance.randrange(1, 300 * KiB)
            file.seek(at)
            got = bytearray(length)
            reader.readinto(at, got)
            assert got == file.read(length)


@pytest.mark.parametrize("form", ImageFormat)
def test_its_copy_is_the_same_disk_by_another_reader(raw, tmp_path, form):
    path, copy = vmdk(raw, tmp_path, "streamOptimized"), tmp_path / f"copy.{form}"
    seen: list[int] = []
    with (
        closing(VmdkReader.open(path)) as reader,
        closing(create_writer(form, copy, reader.size)) as writer,
    ):
        copy_disk(reader, writer, lambda done, _total: seen.append(done))
    subprocess.run(["qemu-img", "compare", "-f", form, "-F", "raw", copy, raw], check=True)
    assert seen == sorted(seen) and seen[-1] == 2100 * MiB
    assert copy.stat().st_blocks * 512 < 64 * MiB


# --- what is refused -----------------------------------------------------------------------------


def refused(path: Path, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        VmdkReader.open(path)


def description(folder: Path, *extents: str, more: str = "") -> Path:
    path = folder / "text.vmdk"
    lines = "\n".join(extents)
    path.write_text(
        f"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{more}\n{lines}\n"
    )
    return path


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "sub/flat", "..", "."])
def test_files_of_other_folders_are_not_opened(tmp_path, name):
    refused(description(tmp_path, f'RW 1 FLAT "{name}" 0'), "kind")


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "flat").symlink_to("/etc/passwd")
    refused(description(tmp_path, 'RW 1 FLAT "flat" 0'), "can't be opened")


def test_a_fifo_or_device_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "flat")
    refused(description(tmp_path, 'RW 1 FLAT "flat" 0'), "not a regular file")


def test_a_flat_file_that_is_too_short_is_named(tmp_path):
    (tmp_path / "flat").write_bytes(bytes(1024))
    refused(description(tmp_path, 'RW 3 FLAT "flat" 0'), "flat.*shorter")
    refused(description(tmp_path, 'RW 1 FLAT "flat" 2'), "flat.*shorter")


@pytest.mark.parametrize("kind", ["VMFSSPARSE", "SESPARSE", "VMFSRDM", "VMFSRAW"])
def test_kinds_that_are_not_read_are_named(tmp_path, kind):
    (tmp_path / "part").write_bytes(bytes(1024))
    refused(description(tmp_path, f'RW 1 {kind} "part"'), kind)


def test_a_snapshot_is_refused_with_the_way_out(raw, tmp_path):
    base = vmdk(raw, tmp_path, "monolithicSparse")
    child = tmp_path / "child.vmdk"
    make = ["qemu-img", "create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", base, child]
    subprocess.run(make, check=True)
    refused(child, "consolidate")
    refused(description(tmp_path, "RW 1 ZERO", more='parentFileNameHint="x"'), "consolidate")


def test_a_part_alone_is_refused(raw, tmp_path):
    vmdk(raw, tmp_path, "twoGbMaxExtentSparse")
    refused(tmp_path / "disk-s001.vmdk", "a part")


def test_zeros_and_pieces_of_a_file_are_put_in_order(tmp_path):
    (tmp_path / "flat").write_bytes(b"a" * 512 + b"b" * 512)
    extents = ('RW 1 FLAT "flat" 1', "RW 2 ZERO", 'RDONLY 1 VMFS "flat"')
    with closing(VmdkReader.open(description(tmp_path, *extents))) as reader:
        disk = bytearray(reader.size)
        reader.readinto(0, disk)
    assert disk == b"b" * 512 + bytes(1024) + b"a" * 512


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage_is_an_error_and_never_more(raw, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damage"
    kind = data.draw(st.sampled_from(["monolithicSparse", "streamOptimized"]))
    whole = folder / f"{kind}.vmdk"
    if not whole.exists():
        folder.mkdir(exist_ok=True)
        small = folder / "small.raw"
        small.write_bytes(random.Random(1).randbytes(MiB) + bytes(3 * MiB))
        subprocess.run(
            ["qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={kind}", small, whole],
            check=True,
        )
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, data.draw(st.sampled_from([79, 4096, len(content) - 1]))))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    damaged = folder / "damaged.vmdk"
    damaged.write_bytes(content[:cut])
    try:
        with closing(VmdkReader.open(damaged)) as reader:
            list(reader.extents(0, min(reader.size, 16 * MiB)))
            reader.readinto(0, bytearray(min(reader.size, 4 * MiB)))
    except ImageError:
        pass
