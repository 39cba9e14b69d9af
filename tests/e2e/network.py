# SPDX-License-Identifier: GPL-3.0-or-later
"""A network between an agent and a converter that can be cut, and that loses packets.

The agent's end is in a network namespace of its own; between its cable and the converter's a
thread hands packets over, or does not.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from random import Random

from tests.e2e.running import tool

SEED = int(os.environ.get("P2V_SEED", "0")) or time.time_ns() % 1_000_000
"""Where a test's moments come from; a run that failed is repeated with P2V_SEED."""

_MTU = 9000
_ETHERNET = 14


def addresses(process: int) -> tuple[str, str]:
    """Return the ends of a network of its own for a process: several may run at a time."""
    network = IPv4Address("10.213.0.0") + 4 * (process % (1 << 14))
    return str(network + 1), str(network + 2)


class Network:
    """A cable with an end for the agent and one for the converter: their addresses.

    `loss` is the share of packets that is lost, and may be changed at any time.
    """

    def __init__(self, seed: int) -> None:
        self.loss = 0.0
        self.lost = 0
        self.carried = 0
        self.converter, self.agent = addresses(os.getpid())
        self.namespace = f"p2v-{os.getpid()}"
        self._cables = [f"{end}{os.getpid()}" for end in ("p2va", "p2vb", "p2vc", "p2vd")]
        self._random = Random(seed)
        self._stop = threading.Event()

    @property
    def prefix(self) -> list[str]:
        """What makes a command run at the agent's end."""
        return ["ip", "netns", "exec", self.namespace]

    def link(self, state: str) -> None:
        """Pull the agent's cable ("down"), or put it in again ("up")."""
        tool(*self.prefix, "ip", "link", "set", self._cables[0], state)

    @contextmanager
    def built(self) -> Iterator[Network]:
        """Build it, and take it down at the end."""
        agent, near, far, converter = self._cables
        thread = threading.Thread(target=self._carry, args=(near, far), name="network")
        try:
            tool("ip", "netns", "add", self.namespace)
            tool("ip", "link", "add", near, "type", "veth", "peer", "name", agent)
            tool("ip", "link", "add", far, "type", "veth", "peer", "name", converter)
            for cable in self._cables:
                # Checksums and cutting into packets are left to cables, and these do neither.
                tool("ethtool", "-K", cable, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
                tool("ip", "link", "set", cable, "mtu", str(_MTU))
            tool("ip", "link", "set", agent, "netns", self.namespace)
            tool("ip", "address", "add", f"{self.converter}/30", "dev", converter)
            inside = [*self.prefix, "ip"]
            tool(*inside, "address", "add", f"{self.agent}/30", "dev", agent)
            for cable in (near, far, converter):
                tool("ip", "link", "set", cable, "up")
            for cable in (agent, "lo"):
                tool(*inside, "link", "set", cable, "up")
            thread.start()
            yield self
        finally:
            self._stop.set()
            if thread.ident is not None:
                thread.join()
            tool("ip", "netns", "delete", self.namespace, codes=(0, 1))
            for cable in (near, converter):
                tool("ip", "link", "delete", cable, codes=(0, 1))

    def _carry(self, near: str, far: str) -> None:
        """Hand packets from one cable to the other, both ways."""
        every = socket.ntohs(0x0003)  # ETH_P_ALL
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every) as one,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every) as other,
        ):
            one.bind((near, 0))
            other.bind((far, 0))
            across = {one.fileno(): other, other.fileno(): one}
            own = {one.fileno(): one, other.fileno(): other}
            packet = bytearray(_MTU + _ETHERNET + 64)
            while not self._stop.is_set():
                for fd in select.select(list(own), [], [], 0.2)[0]:
                    self._hand_over(own[fd], across[fd], packet)

    def _hand_over(self, source: socket.socket, target: socket.socket, packet: bytearray) -> None:
        count, address = source.recvfrom_into(packet)
        if address[2] == socket.PACKET_OUTGOING:
            return  # what we sent ourselves
        if self._random.random() < self.loss:
            self.lost += 1
            return
        self.carried += 1
        try:
            target.send(memoryview(packet)[:count])
        except OSError:
            self.lost += 1  # the cable is pulled, or its queue is full
