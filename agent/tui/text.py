# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts as lines of text, the same for the wizard, its plain form and tests. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.cli.progress import format_time
from agent.firmware import generation, of_machine
from agent.job.state import JobState
from agent.migration import VERIFYING
from agent.plan import partition_name
from agent.preflight.finding import Finding, Level
from agent.tui.draft import Draft
from agent.tui.terminal import Glyphs
from p2v.model.command import printable
from p2v.model.machine import Disk, Machine, Partition
from p2v.model.plan import Plan, Treatment
from p2v.model.units import format_size
from p2v.model.vm import VmSettings

MARKS = {Level.CRITICAL: "!!", Level.WARNING: "! ", Level.INFORMATION: "i "}
STYLES = {Level.CRITICAL: "bold ansi_red", Level.WARNING: "ansi_yellow", Level.INFORMATION: ""}
"""Textual's names: by Rich's it would send bright colours, which not every console has."""


def machine_lines(machine: Machine) -> Iterator[str]:
    """Yield what the machine is, in four lines."""
    smbios, cpus = machine.smbios, machine.cpus
    made = " ".join(part for part in (smbios.vendor, smbios.product) if part) or "hardware unknown"
    kind = of_machine(machine)
    yield printable(f"{machine.name}: {made}")
    yield printable(f"{machine.os.name or 'no system recognised'}")
    threads = cpus.sockets * cpus.cores * cpus.threads
    memory = format_size(machine.memory.installed or machine.memory.usable)
    yield printable(f"{threads} x {cpus.model or cpus.architecture}, {memory} of memory")
    total = format_size(sum(disk.size for disk in machine.disks))
    yield (
        f"{kind.upper()} (generation {generation(kind)}), "
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


_CONTENTS = {
    "LVM2_member": "LVM",
    "linux_raid_member": "md RAID",
    "crypto_LUKS": "LUKS",
    "ldm": "dynamic",
    "Microsoft reserved": "MS reserved",
}
"""Contents and partition types that are longer than their column."""


def table_head(width: int) -> str:
    """Return the line above disks and partitions; `width` is that of a bar."""
    names = f"    {'Name':<15} {'Size':>10} {'Holds':<11} {'In use':<{width + 11}}"
    return f"{names} Mount or label"


def _holds(partition: Partition) -> str:
    content = partition.content or partition.type_name or "empty"
    return _CONTENTS.get(content, content)[:11]


def _used(partition: Partition, glyphs: Glyphs, width: int) -> str:
    if partition.used is None:
        return " " * (width + 11)
    used = bar(partition.used, partition.size, width, glyphs)
    return f"{used} {format_size(partition.used):>10}"


def disk_line(
    disk: Disk, chosen: bool, glyphs: Glyphs, width: int = 8, *, partly: bool = False
) -> str:
    """Return a disk as a line; what fills one without a partition table is on it."""
    box = "[-]" if chosen and partly else "[x]" if chosen else "[ ]"
    head = f"{box} {disk.name:<15} {format_size(disk.size):>10}"
    model = " ".join(part for part in (disk.model, disk.transport) if part)
    whole = next((part for part in disk.partitions if not part.number), None)
    if whole is None:
        table = "no table" if disk.table == "none" else disk.table
        return printable(f"{head} {table:<11} {model}").rstrip()
    where = whole.mount_point or whole.label or model
    return printable(f"{head} {_holds(whole):<11} {_used(whole, glyphs, width)} {where}").rstrip()


def partition_line(
    disk: Disk, partition: Partition, chosen: bool, glyphs: Glyphs, width: int = 8
) -> str:
    """Return a partition as a line below its disk's; `width` is that of the bar."""
    box = "[x]" if chosen else "[ ]"
    name = partition_name(disk, partition)
    where = partition.mount_point or partition.label
    return printable(
        f"   {box} {name:<12} {format_size(partition.size):>10} {_holds(partition):<11} "
        f"{_used(partition, glyphs, width)} {where}"
    ).rstrip()


def stars(count: float, glyphs: Glyphs) -> str:
    """Return 0 to 5 stars as five signs."""
    whole, half = int(count), count % 1 >= 0.5
    text = glyphs.star * whole + (glyphs.half_star if half else "")
    return text + glyphs.no_star * (5 - len(text))


def plan_lines(draft: Draft, plan: Plan) -> Iterator[str]:
    """Yield what a plan does, for a summary."""
    target = draft.target.server or f"the folder {draft.target.folder}"
    how = "live, with one short freeze at the end" if plan.live else "offline"
    packed = ", compressed" if plan.compress_image else ""
    yield printable(f"Copy {plan.name} to {target}, {how},")
    yield f"as {plan.format} images{packed}{_guest(draft, plan)}"
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
        yield from _vm_lines(plan.vm)


def _guest(draft: Draft, plan: Plan) -> str:
    if not plan.convert:
        return "; the guest in them stays as it is."
    if draft.target.folder:  # no appliance here
        return "; 'p2v convert' makes the guest start as a virtual machine later."
    return ", and make the guest start as a virtual machine."


def _vm_lines(vm: VmSettings) -> Iterator[str]:
    yield printable(
        f"Virtual machine {vm.name}: {count(vm.cpus, 'processor')}, "
        f"{format_size(vm.memory)} of memory, {vm.firmware.upper()}"
    )
    for nic in vm.nics:
        vlan = f", VLAN {nic.vlan}" if nic.vlan else ""
        cable = "" if nic.connected else ", unplugged"
        network = f"on {nic.network}{vlan}{cable}" if nic.network else "(not connected)"
        yield printable(f"  {nic.name} {nic.mac} {network}")
    if vm.host:
        start = "and started" if vm.power_on else "and left off"
        yield printable(f"Made on the host {vm.host} when the images are there, {start}.")
    else:
        yield "No host is chosen: the machine is made later, from the images."


_TREATMENTS = {
    Treatment.USED: "used blocks",
    Treatment.COPY: "every block",
    Treatment.SWAP: "made anew",
    Treatment.EXCLUDE: "LEFT OUT",
}


PASSES = {
    "full": "Copying",
    "compare": "Comparing",
    "delta": "Catching up",
    "warm": "Keeping it up to date",
    "final": "Last pass",
}
"""Phases in which disks are read, in words."""


STAGES = {
    "starting": "Starting: the disks are opened.",
    "waiting": "Up to date, and kept so until it is cut over.",
    "verifying": "All is sent. The converter reads it back and compares.",
    "committing": "The converter finishes the images and prepares the guest: some minutes.",
    "finished": "Finished.",
}
"""Other phases, in sentences."""


def progress_line(state: JobState) -> str:
    """Return where a job stands as one line."""
    percent = 100 * state.done // state.total if state.total else 0
    if state.phase == VERIFYING and state.eta_s is not None:
        return f"{STAGES[VERIFYING]} {percent} %, {format_time(state.eta_s)} left"
    if state.over or state.phase not in PASSES:
        return STAGES.get(state.phase, state.phase)
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
    """Return a disk's chart squeezed or stretched to `width` columns.

    What is unreadable or dirty shows, however little of a column it is.
    """
    if not cells:
        return "." * width
    out = []
    for column in range(width):
        start = column * len(cells) // width
        end = max(start + 1, (column + 1) * len(cells) // width)
        part = cells[start:end]
        out.append(next((mark for mark in "!*" if mark in part), max(part, key=part.count)))
    return "".join(out)
