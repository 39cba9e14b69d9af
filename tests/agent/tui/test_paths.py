# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths beside the straight one: what goes wrong, and every view of a screen, as text."""

from __future__ import annotations

import pytest

from agent.discovery import Found
from agent.job.folder import make_job
from agent.job.state import Failure
from agent.stream.remote import Address
from agent.tui.app import STEPS
from agent.tui.evidence import Evidence
from agent.tui.screens.converter import ConverterStep
from agent.tui.screens.host import HostStep
from agent.tui.screens.machine import MachineStep
from agent.tui.screens.result import ResultStep
from agent.tui.screens.summary import SummaryStep
from agent.tui.screens.vm import VmStep
from agent.tui.widgets import Rows
from p2v.model.errors import PairingError, UnreachableError
from p2v.placement.rate import Candidate, rank
from tests.agent.tui.conftest import SIZES, check_snapshot
from tests.agent.tui.test_evidence import MADE, REHEARSAL, report
from tests.agent.tui.test_screens import HOSTS, run, settle, show, state

IMAGES = ("/srv/p2v/web01-sda.vhdx", "/srv/p2v/web01-sdb.vhdx")

sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@sizes
def test_a_converter_that_is_not_there(wizard, size):
    """Port 9 of this computer really refuses."""

    async def go():
        app = wizard()
        async with app.run_test(size=size) as pilot:
            await pilot.press("tab", *"127.0.0.1:9", "tab", *"7QK-3M9-X4T", "ctrl+n")
            await settle(pilot)
            check_snapshot(app, "1-converter-unreachable")

    run(go())


@sizes
def test_a_code_that_is_wrong(wizard, size, monkeypatch):
    def refuse(address, code):
        raise PairingError(server=address, problem="the code is wrong")

    monkeypatch.setattr("agent.tui.screens.converter.pair_and_keep", refuse)

    async def go():
        app = wizard()
        async with app.run_test(size=size) as pilot:
            await pilot.press("tab", *"192.0.2.10", "tab", *"7QK-3M9-X4T", "ctrl+n")
            await settle(pilot)
            check_snapshot(app, "1-converter-wrong-code")

    run(go())


@sizes
def test_a_code_and_a_folder_that_are_none_are_said_as_they_are_typed(wizard, size):
    async def go():
        app = wizard()
        async with app.run_test(size=size) as pilot:
            await pilot.press("tab", "tab", *"7QK-3M9-X4U")
            await pilot.pause()
            check_snapshot(app, "1-converter-typing-error")
            await pilot.press("shift+tab", "shift+tab", "space", "tab", *"/no/where")
            await pilot.pause()
            check_snapshot(app, "1-converter-no-folder")
            await pilot.press("ctrl+n")
            await settle(pilot)
            assert isinstance(app.screen, ConverterStep)

    run(go())


@sizes
def test_converters_that_announce_themselves(wizard, size):
    async def go():
        app = wizard()
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            app.screen._heard(Found(Address("192.0.2.10", 8443), "backup01"))
            app.screen._heard(Found(Address("192.0.2.11", 8443), "evil\x1b[2J"))
            await pilot.press("tab", "tab", "tab", "enter")
            await pilot.pause()
            check_snapshot(app, "1-converter-found")

    run(go())


@sizes
def test_fields_of_the_machine_say_what_is_wrong(wizard, draft, size):
    async def go():
        app = wizard(draft=draft())
        async with app.run_test(size=size) as pilot:
            await show(pilot, VmStep, 3)
            app.screen._know(("LAN", "dmz"))
            await pilot.press("tab", "ctrl+u", "0")
            await pilot.pause()
            check_snapshot(app, "4-vm-no-processor")
            await pilot.press("ctrl+u", "2", "tab", "tab", "tab", "tab", "down", "down")
            await pilot.pause()
            assert list(app.draft.networks.values()) == ["dmz"]
            await pilot.press("ctrl+u", *"lab:20")
            await pilot.pause()
            check_snapshot(app, "4-vm-unknown-network")
            (nic,) = [nic for nic in app.draft.plan().vm.nics if nic.network]
            assert (nic.network, nic.vlan) == ("lab", 20)

    run(go())


