# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine as tables on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2v.model.command import printable
from p2v.model.machine import Disk, Machine, Partition, Severity, Smart
from p2v.model.units import format_size

_PIPE_WIDTH = 160
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}


def print_machine(machine: Machine, console: Console | None = None) -> None:
    """Print `machine`; what disks and networks are named cannot steer the terminal."""
    if console is None:
        wide = None if sys.stdout.isatty() else _PIPE_WIDTH
        console = Console(highlight=False, width=wide)
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(machine):
        facts.add_row(Text(name, "bold"), _text(value))
    console.print(facts)
    for disk in machine.disks:
        _print_disk(console, disk)
    _print_nics(console, machine)
    _print_load(console, machine)
    for problem in machine.problems:
        subject = f"{problem.subject}: " if problem.subject else ""
        line = f"{problem.severity}: {subject}{problem.message} {problem.action}"
        console.print(_text(line.rstrip(), _STYLES[problem.severity]))


def _text(value: str, style: str = "") -> Text:
    """Escape what is not printable: labels and names on disks are hostile."""
    return Text(printable(value), style)


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    cpus, memory, smbios = machine.cpus, machine.memory, machine.smbios
    yield "Machine", machine.name
    hardware = " ".join(part for part in (smbios.vendor, smbios.product) if part)
    if hardware or smbios.serial:
        serial = f", serial {smbios.serial}" if smbios.serial else ""
        yield "Hardware", hardware + serial
    secure = {True: ", Secure Boot on", False: ", Secure Boot off", None: ""}
    yield "Firmware", machine.firmware.kind.upper() + secure[machine.firmware.secure_boot]
    shape = f"{cpus.sockets} x {cpus.cores} cores, {cpus.threads} threads each"
    yield "CPU", f"{cpus.model or cpus.architecture}: {shape}"
    installed = f" ({format_size(memory.installed)} installed)" if memory.installed else ""
    yield "Memory", format_size(memory.usable) + installed
    yield "System", f"{machine.os.name} (Linux {machine.os.kernel})"


def _table(columns: Iterable[str], right: Iterable[str] = ()) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _title(console: Console, text: str) -> None:
    console.print()
    console.print(_text(text, "bold"))


def _print_disk(console: Console, disk: Disk) -> None:
    facts = [format_size(disk.size), f"sectors {disk.logical_sector}/{disk.physical_sector}"]
    facts += [disk.transport, disk.model, f"serial {disk.serial}" if disk.serial else ""]
    facts += ["read-only" if disk.read_only else "", f"table {disk.table}", _health(disk.smart)]
    _title(console, f"{disk.name}: {', '.join(fact for fact in facts if fact)}")
    if not disk.partitions:
        return
    table = _table(("#", "size", "used", "content", "label", "mounted", "notes"), ("size",))
    for partition in disk.partitions:
        used = "" if partition.used is None else format_size(partition.used)
        cells = (str(partition.number or "-"), format_size(partition.size), used)
        content = partition.content or f"({partition.type_name or 'empty'})"
        mounted = partition.mount_point and (
            f"{partition.mount_point} ({'rw' if partition.writable else 'ro'})"
        )
        more = (content, partition.label or partition.name, mounted, _notes(partition))
        table.add_row(*(_text(cell) for cell in (*cells, *more)))
    console.print(table)


def _health(smart: Smart | None) -> str:
    if smart is None or smart.passed is None:
        return ""
    return "healthy" if smart.passed else "FAILING"


def _notes(partition: Partition) -> str:
    notes = [partition.group, ", ".join(partition.flags)]
    notes += ["hibernated" if partition.hibernated else "", partition.unclean]
    return "; ".join(note for note in notes if note)


def _print_nics(console: Console, machine: Machine) -> None:
    if not machine.nics:
        return
    columns = ("interface", "kind", "MAC", "driver", "speed", "addresses", "member of")
    _title(console, "Network")
    table = _table(columns, ("speed",))
    for nic in machine.nics:
        speed = f"{nic.speed} Mbit/s" if nic.speed else ""
        kind = f"vlan {nic.vlan} on {nic.parent}" if nic.vlan is not None else nic.kind.value
        cells = (nic.name, kind, nic.mac, nic.driver, speed, " ".join(nic.addresses), nic.master)
        table.add_row(*(_text(cell) for cell in cells))
    console.print(table)
    for route in machine.routes:
        if route.gateway:
            line = f"route {route.destination} via {route.gateway} on {route.interface}"
            console.print(_text(line))


def _print_load(console: Console, machine: Machine) -> None:
    load = machine.load
    if load is None:
        return
    used = format_size(load.memory_used)
    head = f"Load over {load.window_s:g} s: CPU {load.cpu_percent:g} %, memory {used}"
    _title(console, head)
    table = _table(("device", "in", "out"), ("in", "out"))
    for disk in load.disks:
        reads = f"{disk.read_iops:g} reads/s {format_size(disk.read_bytes)}/s"
        writes = f"{disk.write_iops:g} writes/s {format_size(disk.write_bytes)}/s"
        table.add_row(_text(disk.name), reads, writes)
    for nic in load.nics:
        receive, send = format_size(nic.receive_bytes), format_size(nic.send_bytes)
        table.add_row(_text(nic.name), f"{receive}/s", f"{send}/s")
    console.print(table)
