# SPDX-License-Identifier: GPL-3.0-or-later
"""Hyper-V over WinRM: Windows Server 2016 and later, hosts and failover clusters.

All that is done is done by the scripts of `p2v.script.hyperv`, as `p2v script` shows them. Images
are not sent: the host fetches them by the links in the script.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from time import sleep
from typing import Any

import requests
from pypsrp.client import Client
from pypsrp.exceptions import AuthenticationError, WinRMError, WinRMTransportError, WSManFaultError
from pypsrp.powershell import PowerShell, RunspacePool

from p2v.hosts.connection import Connection
from p2v.hosts.pinned import mount, tls_context
from p2v.hosts.sending import Sent, unheard
from p2v.hosts.undo import Undo, Undone
from p2v.model.errors import HostError, HostUnreachableError, UsageError
from p2v.model.host import (
    HostFacts,
    HostLimits,
    HostLoad,
    HostNetwork,
    HostStorage,
    HypervisorKind,
)
from p2v.model.order import Order
from p2v.model.units import TiB
from p2v.script import hyperv as scripts

_OPTIONS = {"port", "auth", "tls", "cluster", "folder"}
IDLE_S = 60
"""How long a script runs on when its converter is gone; Windows allows no less."""
_PORTS = {True: 5986, False: 5985}
_FAILURES = (WinRMError, WinRMTransportError, WSManFaultError, requests.RequestException, OSError)
logging.getLogger("pypsrp").setLevel(logging.WARNING)  # it tells scripts, and so one-time links
_UNDONE = "Undone: "
_NOT_UNDONE = "Not undone: "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a script printed, what it warned of, and why it failed, if it did."""

    output: str
    warnings: tuple[str, ...] = ()
    error: str = ""


Shell = Callable[[str], Outcome]
"""Runs a script on a host."""


def connect(connection: Connection) -> HypervHosts:
    """Open a WinRM connection to the host, or with ``cluster=yes`` to each node of its cluster.

    Options: ``auth`` (negotiate, kerberos, ntlm, credssp, basic), ``tls`` (yes, no: then messages
    are encrypted by the authentication), ``port``, ``folder`` (of virtual machines on a volume).

    Raises:
        HostUnreachableError: it does not answer, or refuses the user.
        UsageError: an option makes no sense.
    """
    connection.check_options(_OPTIONS)
    if _is_cluster(connection) and _is_number(connection.address):
        problem = f"a cluster's nodes are known by name: {connection.address} has no domain"
        raise UsageError(problem=problem)
    return HypervHosts(connection, _shell)


def _shell(connection: Connection, address: str) -> Shell:
    options = connection.options
    tls = options.get("tls", "yes") == "yes"
    port = _number(options.get("port", str(_PORTS[tls])))
    client = Client(
        address,
        port=port,
        ssl=tls,
        username=connection.user,
        password=connection.secret,
        auth=options.get("auth", "negotiate"),
        encryption="auto" if tls else "always",
    )
    if tls:
        transport = client.wsman.transport
        # The session is made at first use otherwise, and checks by files of authorities only.
        transport.session = transport._build_session()
        mount(transport.session, tls_context(connection, address, port))

    def run(script: str) -> Outcome:
        # Its strings come as they are, where Client.execute_ps has them formatted for a screen.
        try:
            with RunspacePool(client.wsman, idle_timeout=IDLE_S) as pool:
                shell = PowerShell(pool)
                shell.add_script(script)
                output = [str(each) for each in shell.invoke()]
        except AuthenticationError:
            problem = f"it refuses the user '{connection.user}' with this password"
            raise HostUnreachableError(host=address, problem=problem) from None
        except _FAILURES as error:
            raise HostUnreachableError(host=address, problem=str(error)) from None
        warnings = tuple(str(warning.message) for warning in shell.streams.warning)
        errors = shell.streams.error
        words = str(errors[-1]) if errors else "it failed without a word"
        return Outcome("\n".join(output), warnings, words if shell.had_errors else "")

    return run


