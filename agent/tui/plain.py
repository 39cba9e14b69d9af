# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard's questions line by line, for screen readers, slow lines and terminals like paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from agent.appliance import network
from agent.appliance.image import LIVE_MEDIUM
from agent.appliance.settings import Settings
from agent.credentials import find_credentials, known_converters, pair_and_keep
from agent.discovery import Discovery, Found
from agent.inventory.collect import collect
from agent.inventory.nics import read_nics
from agent.job.folder import Job
from agent.job.launch import Target, start_job
from agent.plan import partition_name
from agent.preflight.check import preflight
from agent.stream.remote import Address, RemoteConverter
from agent.tui.draft import Draft, in_use
from agent.tui.evidence import find_evidence
from agent.tui.screens.converter import parse_folder
from agent.tui.screens.disks import effect_lines
from agent.tui.screens.host import rating_lines
from agent.tui.screens.machine import LOAD_WINDOW_S
from agent.tui.screens.network import CARDS, network_line, parse_other, parse_own, parse_vlan
from agent.tui.screens.result import result_lines
from agent.tui.screens.vm import FORMATS
from agent.tui.terminal import ASCII
from agent.tui.text import finding_line, machine_lines, plan_lines, progress_line
from agent.vm import parse_cpus, parse_memory, parse_name, parse_network
from p2v.model import planfile
from p2v.model.command import printable
from p2v.model.errors import P2VError, UsageError
from p2v.model.machine import FirmwareKind
from p2v.model.pairing import Code
from p2v.model.plan import Plan
from p2v.model.rating import Rating
from p2v.model.units import GiB, format_size

T = TypeVar("T")
POLL_S = 2.0
LINE_S = 10.0
_GRACE_S = 30.0
_LISTEN_S = 2.0


def ask_all(job: Job | None, draft: Draft, disks: Sequence[str]) -> int:
    """Ask, start, and say how it goes; return the exit code. With a job only the last.

    The answers go into `draft`; `disks` are those to offer, all physical ones by default.
    """
    if job is None:
        if LIVE_MEDIUM.exists():
            _ask_network()
        _ask_target(draft)
        _ask_disks(draft, disks)
        _ask_vm(draft)
        if draft.target.server:
            _ask_host(draft)
        plan = draft.plan()
        job = _ask_start(draft, plan)
        if job is None:
            return 0
    print("Ctrl-C ends this display; the migration goes on ('p2v-agent tui --attach').")
    return follow(job)


def _ask(question: str, parse: Callable[[str], T], default: str = "") -> T:
    """Ask until `parse` takes the answer; its reason is said each time."""
    while True:
        shown = f" [{default}]" if default else ""
        try:
            answer = input(f"{question}{shown}: ").strip() or default
        except EOFError:
            raise UsageError(problem=f"no answer to: {question}") from None
        try:
            return parse(answer)
        except UsageError as error:
            print(f"Error: {error}")


