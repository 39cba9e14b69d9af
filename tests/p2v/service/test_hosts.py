# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts in the store, measured, and rated; their adapters answer from memory."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from p2v.hosts.connection import Connection, ConnectionKind
from p2v.model.errors import (
    HostUnreachableError,
    NoSuchHostError,
    NoSuitableHostError,
    StoreError,
    UsageError,
)
from p2v.model.host import HostFacts, HostLoad, HostNetwork, HostStorage, HypervisorKind
from p2v.model.plan import Plan, PlannedDisk
from p2v.model.rating import Reason
from p2v.model.vm import VmSettings
from p2v.service import tables
from p2v.service.hosts import STALE_S, Hosts
from p2v.service.hoststore import HostStore
from p2v.service.secretbox import KEY_NAME, SecretBox
from p2v.service.store import Store, default_url

GiB = 1 << 30
SECRET = "hunter2-Öffnen"
PLAN = Plan(
    "web01", (PlannedDisk("sda", "/dev/sda", 10 * GiB),), vm=VmSettings(cpus=2, memory=8 * GiB)
)


def facts(name="hv1", **changes):
    return replace(
        HostFacts(
            name,
            HypervisorKind.HYPERV,
            cpus=16,
            memory=64 * GiB,
            storages=(HostStorage("D:", 100 * GiB),),
            networks=(HostNetwork("LAN"),),
        ),
        **changes,
    )


class World:
    """What hosts there are, and whether they answer."""

    def __init__(self):
        self.hosts = [facts()]
        self.problem = None
        self.asked = []

    def __call__(self, connection):
        self.asked.append(connection)
        return self

    def facts(self):
        if self.problem:
            raise self.problem
        return self.hosts

    def close(self):
        pass


@pytest.fixture
def world():
    return World()


@pytest.fixture
def store(tmp_path):
    store = Store(default_url(tmp_path))
    yield store
    store.close()


@pytest.fixture
def hosts(tmp_path, store, world):
    return Hosts(HostStore(store, SecretBox(tmp_path)), world)


CONNECTION = Connection(
    "cluster1",
    ConnectionKind.HYPERV,
    "hv1.example",
    "admin",
    SECRET,
    options={"transport": "ntlm"},
    group=("Berlin",),
    max_iops=5000.0,
)


def test_a_connection_is_kept_with_its_secret(hosts, world):
    hosts.add(CONNECTION)
    assert hosts.connections() == [CONNECTION]
    hosts.sample()
    assert world.asked[-1].secret == SECRET


def test_the_secret_is_nowhere_in_clear(hosts, store, tmp_path, caplog, capfd):
    hosts.add(CONNECTION)
    hosts.sample()
    store.close()
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert SECRET.encode() not in content and b"hunter2" not in content, path
    assert SECRET not in repr(CONNECTION) + caplog.text + "".join(capfd.readouterr())
    assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600


def test_a_secret_of_another_key_is_an_error_with_a_way_out(tmp_path, hosts, store, world):
    hosts.add(CONNECTION)
    (tmp_path / KEY_NAME).unlink()
    other = Hosts(HostStore(store, SecretBox(tmp_path)), world)
    with pytest.raises(StoreError, match="add the host anew"):
        other.connections()


def test_a_connection_that_does_not_answer_is_not_added(hosts, world):
    world.problem = HostUnreachableError(host="cluster1", problem="no route")
    with pytest.raises(HostUnreachableError):
        hosts.add(CONNECTION)
    assert hosts.connections() == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "a" * 65, "ü"])
def test_a_name_that_can_not_be_is_refused(hosts, name):
    with pytest.raises(UsageError):
        hosts.add(replace(CONNECTION, name=name))


@pytest.mark.parametrize(
    "address", ["qemu+libssh2://root:hunter2@kvm1/system", "admin:hunter2@vc.example"]
)
def test_a_password_in_the_address_is_refused_unseen(hosts, world, address):
    with pytest.raises(UsageError, match="give it apart") as error:
        hosts.add(replace(CONNECTION, address=address))
    assert "hunter2" not in str(error.value) and world.asked == []


@pytest.mark.parametrize(
    "address", ["qemu+ssh://root@kvm1:2222/system", "vc.example:443", "[fe80::1]:443", "/a:b@c"]
)
def test_other_addresses_are_none_with_a_password(hosts, address):
    hosts.add(replace(CONNECTION, address=address))


def test_what_the_owner_says_is_part_of_the_facts(hosts):
    (host,) = hosts.add(CONNECTION)
    assert (host.facts.group, host.facts.max_iops) == (("Berlin",), 5000.0)


def test_the_load_is_averaged_over_the_measurements(hosts, world):
    hosts.add(CONNECTION)
    for percent in (30.0, 60.0):
        world.hosts = [facts(load=HostLoad(percent, 6 * GiB, 10, 20))]
        hosts.sample()
    (host,) = hosts.known()
    assert host.samples == 3
    assert host.facts.load == HostLoad(30.0, 4 * GiB, 10 * 2 / 3, 20 * 2 / 3)


def test_a_new_machine_starts_the_average_anew(hosts, world):
    world.hosts = [facts(load=HostLoad(90.0))]
    hosts.add(CONNECTION)
    hosts.changed(hosts.known()[0])
    world.hosts = [facts(load=HostLoad(10.0))]
    hosts.sample()
    (host,) = hosts.known()
    assert (host.samples, host.facts.load.cpu_percent) == (1, 10.0)