class HypervHosts:
    """A host, or the nodes of a cluster; `shell` opens a shell at an address."""

    def __init__(self, connection: Connection, shell: Callable[[Connection, str], Shell]) -> None:
        self._connection = connection
        self._open = shell
        self._shells: dict[str, Shell] = {}

    def close(self) -> None:
        """Do nothing: each script has a connection of its own."""

    def facts(self) -> Sequence[HostFacts]:
        """Return the host, or all nodes of the cluster that answer."""
        first = self._ask(self._connection.address)
        found = [self._facts(first)]
        if _is_cluster(self._connection):
            for node in first["nodes"]:
                if node.upper() != first["name"].upper():
                    found.append(self._node(node, self._address(node), first["cluster"]))
        return found

    def create(
        self, host: str, order: Order, images: Sequence[Path], undo: Undo, sent: Sent = unheard
    ) -> str:
        """Run the script of the order; it undoes itself where it fails, and says what."""
        what, remove = f"the virtual machine {order.vm.name}", partial(self.remove, host, order)
        try:
            outcome = self._run(host, scripts.script(order), undo)
        except HostUnreachableError:
            # The script may run on over there, until Windows finds that nobody listens.
            undo.later(f"{what}, as far as it was made", partial(_when_over, remove))
            raise
        try:
            id_ = str(json.loads(outcome.output.strip().splitlines()[-1])["id"])
        except (ValueError, IndexError, KeyError, TypeError):
            problem = f"its answer makes no sense: {outcome.output[-200:]!r}"
            raise HostError(host=host, problem=problem) from None
        undo.later(what, remove)
        return id_

    def power_on(self, host: str, id_: str) -> None:
        """Do nothing: the script of the order starts the machine where that is wanted."""

    def remove(self, host: str, order: Order) -> None:
        """Remove the virtual machine and its folder."""
        self._run(host, scripts.removal(order), Undo())

    # --- inside

    def _run(self, host: str, script: str, undo: Undo) -> Outcome:
        outcome = self._at(self._address(host))(script)
        for warning in outcome.warnings:
            if warning.startswith(_UNDONE):
                undo.done(Undone(warning.removeprefix(_UNDONE)))
            elif warning.startswith(_NOT_UNDONE):
                what, _, why = warning.removeprefix(_NOT_UNDONE).partition(": ")
                undo.done(Undone(what, why or "no reason was given"))
        if outcome.error:
            raise HostError(host=host, problem=outcome.error)
        return outcome

    def _address(self, host: str) -> str:
        """Return where a host that `facts` named is reached."""
        if not _is_cluster(self._connection):
            return self._connection.address
        short, _, domain = self._connection.address.partition(".")
        if host.upper() == short.upper():
            return self._connection.address
        return f"{host}.{domain}" if domain else host

    def _at(self, address: str) -> Shell:
        if address not in self._shells:
            self._shells[address] = self._open(self._connection, address)
        return self._shells[address]

    def _ask(self, address: str) -> dict[str, Any]:
        outcome = self._at(address)(
            (files("p2v.script") / "hyperv_facts.ps1").read_text(encoding="ascii")
        )
        if outcome.error:
            raise HostError(host=address, problem=outcome.error)
        try:
            found = json.loads(outcome.output)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            problem = f"its answer makes no sense: {outcome.output[:200]!r}"
            raise HostError(host=address, problem=problem)
        return found

    def _node(self, name: str, address: str, cluster: str) -> HostFacts:
        """Return a node's facts; of one that does not answer, why."""
        try:
            return self._facts(self._ask(address))
        except (HostError, HostUnreachableError) as error:
            problem = error.fields["problem"]
            return HostFacts(name, HypervisorKind.HYPERV, 0, 0, group=(cluster,), problem=problem)

    def _facts(self, found: dict[str, Any]) -> HostFacts:
        folder = self._connection.options.get("folder", "Hyper-V")
        try:
            return HostFacts(
                name=found["name"],
                hypervisor=HypervisorKind.HYPERV,
                cpus=int(found["cpus"]),
                memory=int(found["memory"]),
                version=found["version"],
                group=(found["cluster"],) if found["cluster"] else (),
                storages=tuple(_storages(found["storages"], folder)),
                networks=tuple(HostNetwork(name) for name in found["switches"]),
                load=HostLoad(
                    cpu_percent=float(found["cpuPercent"] or 0.0),
                    memory_used=int(found["memoryUsed"]),
                    iops=float(found["iops"] or 0.0),
                    network_bytes=float(found["traffic"]),
                ),
                limits=HostLimits(cpus=240, memory=12 * TiB, disk=64 * TiB, sectors=(512, 4096)),
                network_rate=float(found["rate"]),
                in_cluster=bool(found["cluster"]),
                maintenance=bool(found["paused"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            problem = f"its answer lacks or distorts {error}"
            raise HostError(host=self._connection.address, problem=problem) from None


def _when_over(remove: Callable[[], None]) -> None:
    sleep(IDLE_S + 10)
    remove()


def _storages(found: Sequence[dict[str, Any]], folder: str) -> Iterator[HostStorage]:
    for each in found:
        path = f"{each['path'].rstrip(chr(92))}\\{folder}"
        yield HostStorage(path, int(each["free"]), int(each["total"]), bool(each["shared"]))


def _is_cluster(connection: Connection) -> bool:
    return connection.options.get("cluster") == "yes"


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def _number(text: str) -> int:
    if not text.isdigit():
        raise UsageError(problem=f"option port is '{text}', no number")
    return int(text)
