# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole conversions in the appliance, of small disks; hostile ones among them."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.cli.main import main
from p2v.guest.commit import journal_path
from p2v.guest.convert import Request, convert
from p2v.guest.overlay import overlay_path
from p2v.guest.report import Verdict, load_report, report_path
from p2v.guest.target import Platform
from p2v.model.errors import GuestError, ImageError, NoGuestError, P2VError
from p2v.model.units import GiB, MiB
from tests.p2v.guest.phony import START, UUID, make_disk, make_tree, read_file, run

pytestmark = [pytest.mark.qemu, pytest.mark.root, pytest.mark.timeout(1800)]


def sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def request(disk: Path, **more) -> Request:
    return Request(images=(disk,), platform=Platform.HYPERV, **more)


def test_a_guest_is_planned_without_a_trace_and_then_converted(tmp_path, capsys):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    before = sha(disk)
    assert main(["convert", str(disk), "--target", "hyperv", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["verdict"] == "planned"
    assert plan["found"]["system"]["hostname"] == "phony"
    assert not any(edit["done"] for edit in plan["edits"])
    assert sha(disk) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["disk.img", "tree"]

    report = convert(request(disk))
    assert report.verdict is Verdict.CONVERTED, report
    assert [edit.what for edit in report.edits] == [edit["what"] for edit in plan["edits"]]
    assert all(check.passed for check in report.checks)
    assert report == load_report(report_path(disk))
    assert f"root=UUID={UUID} ro console=tty0 console=ttyS0" in read_file(
        disk, "/boot/grub/grub.cfg"
    )
    assert read_file(disk, "/etc/fstab") == (
        f"UUID={UUID} / ext4 defaults 0 1\n"
        "UUID=0bad /backup ext4 defaults,nofail,x-systemd.device-timeout=1s 0 0\n"
    )
    assert "Name=eno1" in read_file(disk, "/etc/systemd/network/10-p2v-eno1.link")
    assert not overlay_path(disk).exists() and not journal_path(disk).exists()


@pytest.mark.slow
def test_a_conversion_that_is_killed_at_any_moment_leaves_the_capture_or_finishes(tmp_path):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    pristine = sha(disk)
    chance = random.Random(3)
    argv = [sys.executable, "-m", "p2v.cli.main", "convert", str(disk), "--target", "hyperv"]
    for _ in range(4):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(5, 60))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if journal_path(disk).exists() or report_path(disk).exists():
            break
        assert sha(disk) == pristine
    assert convert(request(disk)).verdict in (Verdict.CONVERTED, Verdict.UNCHANGED)
    assert f"root=UUID={UUID}" in read_file(disk, "/boot/grub/grub.cfg")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_when_it_is_told_to_and_leaves_nothing(tmp_path, number):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    before = sha(disk)
    argv = [sys.executable, "-m", "p2v.cli.main", "convert", str(disk), "--target", "hyperv"]
    process = subprocess.Popen(
        [*argv, "--progress", "json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background is deaf to SIGINT, and so would be this.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while "looking for the operating system" not in (line := process.stderr.readline()):
        assert line, "it ended before"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert sha(disk) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["disk.img", "tree"]


# --- images of others ----------------------------------------------------------------------------


def test_a_vmdk_becomes_a_converted_vhdx_beside_it(tmp_path):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    given = tmp_path / "old.vmdk"
    run(
        "qemu-img",
        "convert",
        "-O",
        "vmdk",
        "-o",
        "subformat=streamOptimized",
        str(disk),
        str(given),
    )
    before = sha(given)
    planned = convert(replace(request(given), dry_run=True))
    assert planned.verdict is Verdict.PLANNED and planned.images == (str(given),)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["disk.img", "old.vmdk", "tree"]
    report = convert(request(given))
    assert report.verdict is Verdict.CONVERTED
    assert report.images == (str(tmp_path / "old.vhdx"),)
    assert sha(given) == before
    run("qemu-img", "convert", "-O", "raw", str(tmp_path / "old.vhdx"), str(disk))
    assert f"root=UUID={UUID}" in read_file(disk, "/boot/grub/grub.cfg")
    with pytest.raises(ImageError, match="convert that one"):
        convert(request(given))


# --- hostile disks -------------------------------------------------------------------------------


def assert_refused(disk: Path, *expected: type[P2VError]) -> None:
    """Convert the disk, which must end in an error and leave it as it was, in bounded memory."""
    before = sha(disk)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(expected):
        convert(request(disk))
    assert sha(disk) == before
    assert not overlay_path(disk).exists() and not journal_path(disk).exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300 * 1024


@pytest.mark.slow
def test_a_file_system_in_ruins_is_an_error(tmp_path):
    disk = make_disk(tmp_path / "disk.img", make_tree(tmp_path / "tree"))
    with disk.open("r+b") as file:
        file.seek(START + 8192)
        file.write(random.Random(5).randbytes(3 * MiB))
    assert_refused(disk, GuestError, NoGuestError)


@pytest.mark.slow
def test_a_folder_that_leads_out_of_the_guest_leads_nowhere(tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tree / "etc").rename(tree / "real")
    (tree / "etc").symlink_to("/../../../../")
    marks = {path: Path(path).stat().st_mtime_ns for path in ("/etc", "/etc/fstab", "/boot")}
    disk = make_disk(tmp_path / "disk.img", tree)
    assert_refused(disk, GuestError, NoGuestError)
    assert marks == {path: Path(path).stat().st_mtime_ns for path in marks}


@pytest.mark.slow
def test_an_fstab_of_one_line_of_a_gibibyte_is_read_in_bounds(tmp_path):
    tree = make_tree(tmp_path / "tree")
    with (tree / "etc/fstab").open("ab") as file:
        for _ in range(64):
            file.write(b"x" * (GiB // 64))
    disk = make_disk(tmp_path / "disk.img", tree, size=1400 * MiB)
    before, peak = sha(disk), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        report = convert(request(disk, dry_run=True))
        assert any(problem.code == "file-too-long" for problem in report.problems)
    except (GuestError, NoGuestError):
        pass  # libguestfs itself takes no such file
    assert sha(disk) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300 * 1024


@pytest.mark.slow
def test_a_folder_of_too_many_files_is_an_error(tmp_path):
    tree = make_tree(tmp_path / "tree")
    folder = tree / "etc/network/interfaces.d"
    folder.mkdir()
    for index in range(30_000):
        (folder / f"{index:06}").touch()
    assert_refused(make_disk(tmp_path / "disk.img", tree, size=256 * MiB), GuestError)