@pytest.mark.parametrize("found", ["nobody", "none", "unable", "silent"])
@sizes
def test_hosts_that_are_not_there(wizard, draft, size, found, monkeypatch):
    def ask(self):
        if found == "silent":
            error = UnreachableError(server="https://converter.example:8443", problem="timed out")
            self.fail(error)
            return
        hosts = {"nobody": (), "none": HOSTS[1:2], "unable": HOSTS[1:2]}[found]
        self._rated(rank(self.draft.plan(), [Candidate(host) for host in hosts]))

    monkeypatch.setattr(HostStep, "_ask", ask)

    async def go():
        app = wizard(draft=draft())
        app.draft.host = "hv01" if found == "unable" else ""
        app.draft.networks = {nic.name: "LAN" for nic in app.draft.plan().vm.nics}
        async with app.run_test(size=size) as pilot:
            await show(pilot, HostStep, 4)
            check_snapshot(app, f"5-host-{found}")
            assert app.draft.host == ""

    run(go())


@sizes
def test_the_plan_as_command_script_and_file(wizard, draft, size, tmp_path):
    from agent.job.launch import Target

    async def go():
        ready = draft("dual-boot-bitlocker")
        ready.target = Target(folder="/srv/images")
        app = wizard(draft=ready)
        async with app.run_test(size=size) as pilot:
            await show(pilot, SummaryStep, 5)
            await settle(pilot)
            app.screen.query_one("#view").focus()
            for name in ("command", "script", "file"):
                await pilot.press("right")
                await pilot.pause()
                check_snapshot(app, f"6-summary-{name}")
            await pilot.press("left", "ctrl+w")
            await pilot.pause()
            await pilot.press("ctrl+u", *str(tmp_path / "make.ps1"), "enter")
            await settle(pilot)
            assert (tmp_path / "make.ps1").read_text().startswith("#Requires -Version 5.1")

    run(go())


@sizes
def test_a_result_with_all_its_evidence(wizard, size, monkeypatch):
    found = Evidence(report(rehearsal=REHEARSAL), MADE)
    monkeypatch.setattr("agent.tui.screens.result.find_evidence", lambda *_: found)

    async def go():
        job = make_job("web01")
        ended = state(exit_code=0, phase="finished", freeze_s=0.041, images=IMAGES, disks=())
        job.write(ended)
        app = wizard(job=job)
        async with app.run_test(size=size) as pilot:
            for _ in range(100):
                await pilot.pause(0.02)
                if isinstance(app.screen, ResultStep):
                    break
            await settle(pilot)
            check_snapshot(app, "8-result-evidence")

    run(go())


@pytest.mark.parametrize("at", range(6))
def test_the_terminals_cursor_goes_where_the_focus_is(wizard, draft, at, monkeypatch):
    monkeypatch.setattr(HostStep, "_ask", lambda self: None)

    async def go():
        ready = draft("dual-boot-bitlocker")
        ready.host = "hv01"
        app = wizard(draft=ready)
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, STEPS[at], at)
            seen = set()
            for _ in range(12):
                await pilot.press("tab")
                focused = app.screen.focused
                assert focused is not None
                seen.add(focused)
                assert focused.region.contains_point(app.cursor_position), focused
            for rows in app.screen.query(Rows):
                if rows.option_count > 1 and rows.display:
                    rows.focus()
                    await pilot.press("end")
                    await pilot.pause()
                    first = app.cursor_position
                    await pilot.press("home")
                    await pilot.pause()
                    assert app.cursor_position.y < first.y
            assert len(seen) > (0 if STEPS[at] is MachineStep else 1)

    run(go())


def test_the_live_system_ends_only_by_a_word(wizard, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr("agent.tui.screens.result.LIVE_MEDIUM", tmp_path)
    monkeypatch.setattr("agent.tui.screens.result.tools.run", commands.append)

    async def go():
        job = make_job("web01")
        job.write(state(exit_code=143, failure=Failure("stopped", "It was stopped.")))
        app = wizard(job=job)
        async with app.run_test(size=(80, 24)) as pilot:
            for _ in range(100):
                await pilot.pause(0.02)
                if isinstance(app.screen, ResultStep):
                    break
            await pilot.pause()
            check_snapshot(app, "8-result-live-image")
            await pilot.press("o")
            await pilot.pause()
            await pilot.press(*"yes", "enter")
            await pilot.pause()
            assert not commands
            await pilot.press("ctrl+u", *"reboot", "enter")
            await settle(pilot)
            assert commands == [["systemctl", "reboot"]]

    run(go())
