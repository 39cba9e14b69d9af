# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration without anybody: what was said at the start is done, told on the console, and ended.

Started again after a loss of power it goes on where it was, and never migrates a machine twice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial

from agent.appliance import choose, evidence, gather, guard, network, sticks
from agent.appliance.settings import Settings, check
from agent.cli.progress import Rate, format_time
from agent.hosts import doubts_of_hosts
from agent.inventory.collect import collect
from agent.migration import Outcome, Progress, migrate
from agent.plan import make_plan
from agent.stream.converter import Converter
from agent.stream.remote import Address, Credentials, RemoteConverter
from p2v.model.command import printable
from p2v.model.errors import (
    MigrationStateError,
    NoSuchMigrationError,
    P2VError,
    ToolError,
    UsageError,
)
from p2v.model.machine import Machine
from p2v.model.migration import Migration, MigrationState
from p2v.model.pairing import parse_fingerprint
from p2v.model.plan import Plan
from p2v.model.units import format_size

LINE_S = 10.0
_POWER = {"poweroff": ["systemctl", "poweroff"], "reboot": ["systemctl", "reboot"]}


def run(settings: Settings) -> int:
    """Do what `settings` say to the end; return the exit code. What happens goes to stdout.

    Raises:
        P2VError: it did not work; the command for that case has been run.
    """
    try:
        _command(settings.pre)
        settings = _with_config(settings)
        check(settings)
        if settings.server:
            network.wait_for(settings.server, settings.wait)
        code = _migrate(settings)
    except P2VError:
        _command(settings.fail)
        raise
    _command(settings.post)
    return code


def _with_config(settings: Settings) -> Settings:
    deadline = time.monotonic() + settings.wait
    while True:
        try:
            return gather.with_config(settings)
        except P2VError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _migrate(settings: Settings) -> int:
    machine = collect(settings.disks)
    plan = make_plan(machine, choose.choices(settings, machine))
    guard.protect(disk.name for disk in plan.disks)
    name = settings.id or choose.migration_id(plan.name, machine, plan)
    _say(f"migration {name}: {', '.join(disk.path for disk in plan.disks)}")
    for warning in plan.warnings:
        _say(f"warning: {warning}")
    with _target(settings) as converter:
        outcome = _carry_out(converter, name, plan, machine)
        _say(evidence.deliver(partial(converter.keep_evidence, name)) or "evidence is kept")
    counters = outcome.counters
    known = f"{format_size(counters.same)} were there already, " if counters.same else ""
    _say(
        f"migration {outcome.migration.id} is {outcome.migration.state}: "
        f"{format_size(counters.sent)} sent, {known}in {format_time(outcome.seconds)}"
    )
    for error in outcome.unreadable:
        _say(f"warning: {error} {error.way_out}")
    if outcome.migration.problem:
        _say(f"warning: {outcome.migration.problem}")
    return outcome.exit_code


def _carry_out(converter: Converter, name: str, plan: Plan, machine: Machine) -> Outcome:
    watch = _Lines()
    try:
        found = converter.get(name)
    except NoSuchMigrationError:
        for doubt in doubts_of_hosts(converter, plan):
            _say(f"warning: {doubt}")
        return migrate(converter, plan, id=name, watch=watch.show)
    _refuse_second(found)
    _say(f"going on with it: it is {found.state} since {time.ctime(found.updated)}")
    here = partial(choose.plan_here, machine=machine)
    return migrate(converter, found.plan, resume=name, here=here, watch=watch.show)


def _refuse_second(migration: Migration) -> None:
    """A machine that starts from the network again and again must not be migrated each time."""
    if migration.state is MigrationState.FINISHED:
        raise MigrationStateError(
            id=migration.id,
            state=migration.state.value,
            problem="this machine was migrated already; p2v.id=ANOTHER migrates it once more",
        )


@contextlib.contextmanager
def _target(settings: Settings) -> Iterator[Converter]:
    with contextlib.ExitStack() as stack:
        if settings.stream:
            from agent.stream.folder import FolderConverter

            folder = stack.enter_context(sticks.mounted(settings.stream, writable=True))
            if folder is None:
                raise UsageError(problem=f"no disk has a file system labelled {settings.stream}")
            yield stack.enter_context(contextlib.closing(FolderConverter(folder)))
            return
        address = Address.parse(settings.server)
        credentials = _credentials(settings, address)
        yield stack.enter_context(contextlib.closing(RemoteConverter(address, credentials)))


def _credentials(settings: Settings, address: Address) -> Credentials:
    if settings.token:
        return Credentials(parse_fingerprint(settings.fingerprint), settings.token)
    from agent.credentials import find_credentials

    os.environ["P2V_CODE"] = settings.code
    return find_credentials(address, fingerprint=settings.fingerprint)


def _command(text: str) -> None:
    """Run a command of the settings: ``poweroff``, ``reboot``, or a line for the shell.

    Raises:
        ToolError: it failed.
    """
    if not text:
        return
    argv = _POWER.get(text, ["/bin/sh", "-c", text])
    code = subprocess.run(argv, check=False).returncode
    if code:
        raise ToolError(tool=argv[0], problem=f"the command '{text}' ended with {code}")


def _say(text: str) -> None:
    print(printable(text), flush=True)


class _Lines:
    """Progress as a line now and then: for a console that may be a serial line, and a log."""

    def __init__(self) -> None:
        self._rate = Rate()
        self._next = 0.0
        self._last = ("", "")

    def show(self, state: Progress) -> None:
        """Print a line if it is time for one, or something has changed."""
        rate, left = self._rate.add(state)
        now, changed = time.monotonic(), (state.phase, state.problem)
        if now < self._next and changed == self._last:
            return
        self._next, self._last = now + LINE_S, changed
        share = 100 * state.done // max(state.total, 1)
        parts = [f"{state.phase} {share} % of {format_size(state.total)}"]
        parts += [f"{format_size(rate)}/s"] if rate else []
        parts += [f"{format_time(left)} left"] if left else []
        parts += [state.problem] if state.problem else []
        _say(", ".join(parts))
        sys.stdout.flush()
