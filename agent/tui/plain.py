# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard's questions line by line, for screen readers, slow lines and terminals like paper."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from agent.credentials import find_credentials, known_converters, pair_and_keep
from agent.inventory.collect import collect
from agent.job.folder import Job
from agent.job.launch import Target, start_job
from agent.plan import partition_name
from agent.preflight.check import preflight
from agent.stream.remote import Address, RemoteConverter
from agent.tui.draft import Draft, parse_cpus, parse_memory, parse_name
from agent.tui.screens.converter import parse_folder
from agent.tui.screens.machine import LOAD_WINDOW_S
from agent.tui.screens.result import result_lines
from agent.tui.text import finding_line, machine_lines, plan_lines, progress_line
from p2v.model import planfile
from p2v.model.command import printable
from p2v.model.errors import P2VError, UsageError
from p2v.model.pairing import Code
from p2v.model.plan import ImageFormat, Plan
from p2v.model.units import GiB, format_size

T = TypeVar("T")
POLL_S = 2.0
LINE_S = 10.0
_GRACE_S = 30.0


def ask_all(job: Job | None, draft: Draft, disks: Sequence[str]) -> int:
    """Ask, start, and say how it goes; return the exit code. With a job only the last.

    The answers go into `draft`; `disks` are those to offer, all physical ones by default.
    """
    if job is None:
        _ask_target(draft)
        _ask_disks(draft, disks)
        _ask_vm(draft)
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


def _ask_target(draft: Draft) -> None:
    for address in known_converters():
        print(f"Known converter: {address}")
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


def _pair(address: Address) -> Target:
    if str(address) not in known_converters():
        pair_and_keep(address, _ask("Pairing code ('p2v pair' on the converter)", Code.parse))
    converter = RemoteConverter(address, find_credentials(address))
    try:
        converter.check()
    finally:
        converter.close()
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
    formats = [image.value for image in ImageFormat]
    draft.format = ImageFormat(_ask(f"Format ({', '.join(formats)})", _one_of(formats), "vhdx"))


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
        print(f"Saved. To carry it out: {draft.command(str(path))}")
    return start_job(plan, draft.target) if answer == "start" else None


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
    print("\n".join(printable(line) for line in result_lines(job)))
    return 1 if state is None or state.exit_code is None else state.exit_code
