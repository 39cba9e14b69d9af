# SPDX-License-Identifier: GPL-3.0-or-later
"""The live image's network set-up against the real systemd-networkd, in namespaces of its own.

A VLAN is not made: the kernel has none; nor is a lease by DHCP: there is no server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

WIRED = Path(__file__).parents[2] / "iso/root/etc/systemd/network/80-wired.network"
SCRIPT = """
set -e
mount --make-rprivate /
mount -t sysfs -o ro sysfs /sys  # networkd then does not wait for udev
mount -t tmpfs run /run
mkdir -p /run/dbus /run/systemd/network
ip link set lo up
ip link add eno1 type veth peer name switch
ip link set switch up
dbus-daemon --system --fork --nopidfile
cp "$1" /run/systemd/network/
/lib/systemd/systemd-networkd >"$2" 2>&1 &
timeout 30 sh -c 'until grep -q "Enumeration completed" "$0"; do sleep 0.2; done' "$2"
exec "$3" -c "$4"
"""
APPLY = """
import json, time
from agent.appliance import network
from agent.appliance.settings import Settings
from agent.inventory.nics import read_nics

def found():
    return next(nic.addresses for nic in read_nics() if nic.name == "eno1")

def after(settings, wanted):
    network.replace(settings)
    deadline = time.monotonic() + 20
    while found() != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    return found()

one, two = ("192.0.2.20/24",), ("198.51.100.7/24",)
seen = [
    after(Settings(interface="eno1", ip=one[0] + ",192.0.2.1,192.0.2.53"), one),
    after(Settings(interface="eno1", ip=two[0]), two),
    after(Settings(), ()),
]
print(json.dumps(seen))
"""


def test_networkd_takes_an_address_then_another_and_gives_it_back(tmp_path):
    apart = ["unshare", "--mount", "--net", "--pid", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*apart, "bash", "-c", SCRIPT, "networkd", WIRED, tmp_path / "log", sys.executable, APPLY],
        capture_output=True, text=True, timeout=110, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()
    assert json.loads(done.stdout) == [["192.0.2.20/24"], ["198.51.100.7/24"], []]
