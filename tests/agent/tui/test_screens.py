# SPDX-License-Identifier: GPL-3.0-or-later
"""Every screen at two sizes, as text; P2V_SNAPSHOTS=write records the texts anew."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from textual.widgets import Input

from agent.job.controls import Controls
from agent.job.folder import Job, make_job
from agent.job.launch import Target
from agent.job.server import serving
from agent.job.state import DiskState, Failure, JobState
from agent.tui.draft import Draft
from agent.tui.screens.disks import DisksStep
from agent.tui.screens.host import HostStep
from agent.tui.screens.progress import ProgressStep
from agent.tui.screens.result import ResultStep
from agent.tui.screens.summary import SummaryStep
from agent.tui.screens.vm import VmStep
from agent.tui.step import Step
from p2v.model.host import HostFacts, HostLoad, HostNetwork, HostStorage, HypervisorKind
from p2v.model.machine import FirmwareKind
from p2v.placement.rate import Candidate, rank
from tests.agent.tui.conftest import MACHINES, SIZES, check_snapshot, load, screen_text

NAMES = sorted(path.stem for path in MACHINES.glob("*.json"))
GiB = 1 << 30
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


async def show(pilot, step: type[Step], at: int) -> None:
    pilot.app._at = at
    pilot.app.switch_screen(step())
    await pilot.pause()


async def settle(pilot) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def run(coroutine) -> None:
    import asyncio

    asyncio.run(coroutine)


@sizes
def test_the_wizard_from_end_to_end(wizard, size, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    monkeypatch.setattr("agent.tui.screens.converter.parse_folder", lambda _: "/srv/images")

    async def go():
        app = wizard("dual-boot-bitlocker")
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            check_snapshot(app, "1-converter")
            await pilot.press("space", "tab", *"/srv/images", "ctrl+n")
            await settle(pilot)
            check_snapshot(app, "2-machine")
            await pilot.press("ctrl+n")
            await pilot.pause()
            check_snapshot(app, "3-disks")
            await pilot.press("down", "down", "space")
            await pilot.pause()
            check_snapshot(app, "3-disks-without-the-esp")
            await pilot.press("ctrl+n")
            await pilot.pause()
            check_snapshot(app, "4-vm")
            await pilot.press("ctrl+n")
            await pilot.pause()
            check_snapshot(app, "6-summary")

    run(go())


@pytest.mark.parametrize("name", NAMES)
@sizes
def test_every_machine_can_be_shown_and_planned(wizard, draft, name, size):
    async def go():
        app = wizard(name, draft=draft(name))
        async with app.run_test(size=size) as pilot:
            await pilot.press("ctrl+n")
            await show(pilot, DisksStep, 2)
            check_snapshot(app, f"machine-{name}")
            if app.draft.found.disks:
                await pilot.press("ctrl+n")
                await pilot.pause()
                assert app.draft.plan().disks

    run(go())


@pytest.fixture
def job() -> Job:
    return make_job("web01")


def state(**more) -> JobState:
    facts = {
        "name": "web01", "target": "https://192.0.2.10:8443", "pid": 1,
        "migration": "web01-7f3a9c04", "phase": "full", "done": 30 * GiB, "total": 80 * GiB,
        "rate": 105e6, "eta_s": 512.0, "elapsed_s": 311.0, "read": 21 * GiB, "zero": 8 * GiB,
        "same": GiB, "sent": 20 * GiB, "wire": 9 * GiB, "durable": 19 * GiB, "codec": "zstd 1",
        "disks": (
            DiskState("sda", 60 * GiB, 30 * GiB, "#" * 80 + "-" * 40 + "!" + "=" * 7 + "." * 128),
            DiskState("sdb", 20 * GiB, 0, "." * 256),
        ),
        "rates": tuple(range(0, 105, 5)),
    }  # fmt: skip
    return JobState(**(facts | more))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("full", {}),
        ("paused", {"paused": True, "bwlimit": 10 << 20}),
        ("waiting", {"problem": "No room left in /srv/p2v: 1048576 more bytes are needed."}),
        ("verifying", {"phase": "verifying", "done": 60 * GiB, "eta_s": 71.0}),
        (
            "live",
            {
                "phase": "delta",
                "done": 2 << 20,
                "total": 9 << 20,
                "dirty": 5 << 20,
                "churn": 310e3,
                "churns": (0, 0, 900000, 300000, 310000),
                "eta_s": 1.0,
                "outlook": "303.0 KiB/s are written, 100.0 MiB/s can be sent: a freeze of about "
                "38 ms, after 1 more passes.",
                "disks": (DiskState("sda", 60 * GiB, 60 * GiB, "#" * 90 + "*##*" + "-" * 162),),
            },
        ),
    ],
)
@sizes
def test_a_migration_under_way(wizard, job, size, name, more):
    async def go():
        job.write(state(**more))
        job.log.write_text("connection lost (timed out); trying again\n")
        with job.running():
            app = wizard(job=job)
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                check_snapshot(app, f"7-progress-{name}")

    run(go())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        (
            "done",
            {"exit_code": 0, "phase": "finished", "images": ("/srv/p2v/web01-sda.vhdx",),
             "notes": ("sda2: every block is copied: it needs recovery",)},
        ),
        (
            "unreadable",
            {"exit_code": 20, "phase": "finished", "images": ("/srv/p2v/web01-sda.vhdx",),
             "notes": ("8192 bytes in 2 places of /dev/sda could not be read.",)},
        ),
        (
            "failed",
            {"exit_code": 21, "failure": Failure(
                "source-changed", "/dev/sda has changed since the plan was made: it is gone.",
                "Run 'p2v-agent inventory' and make a new plan; the image so far is kept.")},
        ),
        ("stopped", {"exit_code": 143, "failure": Failure("stopped", "It was stopped.")}),
        ("died", {}),
    ],
)  # fmt: skip
@sizes
def test_what_came_of_a_migration(wizard, job, size, name, more):
    async def go():
        job.write(state(**more))
        job.log.write_text("Killed\n")
        app = wizard(job=job)
        async with app.run_test(size=size) as pilot:
            for _ in range(100):
                await pilot.pause(0.02)
                if isinstance(app.screen, ResultStep):
                    break
            await pilot.pause()
            check_snapshot(app, f"8-result-{name}")

    run(go())


def test_the_question_before_stopping_wants_a_word(wizard, job):
    async def go():
        job.write(state())
        with job.running():
            app = wizard(job=job)
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.press("k")
                await pilot.pause()
                check_snapshot(app, "question-stop")
                await pilot.press(*"yes", "enter")
                await pilot.pause()
                assert "Type 'stop' or 'discard'" in screen_text(app)
                await pilot.press("escape")
                await pilot.pause()
                assert isinstance(app.screen, ProgressStep)

    run(go())


def test_going_back_keeps_what_was_entered(wizard, draft):
    async def go():
        app = wizard(draft=draft())
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, DisksStep, 2)
            await pilot.press("down", "down", "space", "ctrl+n")
            await pilot.pause()
            await pilot.press("ctrl+u", *"new name", "tab", "ctrl+u", *"3", "escape")
            await pilot.pause()
            assert "[ ] loop1p2" in screen_text(app)
            await pilot.press("ctrl+n")
            await pilot.pause()
            shown = [field.value for field in app.screen.query(Input)]
            assert shown[:2] == ["new name", "3"]
            assert app.draft.plan().vm.cpus == 3

    run(go())


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("name", "a/b", "none of"),
        ("cpus", "0", "from 1 to 240"),
        ("memory", "much", "GiB, from 0.5"),
    ],
)
def test_a_field_is_checked_as_it_is_typed_and_one_cannot_go_on(wizard, draft, field, text, said):
    async def go():
        app = wizard(draft=draft())
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, DisksStep, 2)
            await pilot.press("ctrl+n")
            await pilot.pause()
            app.screen.query_one(f"#{field}").focus()
            await pilot.press("ctrl+u", *text)
            await pilot.pause()
            assert said in screen_text(app)
            await pilot.press("ctrl+n")
            await pilot.pause()
            assert "Virtual machine" in screen_text(app)

    run(go())


def test_firmware_is_asked_for_where_the_disks_leave_a_choice(wizard):
    flags = "bios_grub", "esp"
    machine = load("gpt-bios-ext4-swap-xfs")
    disk = replace(machine.disks[0], partitions=tuple(
        replace(part, flags=flags) for part in machine.disks[0].partitions
    ))  # fmt: skip
    draft = Draft(target=Target(server="https://converter.example:8443"))
    draft.look_at(replace(machine, disks=(disk,)))

    async def go():
        app = wizard(draft=draft)
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, VmStep, 3)
            assert "< BIOS, generation 1 on Hyper-V >" in screen_text(app)
            app.screen.query_one("#firmware").focus()
            await pilot.press("space")
            assert "< UEFI, generation 2 on Hyper-V >" in screen_text(app)
            await pilot.pause()
            assert draft.plan().vm.firmware is FirmwareKind.UEFI
            assert "--firmware uefi" in draft.command()

    run(go())


def test_warnings_are_accepted_one_by_one_before_it_starts(wizard, draft, monkeypatch):
    started = []

    def start(plan, target, *, wait):
        started.append((plan, target))
        return make_job("web01", plan)

    monkeypatch.setattr("agent.tui.screens.summary.start_job", start)

    async def go():
        app = wizard(draft=draft("dual-boot-bitlocker"))
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, SummaryStep, 5)
            await pilot.press("ctrl+n")
            await pilot.pause()
            assert "not accepted yet" in screen_text(app) and not started
            for _ in app.draft.plan().warnings:
                await pilot.press("space", "down")
            await pilot.press("ctrl+n")
            await pilot.pause()
            assert len(started) == 1 and isinstance(app.screen, ProgressStep)

    run(go())


def test_a_plan_is_saved_and_a_folder_that_is_not_there_is_said(wizard, draft, tmp_path):
    from p2v.model import planfile

    async def go():
        app = wizard(draft=draft())
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, SummaryStep, 5)
            for path, said in ((tmp_path / "plan.toml", "The plan is in"), ("/no/x", "No such")):
                await pilot.press("ctrl+w")
                await pilot.pause()
                await pilot.press("ctrl+u", *str(path), "enter")
                await settle(pilot)
                assert said in " ".join(screen_text(app).split())
            assert planfile.load((tmp_path / "plan.toml").read_text()) == app.draft.plan()

    run(go())


def host(name: str, group: tuple[str, ...], **more) -> HostFacts:
    facts = {"cpus": 32, "memory": 256 * GiB, "networks": (HostNetwork("LAN"),)}
    place = HostStorage("D:\\VMs", 4096 * GiB)
    return HostFacts(name, HypervisorKind.HYPERV, group=group, storages=(place,), **(facts | more))


HOSTS = (
    host("hv01", ("Basel", "cluster1"), load=HostLoad(20.0, 64 * GiB)),
    host("hv02", ("Basel", "cluster1"), memory=32 * GiB, networks=()),
    host("hv03", ("Bern",), load=HostLoad(70.0, 128 * GiB)),
)


@sizes
def test_hosts_with_their_stars_and_reasons(wizard, draft, size, monkeypatch):
    def ask(self):
        self._rated(rank(self.draft.plan(), [Candidate(h, age_s=95.0, samples=6) for h in HOSTS]))

    monkeypatch.setattr(HostStep, "_ask", ask)

    async def go():
        ready = draft()
        ready.networks = {nic.name: "LAN" for nic in ready.plan().vm.nics}
        app = wizard(draft=ready)
        async with app.run_test(size=size) as pilot:
            await show(pilot, HostStep, 4)
            await pilot.press("space")
            await pilot.pause()
            assert app.draft.host == "hv01" and app.draft.plan().vm.create
            check_snapshot(app, "5-host")
            await pilot.press("down", "space")
            await pilot.pause()
            assert app.draft.host == "hv01"
            check_snapshot(app, "5-host-refused")
            await pilot.press("home", "space")
            await pilot.pause()
            assert app.draft.host == "" and not app.draft.plan().vm.create

    run(go())


def test_a_machine_in_use_is_copied_live_and_may_wait_for_the_cut_over(wizard, draft):
    async def go():
        app = wizard(draft=draft("live-and-busy"))
        async with app.run_test(size=(80, 24)) as pilot:
            await show(pilot, DisksStep, 2)
            assert app.draft.plan().live and "Live, because /boot, / are in use" in screen_text(app)
            await pilot.press("l")
            await pilot.pause()
            assert not app.draft.plan().live and "IN USE" in screen_text(app)
            await pilot.press("l")
            await show(pilot, SummaryStep, 5)
            app.screen.query_one("#cutover").focus()
            await pilot.press("space")
            await pilot.pause()
            check_snapshot(app, "6-summary-live")
            assert app.draft.wait

    run(go())


def test_the_cut_over_wants_a_word_and_says_what_to_expect(wizard, job):
    asked = Controls()

    async def go():
        job.write(state(phase="waiting", outlook="1.2 MiB changed, a freeze of about 40 ms"))
        with job.running(), serving(job.socket, asked):
            app = wizard(job=job)
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.press("c")
                await pilot.pause()
                check_snapshot(app, "question-cutover")
                await pilot.press(*"cutover", "enter")
                await settle(pilot)
            assert asked.cutover.is_set()

    run(go())


def test_a_serial_line_is_spared_the_curve_and_the_log(wizard, job):
    from agent.tui.terminal import Terminal

    async def go():
        job.write(state())
        job.log.write_text("a line of the log\n")
        with job.running():
            app = wizard(job=job)
            app.terminal = Terminal(ascii=True, slow=True, colours=0)
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.pause()
                text = screen_text(app)
                assert "rate " not in text and "a line of the log" not in text

    run(go())


def test_hostile_names_cannot_steer_the_terminal(wizard, draft):
    from dataclasses import replace

    machine = load("gpt-bios-ext4-swap-xfs")
    disk = machine.disks[0]
    evil = "\x1b[2J\x1b]0;pwned\x07[bold]\n"
    parts = tuple(replace(part, label=evil, mount_point=evil) for part in disk.partitions)
    hostile = replace(machine, name="x", disks=(replace(disk, model=evil, partitions=parts),))

    async def go():
        app = wizard(hostile)
        async with app.run_test(size=(132, 43)) as pilot:
            app.draft.look_at(hostile)
            await show(pilot, DisksStep, 2)
            text = screen_text(app)
            assert "\x1b" not in text and "\\x1b[2J" in text

    run(go())


def test_states_of_another_version_are_not_misread(job):
    job.write(state())
    document = json.loads((job.path / "state.json").read_text())
    (job.path / "state.json").write_text(json.dumps(document | {"new": 1}))
    assert job.state() is None
