# SPDX-License-Identifier: GPL-3.0-or-later
"""The live image's network: what is entered becomes networkd's files; networkctl is replaced."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from agent.appliance import network
from agent.tui.screens.network import NetworkStep, parse_other, parse_own, parse_vlan
from p2v.model.errors import ToolError, UsageError
from p2v.model.machine import Nic, NicKind
from tests.agent.tui.conftest import SIZES, check_snapshot, screen_text
from tests.agent.tui.test_screens import run, settle

NICS = (
    Nic("eno1", "00:25:90:aa:00:01", NicKind.PHYSICAL, "igb", 1000, up=True),
    Nic("eno2", "00:25:90:aa:00:02", NicKind.PHYSICAL, "igb"),
)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The folder of networkd's files, and the commands that were run."""
    commands = []

    def tool(argv, *_args, **_more):
        commands.append(argv)
        return b"[]"

    monkeypatch.setattr(network, "FOLDER", tmp_path / "networkd")
    monkeypatch.setattr(network.tools, "run", tool)
    monkeypatch.setattr("agent.tui.screens.converter.LIVE_MEDIUM", tmp_path)
    monkeypatch.setattr("agent.tui.screens.network.read_nics", lambda: NICS)
    monkeypatch.setattr("agent.tui.screens.network._PATIENCE_S", 0.3)
    return tmp_path / "networkd", commands


async def opened(pilot) -> None:
    await pilot.pause()
    await pilot.press("ctrl+t")
    await settle(pilot)
    assert isinstance(pilot.app.screen, NetworkStep)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_an_address_on_a_vlan_is_set_up(wizard, system, size, monkeypatch):
    folder, commands = system

    async def go():
        app = wizard()
        async with app.run_test(size=size) as pilot:
            await opened(pilot)
            check_snapshot(app, "1-network-dhcp")
            await pilot.press("space", "tab", "space", "tab", *"192.0.2.20/24")
            await pilot.press("tab", *"192.0.2.1", "tab", *"192.0.2.53", "tab", *"20")
            await settle(pilot)
            check_snapshot(app, "1-network-static")
            there = (*NICS, Nic("vlan20", kind=NicKind.VLAN, addresses=("192.0.2.20/24",)))
            monkeypatch.setattr("agent.tui.screens.network.read_nics", lambda: there)
            await pilot.press("ctrl+n")
            await settle(pilot)
            assert "This machine's network: vlan20 192.0.2.20/24" in screen_text(app)

    run(go())
    assert "Name=eno1" in (folder / "10-p2v.network").read_text()
    text = (folder / "10-p2v-vlan.network").read_text()
    assert "Address=192.0.2.20/24\nGateway=192.0.2.1\nDNS=192.0.2.53" in text
    assert ["networkctl", "reload"] in commands


def test_no_address_is_said_with_what_to_look_at(wizard, system):
    async def go():
        app = wizard()
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            await pilot.press("ctrl+n")
            await settle(pilot)
            assert "is the cable in" in screen_text(app)
            await pilot.press("escape")
            await settle(pilot)
            assert "no address yet. ^T changes it" in screen_text(app)

    run(go())


def test_networkd_that_refuses_is_an_error_in_a_sentence(wizard, system, monkeypatch):
    def refuse(argv, *_args, **_more):
        raise ToolError(tool="networkctl", problem="exit status 1: no")

    monkeypatch.setattr(network.tools, "run", refuse)

    async def go():
        app = wizard()
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            await pilot.press("ctrl+n")
            await settle(pilot)
            assert "Error: networkctl" in screen_text(app)

    run(go())


def test_an_address_wants_its_interface_and_wrong_fields_their_reason(wizard, system):
    async def go():
        app = wizard()
        async with app.run_test(size=(80, 24)) as pilot:
            await opened(pilot)
            await pilot.press("tab", "space", "tab", *"192.0.2.20")
            await pilot.pause()
            assert "with the network's length" in screen_text(app)
            await pilot.press(*"/24", "ctrl+n")
            await settle(pilot)
            assert "choose the interface" in screen_text(app)
            assert app.screen.query_one("#own", Input).value == "192.0.2.20/24"

    run(go())


def test_a_server_that_runs_keeps_its_network(wizard):
    async def go():
        app = wizard()
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            assert "Network set-up" not in screen_text(app)
            await pilot.press("ctrl+t")
            await pilot.pause()
            assert not isinstance(app.screen, NetworkStep)

    run(go())


def test_what_was_set_up_before_goes(system, monkeypatch):
    folder, commands = system
    from agent.appliance.settings import Settings

    network.replace(Settings(interface="eno1", vlan=20))
    assert (folder / "10-p2v-vlan.netdev").exists()
    monkeypatch.setattr(
        network.tools, "run", lambda argv: commands.append(argv) or b'[{"ifname": "vlan20"}]'
    )
    network.replace(Settings())
    assert not list(folder.iterdir())
    assert ["ip", "link", "delete", "vlan20"] in commands


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (parse_own, ["192.0.2.20/24", "2001:db8::1/64"], ["192.0.2.20", "192.0.2.20/33", "x"]),
        (parse_other, ["", "192.0.2.1"], ["192.0.2", "name"]),
        (parse_vlan, ["", "1", "4094"], ["0", "4095", "x", "-1"]),
    ],
)
def test_fields_of_a_network(parse, good, bad):
    for text in good:
        parse(text)
    for text in bad:
        with pytest.raises(UsageError):
            parse(text)