def test_a_host_that_went_away_is_not_rated_from_what_was_known(hosts, world):
    hosts.add(CONNECTION)
    assert hosts.rate(PLAN)[0].stars > 0
    world.problem = HostUnreachableError(host="cluster1", problem="no route")
    hosts.sample()
    (rating,) = hosts.rate(PLAN)
    assert rating.stars == 0 and rating.reasons[0].code is Reason.SILENT
    assert "no route" in rating.reasons[0].text
    world.problem = None
    hosts.sample()
    assert hosts.rate(PLAN)[0].stars > 0


def test_facts_that_are_too_old_are_not_rated_even_if_nothing_failed(hosts, store):
    hosts.add(CONNECTION)
    with store.change() as db:
        db.execute(sa.update(tables.host_facts).values(at=time.time() - STALE_S - 60))
    assert hosts.rate(PLAN)[0].reasons[0].code is Reason.SILENT


def test_a_host_that_left_its_cluster_is_forgotten(hosts, world):
    world.hosts = [facts("hv1"), facts("hv2")]
    hosts.add(CONNECTION)
    world.hosts = [facts("hv2")]
    hosts.sample()
    assert [host.facts.name for host in hosts.known()] == ["hv2"]


def test_one_broken_adapter_does_not_keep_the_others_from_being_measured(tmp_path, store):
    broken = replace(CONNECTION, name="broken")
    good = World()

    def connecting(connection):
        if connection.name == "broken" and armed:
            raise ZeroDivisionError
        return good

    armed = []
    hosts = Hosts(HostStore(store, SecretBox(tmp_path)), connecting)
    hosts.add(broken)
    hosts.add(CONNECTION)
    armed.append(True)
    hosts.sample()
    assert set(hosts.problems()) == {"broken"}
    assert {host.connection: host.samples for host in hosts.known()} == {"broken": 1, "cluster1": 2}


def test_a_removed_connection_leaves_nothing(hosts, store):
    hosts.add(CONNECTION)
    hosts.remove("cluster1")
    assert (hosts.connections(), hosts.known()) == ([], [])
    with store.query() as db:
        assert db.execute(sa.select(tables.host_samples)).all() == []
    with pytest.raises(NoSuchHostError):
        hosts.remove("cluster1")


def test_the_best_host_is_chosen_unless_one_is_named(hosts, world):
    world.hosts = [facts("busy", load=HostLoad(80.0)), facts("idle")]
    hosts.add(CONNECTION)
    assert hosts.choose(PLAN)[0].facts.name == "idle"
    named = replace(PLAN, vm=replace(PLAN.vm, host="busy"))
    assert hosts.choose(named)[0].facts.name == "busy"
    with pytest.raises(NoSuchHostError):
        hosts.choose(replace(PLAN, vm=replace(PLAN.vm, host="gone")))


def test_hosts_of_the_same_name_are_told_apart(hosts, world):
    hosts.add(CONNECTION)
    world.hosts = [facts(load=HostLoad(80.0))]
    hosts.add(replace(CONNECTION, name="cluster2"))
    assert [each.host for each in hosts.rate(PLAN)] == ["cluster1/hv1", "cluster2/hv1"]
    assert hosts.choose(PLAN)[0].connection == "cluster1"
    chosen = replace(PLAN, vm=replace(PLAN.vm, host="cluster2/hv1"))
    assert hosts.choose(chosen)[0].connection == "cluster2"
    with pytest.raises(UsageError, match="which 'hv1': cluster1/hv1 or cluster2/hv1"):
        hosts.choose(replace(PLAN, vm=replace(PLAN.vm, host="hv1")))


def test_the_hosts_of_a_group_are_those_below_it(hosts, world):
    world.hosts = [facts("a", group=("lab",)), facts("b", group=("lab", "c1")), facts("c")]
    hosts.add(CONNECTION)

    def found(*group):
        return [rating.host for rating in hosts.rate(PLAN, group=group)]

    assert sorted(found("Berlin")) == ["a", "b", "c"]
    assert sorted(found("Berlin", "lab")) == ["a", "b"]
    assert found("Berlin", "lab", "c1") == ["b"]
    assert found("Ber") == []


def test_a_silent_host_of_a_cluster_keeps_its_facts_and_is_not_rated(hosts, world):
    world.hosts = [facts(load=HostLoad(30.0))]
    hosts.add(CONNECTION)
    (before,) = hosts.known()
    world.hosts = [HostFacts("hv1", HypervisorKind.HYPERV, 0, 0, problem="timed out")]
    hosts.sample()
    (host,) = hosts.known()
    assert (host.problem, host.facts.cpus, host.at) == ("timed out", 16, before.at)
    assert (host.samples, host.facts.load.cpu_percent) == (1, 30.0), "nothing is averaged in"
    (rating,) = hosts.rate(PLAN)
    assert rating.reasons[0].code is Reason.SILENT and "timed out" in rating.reasons[0].text
    world.hosts = [facts()]
    hosts.sample()
    assert hosts.known()[0].problem == "" and hosts.rate(PLAN)[0].stars


def test_a_host_that_never_answered_is_shown_too(hosts, world):
    world.hosts = [facts(), HostFacts("hv2", HypervisorKind.HYPERV, 0, 0, problem="no route")]
    hosts.add(CONNECTION)
    assert {each.facts.name: each.samples for each in hosts.known()} == {"hv1": 1, "hv2": 0}
    assert hosts.rate(PLAN)[-1].reasons[0].code is Reason.SILENT


def test_nothing_is_chosen_where_no_host_has_a_star(hosts, world):
    with pytest.raises(NoSuitableHostError, match="knows no host"):
        hosts.choose(PLAN)
    world.hosts = [facts(maintenance=True)]
    hosts.add(CONNECTION)
    with pytest.raises(NoSuitableHostError, match="maintenance"):
        hosts.choose(PLAN)
