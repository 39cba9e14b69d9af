# SPDX-License-Identifier: GPL-3.0-or-later
"""The page is whole, self-contained, and harmless whatever names the guest's disk holds."""

from __future__ import annotations

import base64
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.guest.facts import Family, System, Volume
from p2v.guest.rehearsal.screen import Picture
from p2v.guest.report import (
    Attempt,
    Check,
    Detail,
    EditRecord,
    Found,
    Rehearsal,
    Report,
    Verdict,
    add_rehearsal,
    load_report,
    report_path,
)
from p2v.guest.report_page import page_path, render, write_page
from p2v.guest.target import Platform, Target
from p2v.model.machine import FirmwareKind, Problem, Severity

VOID = {"meta", "img", "br"}
PNG = base64.b64encode(Picture(2, 1, b"\0\0\0\xff\xff\xff").png()).decode()


def report_of(text: str, image: str = "/srv/web01.vhdx") -> Report:
    """A report with `text` wherever one is."""
    return Report(
        images=(image,),
        target=Target(Platform.HYPERV, FirmwareKind.BIOS),
        verdict=Verdict.CONVERTED,
        summary=text,
        created=1.0,
        hint=text,
        found=Found(
            System(Family.LINUX, "/dev/sda1", text, "debian", 12, 0, "x86_64", text),
            FirmwareKind.BIOS,
            (),
            (Volume("/dev/sda1", text, text, mount_point=text),),
            (text,),
            (Detail(text, text),),
        ),
        edits=(EditRecord("boot", text, text, text, text, text, done=False),),
        checks=(Check(text, passed=False, evidence=text),),
        problems=(Problem(Severity.WARNING, "code", text, text, text),),
        rehearsal=Rehearsal(
            "stuck", text, (text,), PNG, "tcg", 9.0, "bios", "ide",
            (Attempt("ide", "stuck", text),), (text,), (text,),
        ),
    )  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_all_that_the_report_holds_is_on_the_page():
    report = report_of("a text")
    page = Page(render(report))
    assert page.open == []
    shown = (
        "Conversion of",
        "generation 1",
        "not done",
        "FAILED",
        "stuck",
        "web01.vhdx",
        "warning",
    )
    assert all(word in page.text for word in shown)
    assert page.links == [f"data:image/png;base64,{PNG}"]


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>&amp;\x00\ud800"


@pytest.mark.parametrize("text", [HOSTILE, "]]>", "<!--", "</pre>", "</style>"])
def test_a_hostile_name_stays_text(text):
    assert Page(render(report_of(text))).tags == Page(render(report_of("x"))).tags


@given(st.text())
def test_no_name_adds_to_the_page(text):
    assert Page(render(report_of(f"x{text}"))).tags == Page(render(report_of("x"))).tags


def test_a_screenshot_that_is_none_is_left_out():
    report = report_of("x")
    for false in ("", "%%%", base64.b64encode(b"<svg onload=x>").decode()):
        shot = replace(report, rehearsal=replace(report.rehearsal, screenshot=false))
        assert Page(render(shot)).links == []


def test_a_refusal_is_a_page_too():
    report = Report(
        ("/srv/a.qcow2",), Target(Platform.KVM, FirmwareKind.UEFI), Verdict.REFUSED, "no", 1.0
    )
    assert "a.qcow2" in Page(render(report)).text


def test_a_rehearsal_is_added_to_the_report_on_disk(tmp_path):
    image = tmp_path / "web01.vhdx"
    rehearsal = Rehearsal("login", "It reached its login prompt.")
    assert add_rehearsal(image, rehearsal) is None
    report = report_of("x", str(image))
    report_path(image).write_text(report.to_json())
    assert add_rehearsal(image, rehearsal) == replace(report, rehearsal=rehearsal)
    assert load_report(report_path(image)).rehearsal == rehearsal
    assert write_page(load_report(report_path(image))) == page_path(image)
    assert "login prompt" in page_path(image).read_text()
