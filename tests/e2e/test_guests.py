# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian servers are converted for Hyper-V and reach their login; those that are not, do not."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from p2v.guest.commit import journal_path
from p2v.guest.overlay import overlay_path
from p2v.guest.rehearsal.verdict import Outcome
from p2v.guest.report import report_path
from p2v.guest.report_page import page_path
from tests.e2e import images, physical
from tests.e2e.guests import ADDRESS, GUESTS, MAC, PASSPHRASE, Guest, build, make_quick
from tests.e2e.physical import Hardware
from tests.e2e.running import P2V, Ended, run, tool, wait_for

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(7200)]

CONVERT_S = 3600.0
REHEARSE_S = 1500
BY_NAME = {guest.name: guest for guest in GUESTS}
FIRST = BY_NAME["bios-dep"]
slow = pytest.mark.slow


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with the passphrase of the encrypted guest."""
    path = tmp_path / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    return path


def captured(guest: Guest, room: Path) -> Path:
    """Return an image of the guest's disk, as a capture would leave it."""
    image = room / f"{guest.name}.qcow2"
    tool("qemu-img", "convert", "-O", "qcow2", build(guest), image)
    return image


def convert(image: Path, secret: Path, *options: str) -> Ended:
    target = ("--target", "hyperv", "--nic", f"eno1={MAC}", "--passphrase-file", str(secret))
    argv = [*P2V, "convert", str(image), *target, *options, "--json", "--progress", "none"]
    return run(argv, timeout_s=CONVERT_S)


def rehearse(image: Path, *options: str) -> Ended:
    limits = ("--memory", "768M", "--timeout", str(REHEARSE_S), "--progress", "none")
    argv = [*P2V, "rehearse", str(image), *limits, *options, "--json"]
    return run(argv, timeout_s=3 * REHEARSE_S)


def assert_reaches_login(image: Path, *options: str) -> dict:
    done = rehearse(image, *options)
    found = done.json["rehearsal"]
    shown = {key: value for key, value in found.items() if key != "screenshot"}
    assert (found["verdict"], done.code) == ("login", 0), json.dumps(shown, indent=1)
    return found


def assert_converted(done: Ended, image: Path) -> dict:
    report = done.json
    assert (report["verdict"], done.code) == ("converted", 0), done.out[-5000:]
    assert all(check["passed"] for check in report["checks"])
    drivers = [check for check in report["checks"] if "hv_storvsc" in check["evidence"]]
    assert drivers, report["checks"]
    assert page_path(image).exists()
    images.check(image, 512, made_by_qemu=True)
    return report


@slow
@pytest.mark.parametrize("guest", GUESTS, ids=lambda one: one.name)
def test_a_converted_server_reaches_its_login(guest, room, secret):
    image = captured(guest, room)
    assert_converted(convert(image, secret), image)
    unlock = ("--passphrase-file", str(secret)) if guest.layer == "luks" else ()
    found = assert_reaches_login(image, *unlock)
    kept = json.loads(report_path(image).read_text())["rehearsal"]
    assert kept == found
    assert "login prompt" in page_path(image).read_text()
    assert any("not Hyper-V" in limit for limit in found["limits"])


@slow
@pytest.mark.parametrize("guest", GUESTS, ids=lambda guest: guest.name)
def test_without_the_conversion_it_does_not(guest):
    done = rehearse(build(guest), "--bus", "ide")
    assert done.code == 64
    assert done.json["rehearsal"]["verdict"] == guest.unconverted


@slow
@pytest.mark.parametrize(
    "guest", [one for one in GUESTS if one.initramfs != "most"], ids=lambda guest: guest.name
)
def test_on_the_controller_that_it_was_made_for_it_did(guest):
    if guest.name == "bios-dep":
        assert_reaches_login(build(guest), "--bus", "megaraid")
    else:
        done = rehearse(build(guest), "--bus", "megaraid")
        assert done.json["rehearsal"]["verdict"] in (Outcome.LOGIN, guest.unconverted)


@slow
def test_its_static_address_stays_on_its_card(room):
    """On KVM, where a card can be looked at: udev in the initramfs names it by slot at first."""
    image = room / "quick.qcow2"
    tool("qemu-img", "convert", "-O", "qcow2", make_quick(room / "quick.img"), image)
    words = ["--target", "kvm", "--nic", f"eno1={MAC}", "--json", "--progress", "none"]
    report = run([*P2V, "convert", str(image), *words], timeout_s=CONVERT_S).json
    assert report["verdict"] == "converted"
    assert not any("initramfs" in edit["what"] for edit in report["edits"])
    card = ["-netdev", "user,id=net,restrict=on", "-device", f"virtio-net-pci,netdev=net,mac={MAC}"]
    hardware = Hardware(devices=(*physical.disk(image, form="qcow2"), *card))
    with physical.switched_on(hardware, room / "vm") as vm:
        vm.await_serial("web01 login:")
        vm.say("root\n")
        vm.await_serial("root@web01:~#")
        vm.say("ip -br address show dev eno1; dmesg | grep renamed\n")
        said = vm.await_serial(f"{ADDRESS}/24")
    assert "renamed from" in said


def killed(image: Path, secret: Path, moment: Path, after_s: float) -> None:
    """Begin a conversion and end it as a loss of power would, `after_s` after `moment` exists."""
    target = ["--target", "hyperv", "--nic", f"eno1={MAC}", "--passphrase-file", str(secret)]
    process = subprocess.Popen(
        [*P2V, "convert", str(image), *target, "--progress", "none"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: moment.exists() or process.poll() is not None, CONVERT_S, 0.01)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(after_s)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@slow
def test_a_conversion_that_is_killed_leaves_the_capture_and_succeeds_when_run_again(room, secret):
    image = captured(FIRST, room)
    before = digest(image)
    for after_s in (0.0, 20.0, 60.0):
        killed(image, secret, overlay_path(image), after_s)
        assert digest(image) == before
    assert_converted(convert(image, secret), image)
    assert not overlay_path(image).exists()
    assert_reaches_login(image)


@slow
def test_a_conversion_that_is_killed_while_it_writes_is_finished_by_the_next(room, secret):
    disk = make_quick(room / "quick.img")
    image = room / "quick.vhdx"
    tool("qemu-img", "convert", "-O", "vhdx", disk, image)
    killed(image, secret, journal_path(image), 0.0)
    assert_converted(convert(image, secret), image)
    assert not journal_path(image).exists()
    assert_reaches_login(image)
