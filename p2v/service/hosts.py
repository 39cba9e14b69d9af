# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts of one converter: who they are, what they do, and how well they suit a plan."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from p2v.hosts.base import Adapter, connect
from p2v.hosts.connection import Connection
from p2v.model.errors import NoSuchHostError, NoSuitableHostError, P2VError, UsageError
from p2v.model.host import HostFacts
from p2v.model.plan import Plan
from p2v.model.rating import Rating
from p2v.placement.demand import settings
from p2v.placement.rate import Candidate, Policy, rank
from p2v.service.hoststore import HostStore, KnownHost

log = logging.getLogger(__name__)

SAMPLE_S = 600.0
"""How often hosts are measured, as SCVMM does."""
STALE_S = 2.5 * SAMPLE_S
"""Facts older than this are of a host that does not answer, even if nobody said so."""
_WORKERS = 8
_PASSWORD = re.compile(r"^([\w+.-]+://)?[^/@:]*:[^/@]*@")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Hosts:
    """The registry. Thread-safe; each use of a host opens a connection of its own."""

    def __init__(
        self, store: HostStore, connecting: Callable[[Connection], Adapter] = connect
    ) -> None:
        self._store = store
        self._connect = connecting
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample_on, name="host-samples", daemon=True)

    def start(self) -> None:
        """Measure all hosts from now on, every ten minutes."""
        self._sampler.start()

    def stop(self) -> None:
        """Measure no more; a measurement under way is not waited for."""
        self._stop.set()

    # --- connections

    def add(self, connection: Connection) -> Sequence[KnownHost]:
        """Add or replace a connection that answers; return its hosts.

        Raises:
            HostUnreachableError, HostError: it does not answer; nothing is kept.
            UsageError: its name or its options make no sense.
        """
        if not _NAME.fullmatch(connection.name):
            raise UsageError(
                problem=f"'{connection.name}' can't name a host: letters, digits, '.', '_' and '-'"
            )
        if _PASSWORD.search(connection.address):
            raise UsageError(
                problem="the address has a password in it, which everybody would see; give it apart"
            )
        found = self._ask(connection)
        self._store.put(connection)
        self._store.seen(connection.name, found)
        return [each for each in self._store.known() if each.connection == connection.name]

    def remove(self, name: str) -> None:
        """Forget a connection and all that is known through it.

        Raises:
            NoSuchHostError: there is none.
        """
        if not self._store.remove(name):
            raise NoSuchHostError(host=name)

    def connections(self) -> list[Connection]:
        """Return all connections, by name."""
        return self._store.connections()

    def known(self) -> list[KnownHost]:
        """Return all hosts as they were last seen."""
        return self._store.known()

    def problems(self) -> dict[str, str]:
        """Return why connections don't answer, by name."""
        return self._store.problems()

    def named(self, name: str) -> KnownHost:
        """Return the host that is called so, or ``CONNECTION/NAME``.

        Raises:
            NoSuchHostError: there is none.
            UsageError: there are several.
        """
        found = {key: each for key, each in self._called().items() if _is(each, name)}
        if not found:
            raise NoSuchHostError(host=name)
        if len(found) > 1:
            raise UsageError(problem=f"which '{name}': {' or '.join(sorted(found))}")
        return next(iter(found.values()))

    def name_of(self, host: KnownHost) -> str:
        """Return by what a host is found again."""
        return next(key for key, each in self._called().items() if each.key == host.key)

    def _called(self) -> dict[str, KnownHost]:
        """Return all hosts by name: ``CONNECTION/NAME`` where several have the same."""
        known = self.known()
        count = Counter(each.facts.name for each in known)
        return {
            each.facts.name if count[each.facts.name] == 1 else "/".join(each.key): each
            for each in known
        }

    def open(self, host: KnownHost) -> Adapter:
        """Open the connection through which a host is known.

        Raises:
            NoSuchHostError: it was removed.
            HostUnreachableError: it does not answer.
        """
        for connection in self._store.connections():
            if connection.name == host.connection:
                return self._connect(connection)
        raise NoSuchHostError(host=host.connection)

    def changed(self, host: KnownHost) -> None:
        """Average the host's load anew: a machine was made on it."""
        self._store.reset(host.connection, host.facts.name)

    # --- measuring

    def sample(self) -> None:
        """Measure all hosts, several at a time."""
        found = self._store.connections()
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="host-sample") as workers:
            list(workers.map(self._sample, found))

    def _sample(self, connection: Connection) -> None:
        try:
            found = self._ask(connection)
        except P2VError as error:
            log.info("host %s: %s", connection.name, error)
            self._store.unseen(connection.name, str(error))
        except Exception as error:  # an adapter's mistake is no reason to measure no other
            log.exception("host %s: the adapter failed", connection.name)
            self._store.unseen(connection.name, f"the adapter failed: {error!r}")
        else:
            self._store.seen(connection.name, found)

    def _sample_on(self) -> None:
        while not self._stop.is_set():
            try:
                self.sample()
            except P2VError as error:
                log.warning("hosts are not measured: %s", error)
            self._stop.wait(SAMPLE_S)

    def _ask(self, connection: Connection) -> list[HostFacts]:
        adapter = self._connect(connection)
        try:
            return [connection.owned(facts) for facts in adapter.facts()]
        finally:
            adapter.close()

    # --- placing

    def rate(
        self, plan: Plan, policy: Policy | None = None, group: Sequence[str] = ()
    ) -> tuple[Rating, ...]:
        """Return the ratings of the hosts in `group` and below for the plan's machine, best first.

        Raises:
            UsageError: the plan asks for no virtual machine, or the policy makes no sense.
        """
        found = self._called().items()
        wanted = tuple(group)
        return rank(
            plan,
            [
                _candidate(name, each)
                for name, each in found
                if each.facts.group[: len(wanted)] == wanted
            ],
            policy,
        )

    def choose(self, plan: Plan) -> tuple[KnownHost, Rating]:
        """Return the host that the plan names, else the one with the most stars.

        Raises:
            NoSuchHostError: the named one is not known.
            UsageError: several are named so.
            NoSuitableHostError: it, or every host, gets no star.
        """
        wanted = settings(plan).host
        name = settings(plan).name or plan.name
        hosts = self._called()
        if wanted:
            host = self.named(wanted)
            hosts = {key: each for key, each in hosts.items() if each.key == host.key}
        ratings = rank(plan, [_candidate(*each) for each in hosts.items()])
        if not ratings:
            raise NoSuitableHostError(name=name, problem="this converter knows no host")
        best = ratings[0]
        if not best.stars:
            why = "; ".join(reason.text for reason in best.reasons)
            problem = f"{best.host}: {why}" if wanted else f"the nearest is {best.host}: {why}"
            raise NoSuitableHostError(name=name, problem=problem)
        return hosts[best.host], best


def _is(host: KnownHost, name: str) -> bool:
    return name in (host.facts.name, "/".join(host.key))


def _candidate(name: str, host: KnownHost) -> Candidate:
    age = max(time.time() - host.at, 0.0)
    problem = host.problem
    if not problem and age > STALE_S:
        problem = f"it was last measured {age / 60:.0f} minutes ago"
    return Candidate(replace(host.facts, name=name), problem, age, host.samples)
