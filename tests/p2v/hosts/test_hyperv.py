# SPDX-License-Identifier: GPL-3.0-or-later
"""The Hyper-V adapter behind the shell it talks to: there is no Windows here.

What the scripts do is parsed and checked in tests/p2v/script; a real host ran none of them.
"""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from importlib.resources import files

import pytest

from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.hyperv import IDLE_S, HypervHosts, Outcome
from p2v.hosts.undo import Undo, Undone
from p2v.model.errors import HostError, HostUnreachableError, UsageError
from p2v.script import hyperv as scripts
from tests.p2v.script.powershell import CMDLETS, ELSEWHERE, commands, faults, parse

GiB = 1 << 30
FACTS = (files("p2v.script") / "hyperv_facts.ps1").read_text(encoding="ascii")
ANSWER = {
    "name": "HV1",
    "version": "Microsoft Windows Server 2022 Datacenter 10.0.20348",
    "cpus": 32,
    "memory": 256 * GiB,
    "memoryUsed": 64 * GiB,
    "cpuPercent": 12.0,
    "iops": 450,
    "traffic": 1000000,
    "rate": 2.5e9,
    "storages": [
        {"path": "D:\\", "free": 500 * GiB, "total": 1000 * GiB, "shared": False},
        {"path": "C:\\ClusterStorage\\Volume1", "free": 2, "total": 3, "shared": True},
    ],
    "switches": ["LAN", "Ünïcode; 'x'"],
    "cluster": "HVC",
    "paused": False,
    "nodes": ["HV1", "HV2", "HV3"],
}
CONNECTION = Connection("hv", ConnectionKind.HYPERV, "hv1.example.com", "EXAMPLE\\admin", "secret")


class World:
    """Shells that note the scripts they are given and answer as they are told."""

    def __init__(self, **answers):
        self.answers = {"hv1.example.com": Outcome(json.dumps(ANSWER))} | answers
        self.ran = []

    def __call__(self, connection, address):
        def run(script):
            self.ran.append((address, script))
            answer = self.answers[address]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return run


def test_the_question_parses_and_asks_with_cmdlets_that_exist():
    root = parse(FACTS)
    assert not faults(root)
    found = {name for name, _ in commands(root) if "-" in name} - {"Read-Counter"}
    others = {
        "Get-CimInstance", "Get-NetAdapter", "Get-Volume", "Get-Service", "Get-ClusterNode",
        "Get-Cluster", "Get-ClusterSharedVolume", "ForEach-Object",
    }  # fmt: skip
    for year in CMDLETS.values():
        assert found <= set(year) | set(ELSEWHERE) | others


def test_a_host_is_described():
    world = World()
    (facts,) = HypervHosts(CONNECTION, world).facts()
    assert world.ran == [("hv1.example.com", FACTS)]
    assert (facts.name, facts.cpus, facts.memory) == ("HV1", 32, 256 * GiB)
    assert [s.name for s in facts.storages] == [
        "D:\\Hyper-V",
        "C:\\ClusterStorage\\Volume1\\Hyper-V",
    ]
    assert [s.shared for s in facts.storages] == [False, True]
    assert [n.name for n in facts.networks] == ["LAN", "Ünïcode; 'x'"]
    assert (facts.load.cpu_percent, facts.load.iops) == (12.0, 450.0)
    assert facts.in_cluster and not facts.maintenance


def test_all_nodes_of_a_cluster_are_asked_and_a_silent_one_is_shown_as_such():
    cluster = replace(CONNECTION, options={"cluster": "yes"})
    second = Outcome(json.dumps(ANSWER | {"name": "HV2", "paused": True}))
    silent = HostUnreachableError(host="HV3.example.com", problem="timed out")
    world = World(**{"HV2.example.com": second, "HV3.example.com": silent})
    found = HypervHosts(cluster, world).facts()
    assert [(host.name, host.maintenance, host.problem) for host in found] == [
        ("HV1", False, ""),
        ("HV2", True, ""),
        ("HV3", False, "timed out"),
    ]
    assert {host.group for host in found} == {("HVC",)}


@pytest.mark.parametrize(
    "output", ["", "no json", "[]", "{}", '{"name": "x"}', json.dumps(ANSWER | {"cpus": "many"})]
)
def test_an_answer_that_makes_no_sense_is_an_error(output):
    with pytest.raises(HostError, match="answer"):
        HypervHosts(CONNECTION, World(**{"hv1.example.com": Outcome(output)})).facts()


def test_what_is_shown_is_what_runs(order):
    made = Outcome('VERBOSE: x\n{"name":"web01","id":"11-22"}\n')
    world = World(**{"hv1.example.com": made})
    undo = Undo()
    assert HypervHosts(CONNECTION, world).create("HV1", order, [], undo) == "11-22"
    assert world.ran == [("hv1.example.com", scripts.script(order))]
    (undone,) = undo.run()
    assert order.vm.name in undone.what
    assert world.ran[1] == ("hv1.example.com", scripts.removal(order))


def test_a_node_is_spoken_to_itself(order):
    made = Outcome('{"id":"1"}')
    world = World(**{"HV2.example.com": made})
    cluster = replace(CONNECTION, options={"cluster": "yes"})
    HypervHosts(cluster, world).create("HV2", order, [], Undo())
    assert world.ran[0][0] == "HV2.example.com"


def test_what_the_script_took_back_is_reported(order):
    failed = Outcome(
        "",
        ("Undone: the virtual machine web01", "Not undone: the image D:\\x: in use", "Else"),
        "There is no one switch named 'LAN'.",
    )
    undo = Undo()
    with pytest.raises(HostError, match="no one switch"):
        HypervHosts(CONNECTION, World(**{"hv1.example.com": failed})).create("HV1", order, [], undo)
    assert undo.run() == (
        Undone("the virtual machine web01"),
        Undone("the image D:\\x", "in use"),
    )


def test_what_a_lost_connection_leaves_is_removed_when_nothing_runs_there(order, monkeypatch):
    waited = []
    monkeypatch.setattr("p2v.hosts.hyperv.sleep", waited.append)
    world = World(
        **{"hv1.example.com": HostUnreachableError(host="hv1.example.com", problem="reset")}
    )
    undo = Undo()
    with pytest.raises(HostUnreachableError):
        HypervHosts(CONNECTION, world).create("HV1", order, [], undo)
    world.answers["hv1.example.com"] = Outcome("")
    (undone,) = undo.run()
    assert not undone.problem
    assert world.ran[-1] == ("hv1.example.com", scripts.removal(order))
    assert waited == [IDLE_S + 10]


def test_the_removal_parses_and_touches_only_its_own(order):
    text = scripts.removal(order)
    assert not faults(parse(text))
    assert "-contains $vm.Notes" in text


def test_nobody_there_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    there = replace(CONNECTION, address="127.0.0.1", options={"port": str(port), "tls": "no"})
    with pytest.raises(HostUnreachableError):
        connect(there).facts()


@pytest.mark.parametrize("options", [{"port": "many"}, {"autn": "ntlm"}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        connect(replace(CONNECTION, options=options)).facts()


def test_a_cluster_is_not_asked_for_by_a_number():
    with pytest.raises(UsageError, match="by name"):
        connect(replace(CONNECTION, address="10.0.0.5", options={"cluster": "yes"}))
