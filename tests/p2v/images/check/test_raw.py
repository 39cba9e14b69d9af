# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from p2v.images.check import check_image
from p2v.images.compare import compare_images
from p2v.model.errors import ImageError, NoSuchDiskError

MiB = 1 << 20


@pytest.fixture
def disk(tmp_path) -> Path:
    """A raw disk of 16 MiB with a GPT."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(16 * MiB)
    table = "label: gpt\nsize=4M\n"
    subprocess.run(["sfdisk", "-q", str(path)], input=table, text=True, check=True)
    return path


def test_a_good_disk_is_clean(disk):
    report = check_image(disk, deep=True)
    assert report.counts == {} and report.exit_code == 0
    assert (report.info.format, report.info.virtual_size) == ("raw", 16 * MiB)
    assert 0 < report.info.allocated < MiB


def test_a_disk_cut_before_the_end_of_its_gpt_is_an_error(disk):
    os.truncate(disk, 12 * MiB)
    report = check_image(disk)
    assert report.counts == {"gpt-cut": 1} and report.exit_code == 50


def test_a_gpt_whose_checksum_is_wrong_tells_nothing(disk):
    with disk.open("r+b") as file:
        file.seek(512 + 60)
        file.write(b"x")
    os.truncate(disk, 12 * MiB)
    assert check_image(disk).counts == {}


def test_an_empty_image_is_an_error(tmp_path):
    path = tmp_path / "disk.raw"
    path.touch()
    assert check_image(path).counts == {"empty": 1}


def test_a_size_between_sectors_is_a_warning(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 700)
    report = check_image(path)
    assert report.counts == {"file-size": 1} and report.exit_code == 3


def test_a_partial_name_makes_an_image_incomplete(disk):
    report = check_image(disk.rename(disk.with_name("disk.raw.partial")))
    assert report.incomplete and report.info.incomplete and report.exit_code == 50


@pytest.mark.parametrize(("kind", "name"), [("vmdk", "VMDK"), ("vpc", "VHD"), ("vdi", "VDI")])
def test_an_image_of_another_kind_is_not_taken_for_raw(kind, name, tmp_path):
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(path), "4M"], check=True)
    with pytest.raises(ImageError, match=f"is a {name}, and only VHDX"):
        check_image(path)


@pytest.mark.parametrize("name", ["missing", "folder", "disk.raw/below", "fifo"])
def test_what_is_no_file_is_no_disk(name, disk, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NoSuchDiskError):
        check_image(tmp_path / name)


@pytest.mark.root
def test_a_block_device_is_a_disk(disk):
    out = subprocess.run(
        ["losetup", "-f", "--show", "-r", str(disk)], capture_output=True, text=True, check=True
    )
    device = Path(out.stdout.strip())
    try:
        report = check_image(device, deep=True)
    finally:
        subprocess.run(["losetup", "-d", str(device)], check=True)
    assert report.counts == {}
    assert (report.info.variant, report.info.virtual_size) == ("device", 16 * MiB)


@pytest.mark.root
def test_what_the_medium_has_lost_is_found_by_a_deep_check(disk):
    """A loop device whose file is cut under it answers EIO beyond the cut."""
    out = subprocess.run(
        ["losetup", "-f", "--show", "-r", str(disk)], capture_output=True, text=True, check=True
    )
    device = Path(out.stdout.strip())
    try:
        os.truncate(disk, 8 * MiB)
        assert check_image(device).counts == {}
        report = check_image(device, deep=True)
        with pytest.raises(ImageError, match="cannot be read: Input/output error"):
            compare_images(device, device)
    finally:
        subprocess.run(["losetup", "-d", str(device)], check=True)
    assert report.counts == {"unreadable": 2}
    assert [one.offset for one in report.findings] == [8 * MiB, 12 * MiB]
