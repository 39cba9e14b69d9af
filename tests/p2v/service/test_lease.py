# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import threading

import pytest

from p2v.model.errors import MigrationBusyError, MigrationStateError
from p2v.service import lease as lease_module
from p2v.service.lease import GRACE_S, Lease


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lease(clock):
    return Lease("web01-1", clock)


def test_a_second_agent_is_told_who_has_it_and_for_how_long(lease, clock):
    lease.take("agent-a")
    clock.now += 5
    with pytest.raises(MigrationBusyError) as caught:
        lease.take("agent-b")
    told = {"id": "web01-1", "agent": "agent-a", "seconds": 10, "connections": 0}
    assert caught.value.fields == told


def test_a_silent_holder_loses_it_after_the_grace(lease, clock):
    old = lease.take("agent-a")
    clock.now += GRACE_S
    new = lease.take("agent-b")
    assert new != old
    with pytest.raises(MigrationBusyError, match="agent-b"):
        lease.join(old)


def test_a_heartbeat_keeps_it(lease, clock):
    token = lease.take("agent-a")
    clock.now += GRACE_S - 1
    lease.check(token)
    clock.now += GRACE_S - 1
    with pytest.raises(MigrationBusyError):
        lease.take("agent-b")


def test_an_open_connection_keeps_it_however_long(lease, clock):
    lease.join(lease.take("agent-a"))
    clock.now += 1_000_000
    with pytest.raises(MigrationBusyError):
        lease.take("agent-b")


def test_the_grace_begins_when_the_last_connection_ends(lease, clock):
    token = lease.take("agent-a")
    lease.join(token)
    clock.now += 100
    lease.leave()
    clock.now += GRACE_S - 1
    with pytest.raises(MigrationBusyError):
        lease.take("agent-b")
    clock.now += 1
    lease.take("agent-b")


def test_the_same_agent_takes_it_anew_and_its_old_connections_end(lease):
    old = lease.take("agent-a")
    ended = threading.Event()

    def hang_up():
        ended.set()
        threading.Thread(target=lease.leave, args=(hang_up,)).start()

    lease.join(old, hang_up)
    new = lease.take("agent-a")
    assert ended.is_set() and lease.connections == 0
    lease.join(new)
    with pytest.raises(MigrationBusyError):
        lease.join(old)


def test_a_connection_is_let_in_only_when_the_earlier_one_of_its_lane_has_ended(lease):
    token = lease.take("agent-a")
    order = []

    def hang_up():
        def end():
            order.append("ended")
            lease.leave(hang_up)

        threading.Timer(0.1, end).start()

    lease.join(token, hang_up, "1")
    lease.join(token, None, "2")
    lease.join(token, lambda: None, "1")
    order.append("let in")
    assert order == ["ended", "let in"] and lease.connections == 2


def test_a_lane_whose_earlier_connection_will_not_end_is_kept_out(lease, monkeypatch):
    monkeypatch.setattr(lease_module, "HANG_UP_S", 0.05)
    token = lease.take("agent-a")
    lease.join(token, lambda: None, "1")
    with pytest.raises(MigrationBusyError):
        lease.join(token, lambda: None, "1")
    assert lease.connections == 1


def test_connections_without_a_lane_stand_side_by_side(lease):
    token = lease.take("agent-a")
    lease.join(token)
    lease.join(token)
    assert lease.connections == 2


def test_an_old_connection_that_will_not_end_keeps_the_new_life_out(lease, monkeypatch):
    monkeypatch.setattr(lease_module, "HANG_UP_S", 0.05)
    lease.join(lease.take("agent-a"))
    with pytest.raises(MigrationBusyError):
        lease.take("agent-a")


def test_a_released_lease_is_free_at_once(lease):
    token = lease.take("agent-a")
    lease.release(token)
    assert lease.agent == ""
    lease.take("agent-b")


def test_a_lease_from_before_a_restart_must_be_taken_again(lease):
    with pytest.raises(MigrationStateError, match="take its lease again"):
        lease.join("a-token-of-an-earlier-process")


def test_a_holder_whose_grace_ran_out_goes_on_if_nobody_came(lease, clock):
    token = lease.take("agent-a")
    clock.now += 10 * GRACE_S
    lease.join(token)
    assert lease.agent == "agent-a"
