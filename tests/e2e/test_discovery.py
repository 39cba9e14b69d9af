# SPDX-License-Identifier: GPL-3.0-or-later
"""A converter is heard of at the other end of a network, by real multicast."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from p2v.service.announce import announced
from tests.e2e.running import Converter, run

pytestmark = pytest.mark.root

LISTEN = """
import sys, time
from agent.discovery import Discovery
listening = Discovery(lambda found: print(found.address, found.name, flush=True), [sys.argv[1]])
time.sleep(float(sys.argv[2]))
listening.close()
"""


def heard(network, seconds: float) -> list[str]:
    """What a listener at the agent's end hears."""
    words = [*network.prefix, sys.executable, "-c", LISTEN, network.agent, str(seconds)]
    return run(words).out.splitlines()


def announcing(found: list[str], converter: Converter) -> list[str]:
    """The addresses among those heard of that are `converter`'s: this machine may have others."""
    addresses = [line.split()[0] for line in found]
    return [each for each in addresses if each.endswith(f":{converter.port}")]


def test_a_converter_is_heard_of_at_the_address_where_it_listens(network, far_away):
    converter, _ = far_away
    found = announcing(heard(network, 8), converter)
    assert found == [f"https://{network.converter}:{converter.port}"]


def test_a_converter_that_is_to_keep_silent_does(network, tmp_path):
    converter = Converter(tmp_path / "data", words=("--no-announce",))
    converter.host = network.converter
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(heard, network, 8)
        converter.start()
        assert announcing(listening.result(), converter) == []
    converter.stop()


def test_a_loopback_is_not_announced():
    assert announced("127.0.0.1") == [] == announced("::1")
