# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts as lines of text, the same for the wizard, its plain form and tests. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.cli.progress import format_time
from agent.job.state import JobState
from agent.plan import partition_name
from agent.preflight.finding import Finding, Level
from agent.tui.draft import Draft
from agent.tui.terminal import Glyphs
from p2v.model.command import printable
from p2v.model.machine import Disk, FirmwareKind, Machine, Partition
from p2v.model.plan import Plan, Treatment
from p2v.model.units import format_size

MARKS = {Level.CRITICAL: "!!", Level.WARNING: "! ", Level.INFORMATION: "i "}
STYLES = {Level.CRITICAL: "bold red", Level.WARNING: "yellow", Level.INFORMATION: ""}


def machine_lines(machine: Machine) -> Iterator[str]:
    """Yield what the machine is, in four lines."""
    smbios, cpus = machine.smbios, machine.cpus
    made = " ".join(part for part in (smbios.vendor, smbios.product) if part) or "hardware unknown"
    generation = 1 if machine.firmware.kind is FirmwareKind.BIOS else 2
    yield printable(f"{machine.name}: {made}")
    yield printable(f"{machine.os.name or 'no system recognised'}")
    threads = cpus.sockets * cpus.cores * cpus.threads
    memory = format_size(machine.memory.installed or machine.memory.usable)
    yield printable(f"{threads} x {cpus.model or cpus.architecture}, {memory} of memory")
    total = format_size(sum(disk.size for disk in machine.disks))
    yield (
        f"{machine.firmware.kind.upper()} (generation {generation}), "
        f"{count(len(machine.disks), 'disk')} with {total}, "
        f"{count(len(machine.nics), 'network interface')}"
    )


def count(number: int, noun: str) -> str:
    """Return ``1 disk`` or ``2 disks``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def finding_line(finding: Finding) -> str:
    """Return a finding as one line; its mark says how bad it is, without any colour."""
    return printable(f"{MARKS[finding.level]} {finding.message}")


def bar(part: float, whole: float, width: int, glyphs: Glyphs) -> str:
    """Return a bar of `width` columns, filled by what `part` is of `whole`."""
    filled = round(width * min(1.0, max(0.0, part / whole))) if whole else 0
    return glyphs.full * filled + glyphs.empty * (width - filled)


def disk_line(disk: Disk, chosen: bool) -> str:
    """Return a disk as a line."""
    box = "[x]" if chosen else "[ ]"
    facts = " ".join(part for part in (disk.model, disk.transport) if part)
    return printable(f"{box} {disk.name:<10} {format_size(disk.size):>10}  {disk.table:<6} {facts}")


def partition_line(
    disk: Disk, partition: Partition, chosen: bool, glyphs: Glyphs, width: int = 8
) -> str:
    """Return a partition as a line below its disk's."""
    box = "[x]" if chosen else "[ ]"
    name = partition_name(disk, partition)
    used = bar(partition.used or 0, partition.size, width, glyphs)
    shown = f"{used} {format_size(partition.used):>9}" if partition.used is not None else " " * 18
    content = partition.content or partition.type_name or "empty"
    where = partition.mount_point or partition.label
    return printable(
        f"   {box} {name:<12} {format_size(partition.size):>9} {content[:11]:<11} {shown} {where}"
    ).rstrip()


def stars(count: float, glyphs: Glyphs) -> str:
    """Return 0 to 5 stars as five signs."""
    whole, half = int(count), count % 1 >= 0.5
    text = glyphs.star * whole + (glyphs.half_star if half else "")
    return text + glyphs.no_star * (5 - len(text))


def plan_lines(draft: Draft, plan: Plan) -> Iterator[str]:
    """Yield what a plan does, for a summary."""
    target = draft.target.server or f"the folder {draft.target.folder}"
    yield printable(f"Migrate {plan.name} to {target}")
    yield f"as {plan.format} images{', compressed' if plan.compress_image else ''}:"
    for disk in plan.disks:
        yield printable(f"  {disk.name:<10} {format_size(disk.size):>10}  {disk.model}").rstrip()
        for part in disk.partitions:
            what = _TREATMENTS[part.treatment]
            where = f" {part.mount_point}" if part.mount_point else ""
            size = format_size(part.size)
            yield printable(
                f"    {part.name:<12} {size:>10}  {part.content or '-':<11} {what}{where}"
            )
    if plan.vm is not None:
        vm = plan.vm
        if vm.host:
            yield printable(f"On the host {vm.host}, made when the images are there.")
        yield f"Virtual machine: {vm.cpus} processors, {format_size(vm.memory)}, {vm.firmware}"
        for nic in vm.nics:
            yield printable(f"  {nic.name} {nic.mac} on {nic.network or '(not connected)'}")


_TREATMENTS = {
    Treatment.USED: "used blocks",
    Treatment.COPY: "every block",
    Treatment.SWAP: "made anew",
    Treatment.EXCLUDE: "LEFT OUT",
}


PASSES = {
    "full": "copying",
    "compare": "comparing",
    "delta": "catching up",
    "warm": "keeping it warm",
    "final": "last pass",
}
"""Phases in which disks are read, in words."""


def progress_line(state: JobState) -> str:
    """Return where a job stands as one line."""
    if state.over or state.phase not in PASSES:
        return f"{state.phase}: {format_size(state.done)} of {format_size(state.total)}"
    percent = 100 * state.done // state.total if state.total else 0
    return (
        f"{PASSES[state.phase]}, {percent} %: {format_size(state.done)} of "
        f"{format_size(state.total)}, {format_size(state.rate)}/s, {format_time(state.eta_s)} left"
    )


def curve(values: Sequence[int], width: int, glyphs: Glyphs) -> str:
    """Return the last `width` values as a curve one line high."""
    shown = list(values[-width:])
    top = max(shown, default=0)
    steps = len(glyphs.levels) - 1
    return "".join(glyphs.levels[-(-value * steps // top)] if top else " " for value in shown)


def chart_line(cells: str, width: int) -> str:
    """Return a disk's chart squeezed or stretched to `width` columns; the worst of a cell shows."""
    if not cells:
        return "." * width
    out = []
    for column in range(width):
        start = column * len(cells) // width
        end = max(start + 1, (column + 1) * len(cells) // width)
        part = cells[start:end]
        out.append("!" if "!" in part else max(part, key=part.count))
    return "".join(out)
