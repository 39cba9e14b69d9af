# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v convert` as far as it goes without an appliance: mistakes, and images that are none."""

from __future__ import annotations

import fcntl
import json
from contextlib import closing
from pathlib import Path

import pytest

from p2v.cli.main import main
from p2v.images.open import create_writer
from p2v.model.plan import ImageFormat
from p2v.model.units import MiB


def failed(capsys, *words) -> dict:
    """Run it; return the error's document, whose exit code it must have ended with."""
    code = main(["convert", *map(str, words), "--json", "--progress", "none"])
    error = json.loads(capsys.readouterr().out)["error"]
    assert code == error["exit_code"]
    return error


@pytest.mark.parametrize(
    "words",
    [("a.img",), ("a.img", "--target", "xen"), ("--target", "kvm"),
     ("a.img", "--target", "kvm", "--nic", "eno1"), ("a.img", "--target", "kvm", "--nic", "=52:54"),
     ("a.img", "--target", "kvm", "--firmware", "coreboot")],
)  # fmt: skip
def test_a_mistake_is_named(capsys, words):
    assert failed(capsys, *words)["code"] == "usage"


def test_an_image_that_is_not_there_is_named(capsys, tmp_path):
    error = failed(capsys, tmp_path / "none.vhdx", "--target", "hyperv")
    assert error["code"] == "no-such-disk" and "none.vhdx" in error["message"]


def test_an_image_that_is_not_finished_is_refused(capsys, tmp_path):
    path = tmp_path / "half.vhdx"
    with closing(create_writer(ImageFormat.VHDX, path, 8 * MiB)):
        pass
    error = failed(capsys, path, "--target", "hyperv")
    assert error["code"] == "incomplete-image"


def test_a_damaged_image_never_reaches_the_appliance(capsys, tmp_path):
    path = tmp_path / "disk.vhdx"
    with closing(create_writer(ImageFormat.VHDX, path, 8 * MiB)) as writer:
        writer.write(0, b"x" * MiB)
        writer.commit()
    content = bytearray(path.read_bytes())
    content[0x30000:0x30004] = b"oops"  # the first region table
    path.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    assert failed(capsys, path, "--target", "hyperv")["code"] == "bad-image"
    assert sorted(tmp_path.iterdir()) == before


def test_an_image_that_somebody_writes_is_left_alone(capsys, tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(MiB))
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        error = failed(capsys, path, "--target", "kvm")
    assert "somebody else" in error["message"]


def test_a_file_of_passphrases_that_is_none_is_named(capsys, tmp_path):
    error = failed(
        capsys, "a.img", "--target", "kvm", "--passphrase-file", Path(tmp_path / "missing")
    )
    assert error["code"] == "usage" and "missing" in error["message"]