def _one_of(words: Sequence[str]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise UsageError(problem=f"answer one of: {', '.join(words)}")
        return text

    return parse


def _ask_network() -> None:
    """On the live image: offer to set up its network."""
    print(f"This machine's network: {network_line()}")
    if _ask("Set it up anew", _one_of(["yes", "no"]), "no") == "no":
        return
    names = [nic.name for nic in read_nics() if nic.kind in CARDS]
    name = _ask(f"Interface ({', '.join(names)})", _one_of(names), names[0] if names else "")
    own = _ask("Address like 192.0.2.20/24, or dhcp", _own_or_dhcp, "dhcp")
    others: list[str] = []
    if own != "dhcp":
        others = [_ask("Gateway (empty: none)", parse_other)]
        others += [_ask("Name server (empty: none)", parse_other)] if others[0] else []
    vlan = _ask("VLAN (empty: none)", parse_vlan)
    try:
        network.replace(
            Settings(interface=name, ip=",".join([own, *filter(None, others)]), vlan=vlan)
        )
    except P2VError as error:
        print(f"Error: {error} {error.way_out}")
    print("An address may take some seconds to come.")


def _own_or_dhcp(text: str) -> str:
    return text if text == "dhcp" else parse_own(text)


def _ask_target(draft: Draft) -> None:
    for address in known_converters():
        print(f"Known converter: {address}")
    for found in _announced():
        print(printable(f"Converter found on this network: {found.address} ({found.name})"))
    while True:
        where = _ask("Converter's address, or a folder on this machine (begins with /)", str)
        try:
            if where.startswith("/"):
                draft.target = Target(folder=str(parse_folder(where)))
                return
            draft.target = _pair(Address.parse(where))
        except P2VError as error:
            print(f"Error: {error} {error.way_out}")
        else:
            return


def _announced() -> list[Found]:
    """Return the converters that are heard of within two seconds."""
    found: list[Found] = []
    discovery = Discovery(found.append)
    discovery.closed.wait(_LISTEN_S)
    discovery.close()
    return found


def _pair(address: Address) -> Target:
    if str(address) not in known_converters():
        pair_and_keep(address, _ask("Pairing code ('p2v pair' on the converter)", Code.parse))
    with closing(RemoteConverter(address, find_credentials(address))) as converter:
        converter.check()
    return Target(server=str(address))


def _ask_disks(draft: Draft, disks: Sequence[str]) -> None:
    print("Looking at this machine ...")
    draft.look_at(collect(disks, LOAD_WINDOW_S))
    machine = draft.found
    print("\n".join(machine_lines(machine)))
    for finding in preflight(machine):
        print(f"{finding_line(finding)} {printable(finding.action)}".rstrip())
    print("Disks:")
    for disk in machine.disks:
        print(printable(f"  {disk.name}  {format_size(disk.size)}  {disk.model}"))
        for part in disk.partitions:
            where = part.mount_point or part.label
            name = partition_name(disk, part)
            print(printable(f"    {name}  {format_size(part.size)}  {part.content}  {where}"))

    def choose(text: str) -> None:
        draft.disks = _names(text, {disk.name for disk in machine.disks})
        draft.plan()

    def exclude(text: str) -> None:
        parts = {
            partition_name(disk, part)
            for disk in machine.disks
            if disk.name in draft.disks
            for part in disk.partitions
        }
        draft.exclude = set() if text == "none" else _names(text, parts)

    default = " ".join(disk.name for disk in machine.disks if disk.name in draft.disks)
    _ask("Disks to copy, with spaces between", choose, default)
    _ask("Partitions to leave out", exclude, "none")
    if any(in_use(disk) for disk in machine.disks if disk.name in draft.disks):
        print("They are in use: live copies them so; offline wants them unmounted first.")
        draft.live = _ask("live or offline", _one_of(["live", "offline"]), "live") == "live"
    if draft.plan().live:
        when = _ask(
            "Cut over: now, when it has caught up; or wait", _one_of(["now", "wait"]), "now"
        )
        draft.wait = when == "wait"
    for line in effect_lines(draft.plan()):
        print(printable(line))


def _names(text: str, known: set[str]) -> set[str]:
    names = set(text.replace(",", " ").split())
    if unknown := names - known:
        raise UsageError(
            problem=f"there is no {min(unknown)}; there are {', '.join(sorted(known))}"
        )
    return names


def _ask_vm(draft: Draft) -> None:
    vm = draft.plan().vm
    draft.name = _ask("Name of the virtual machine", parse_name, draft.name)
    if vm is not None:
        draft.cpus = _ask("Processors", parse_cpus, str(vm.cpus))
        memory = f"{vm.memory / GiB:.1f}".removesuffix(".0")
        draft.memory = _ask("Memory in GiB", parse_memory, memory)
    if len(kinds := draft.kinds()) > 1:
        known = [kind.value for kind in kinds]
        question = "Firmware, bios (Hyper-V generation 1) or uefi (generation 2)"
        draft.firmware = FirmwareKind(_ask(question, _one_of(known), known[0]))
    names = {name.replace(",", "").split(" (")[0]: (image, small) for name, image, small in FORMATS}
    chosen = _ask(f"Format ({', '.join(names)})", _one_of(list(names)), "vhdx")
    draft.format, draft.compress = names[chosen]
    convert = _ask("Make the guest start as a virtual machine", _one_of(["yes", "no"]), "yes")
    draft.convert = convert == "yes"
    for nic in vm.nics if vm is not None else ():
        draft.networks[nic.name] = _ask(
            f"Network of the host for {nic.name} {nic.mac}, as LAN or LAN:20 (empty: none)",
            _network,
            draft.networks.get(nic.name, ""),
        )


def _network(text: str) -> str:
    parse_network(text)
    return text


def _ask_host(draft: Draft) -> None:
    """Show the converter's hosts, best first; ask which gets the machine."""
    address = Address.parse(draft.target.server)
    try:
        with closing(RemoteConverter(address, find_credentials(address))) as converter:
            ratings = tuple(map(Rating.from_json, converter.placement(draft.plan())))
    except P2VError as error:
        print(f"Error: {error} {error.way_out}")
        return
    for rating in ratings:
        print()
        for line in rating_lines(rating, ASCII):
            print(printable(line))

    able = [rating.host for rating in ratings if rating.stars]
    if not able:
        print("No host can take the machine: just the images are made.")
        return
    host = _ask(
        f"Host ({', '.join(able)}; none: just the images)", _one_of(["none", *able]), "none"
    )
    if host != "none":
        draft.host = host
        draft.power_on = _ask("Start it when it is made", _one_of(["yes", "no"]), "no") == "yes"
        plugged = _ask("Plug its network cables in", _one_of(["yes", "no"]), "yes")
        draft.connected = plugged == "yes"


def _ask_start(draft: Draft, plan: Plan) -> Job | None:
    print("\n".join(plan_lines(draft, plan)))
    for warning in plan.warnings:
        print(f"WARNING: {printable(warning)}")
        if _ask("Accept this", _one_of(["yes", "no"])) == "no":
            print("Nothing was started.")
            return None
    answer = _ask("Start now, save the plan, or quit", _one_of(["start", "save", "quit"]))
    if answer == "save":
        path = Path(_ask("Save as", str, f"{plan.name}.toml"))
        path.write_text(planfile.dump(plan), encoding="utf-8")
        print(f"Saved. To carry it out: {draft.replay(str(path))}")
    return start_job(plan, draft.target, wait=draft.wait) if answer == "start" else None


def follow(job: Job) -> int:
    """Print where the job stands until it is over; return its exit code."""
    begun = time.monotonic()
    said, said_at = "", 0.0
    while True:
        alive = job.alive()
        state = job.state()
        if state is not None and state.over:
            break
        if not alive and (state is not None or time.monotonic() - begun > _GRACE_S):
            break
        now = time.monotonic()
        if state is not None and (state.phase != said or now - said_at >= LINE_S):
            print(printable(f"{progress_line(state)} {state.problem}".rstrip()), flush=True)
            said, said_at = state.phase, now
        time.sleep(POLL_S)
    found = None
    if state is not None and state.exit_code is not None and state.failure is None:
        found = find_evidence(state.target, state.migration, state.images)
    print("\n".join(printable(line) for line in result_lines(job, found)))
    return 1 if state is None or state.exit_code is None else state.exit_code
