# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import time

import pytest

from agent.tui.evidence import Evidence, evidence_lines, find_evidence
from p2v.guest.report import Check, Rehearsal, Report, Verdict
from p2v.guest.target import Platform, Target
from p2v.model.machine import FirmwareKind


def report(verdict=Verdict.CONVERTED, **more) -> dict:
    """A real report, as the converter writes it."""
    checks = (Check("initramfs", True, "hv_vmbus.ko is in it"), Check("grub", True, "by UUID"))
    target = Target(Platform.HYPERV, FirmwareKind.UEFI)
    facts = {"checks": checks, "summary": "Debian 12 is ready for Hyper-V."} | more
    found = Report(("/x.vhdx",), target, verdict, created=time.time(), **facts)
    return json.loads(found.to_json())


REHEARSAL = Rehearsal("login", "It reached its login prompt.", ("web01 login:",), seconds=48.0)
MADE = {"state": "made", "host": "hv1", "machine": "42"}
FAILED = {"state": "failed", "host": "hv1", "problem": "No room.", "undone": ["the disk"]}


def said(found: Evidence) -> str:
    return "\n".join(evidence_lines(found))


def test_the_guest_its_rehearsal_and_its_machine_are_told():
    found = Evidence(report(rehearsal=REHEARSAL), MADE)
    text = said(found)
    assert "Guest: converted. Debian 12 is ready" in text and "2 of 2 checks passed" in text
    assert "Rehearsal: login. It reached" in text and "| web01 login:" in text
    assert "Machine: made on hv1" in text and not found.shortfall and found.complete


@pytest.mark.parametrize(
    ("found", "shortfall"),
    [
        (Evidence(machine=FAILED), "NO MACHINE WAS MADE"),
        (Evidence(report(Verdict.REFUSED, hint="Do that.")), "THE GUEST IS NOT READY"),
        (Evidence(report(rehearsal=Rehearsal("kernel-panic", "x"))), "ITS REHEARSAL DID NOT END"),
        (Evidence(report(rehearsal=Rehearsal("passphrase", "x"))), ""),
        (Evidence(report()), ""),
        (Evidence(), ""),
    ],
)  # fmt: skip
def test_what_was_wanted_and_is_not_there_is_in_the_verdict(found, shortfall):
    assert found.shortfall.startswith(shortfall) and bool(found.shortfall) == bool(shortfall)


def test_a_machine_that_is_being_made_is_asked_for_again():
    assert not Evidence(machine={"state": "making"}).complete
    assert "being made on hv1 ..." in said(Evidence(machine={"state": "wanted", "host": "hv1"}))


def test_what_was_taken_back_is_told():
    assert "Taken back: the disk." in said(Evidence(machine=FAILED))


@pytest.mark.parametrize(
    "document",
    [{}, {"checks": 5, "problems": [1], "rehearsal": []}, {"rehearsal": {"evidence": None}}],
)
def test_documents_of_other_versions_break_nothing(document):
    assert "Guest:" in said(Evidence(document, document))


def test_of_a_folder_here_the_report_beside_the_image_is_read(tmp_path):
    image = tmp_path / "x.vhdx"
    assert find_evidence(str(tmp_path), "x-1", [str(image)]) == Evidence()
    (tmp_path / "x.vhdx.conversion.json").write_text(json.dumps(report()))
    assert find_evidence(str(tmp_path), "x-1", [str(image)]).conversion["verdict"] == "converted"
    assert find_evidence(str(tmp_path), "x-1", []) == Evidence()


def test_a_converter_that_does_not_answer_leaves_none():
    assert find_evidence("https://127.0.0.1:9", "x-1", []) == Evidence()
