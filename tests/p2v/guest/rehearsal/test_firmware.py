# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware that a disk was made for, by tables that sfdisk wrote."""

from __future__ import annotations

import subprocess
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.guest.rehearsal.firmware import firmware_of
from p2v.images.open import open_reader
from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat

ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
BIOS, UEFI = FirmwareKind.BIOS, FirmwareKind.UEFI


def kind_of(path):
    with closing(open_reader(path, ImageFormat.RAW)) as reader:
        return firmware_of(reader)


@pytest.fixture
def disk(tmp_path):
    """``disk(*lines, code=b"") -> Path``: a disk with this table, and boot code in its MBR."""

    def make(*lines, code=b""):
        path = tmp_path / "disk.img"
        with path.open("wb") as file:
            file.truncate(64 << 20)
        if lines:
            script = "\n".join(lines)
            subprocess.run(["sfdisk", "-q", path], input=script, text=True, check=True)
        with path.open("r+b") as file:
            file.write(code)
        return path

    return make


@pytest.mark.parametrize(
    ("kind", "lines", "code"),
    [
        (UEFI, ("label: gpt", f"size=16M, type={ESP}", "type=linux"), b""),
        (UEFI, ("label: gpt", f"size=16M, type={ESP}", "type=linux"), b"\xeb\x63"),
        (UEFI, ("label: dos", "size=16M, type=ef", "type=83"), b""),
        (BIOS, ("label: gpt", f"size=1M, type={BIOS_BOOT}", "type=linux"), b"\xeb\x63"),
        (BIOS, ("label: gpt", f"size=16M, type={ESP}", f"type={BIOS_BOOT}"), b"\xeb\x63"),
        (UEFI, ("label: gpt", f"size=16M, type={ESP}", f"type={BIOS_BOOT}"), b""),
        (BIOS, ("label: dos", "size=16M, type=83"), b"\xeb\x63"),
        (BIOS, (), b""),
    ],
)
def test_the_partition_table_tells_the_firmware(disk, kind, lines, code):
    assert kind_of(disk(*lines, code=code)) is kind


class Bytes:
    """A disk in memory."""

    sector_size = 512

    def __init__(self, data):
        self.data = data
        self.size = len(data)

    def readinto(self, offset, buffer):
        assert 0 <= offset <= offset + len(buffer) <= self.size
        buffer[:] = self.data[offset : offset + len(buffer)]


@given(st.binary(max_size=2048), st.binary(max_size=2048))
def test_no_table_makes_it_read_outside_the_disk(head, rest):
    firmware_of(Bytes(head.ljust(512, b"\0") + b"EFI PART" + rest))
