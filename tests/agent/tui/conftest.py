# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from agent.tui.terminal import Terminal, prepare
from p2v.model.machine import Machine

prepare(Terminal(), os.environ)  # before Textual is imported

from agent.tui.app import Wizard  # noqa: E402
from agent.tui.draft import Draft  # noqa: E402

MACHINES = Path(__file__).parents[2] / "machines"
SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (132, 43)]
DOCS = Path(__file__).parents[3] / "docs" / "screens"
SCREENS = {
    "2-machine": "machine",
    "3-disks-without-the-esp": "disks",
    "5-host": "host",
    "6-summary": "summary",
    "7-progress-live": "progress",
    "8-result-evidence": "result",
}
"""Screens that the README shows, and as what."""


def load(name: str) -> Machine:
    return Machine.from_json(json.loads((MACHINES / f"{name}.json").read_text()))


def screen_text(app) -> str:
    """What the terminal shows, as lines."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(s.text for s in strip).rstrip() for strip in strips) + "\n"


def check_snapshot(app, name: str) -> None:
    """Compare with the recorded screen; P2V_SNAPSHOTS=write records it anew.

    P2V_SCREENS=1 draws the README's pictures.
    """
    width, height = app.size
    path = SNAPSHOTS / f"{name}-{width}x{height}.txt"
    text = screen_text(app)
    assert len(text.splitlines()) <= height
    assert all(len(line) <= width for line in text.splitlines())
    if os.environ.get("P2V_SNAPSHOTS") == "write":
        path.write_text(text)
    if os.environ.get("P2V_SCREENS") and width == SIZES[0][0] and name in SCREENS:
        (DOCS / f"{SCREENS[name]}.svg").write_text(app.export_screenshot(title="p2v-agent tui"))
    assert text == path.read_text()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("P2V_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def wizard():
    """Make a wizard that looks at a recorded machine."""

    def make(machine: str | Machine = "gpt-bios-ext4-swap-xfs", **more):
        found = load(machine) if isinstance(machine, str) else machine
        app = Wizard(Terminal(ascii=True), **more)
        app.look = lambda: replace(found)
        app.listen = app.measure = False
        return app

    return make


@pytest.fixture
def draft(tmp_path):
    """A draft that is filled in up to the last screen."""
    from agent.job.launch import Target

    def make(machine: str = "gpt-bios-ext4-swap-xfs") -> Draft:
        draft = Draft(target=Target(server="https://converter.example:8443"))
        draft.look_at(load(machine))
        return draft

    return make
