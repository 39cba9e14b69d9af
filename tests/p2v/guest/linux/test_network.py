# SPDX-License-Identifier: GPL-3.0-or-later
"""Network: the old names on new interfaces, whatever the style of configuration."""

from __future__ import annotations

import pytest

from p2v.guest.edit import Edit, RemoveFile
from p2v.guest.linux import network
from p2v.guest.linux.interfaces import interfaces
from tests.p2v.guest.linux.making import guest, hyperv, kvm, problems, written

MAC = "52:54:00:aa:bb:cc"
STATIC = "auto eno1\niface eno1 inet static\n  address 192.0.2.7/24\n"


def named(files):
    return [(one.name, one.mac) for one in interfaces(guest(files).linux)]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("/etc/network/interfaces", "auto lo\niface lo inet loopback\n" + STATIC, ("eno1", "")),
        ("/etc/network/interfaces.d/lan", "iface enp3s0 inet6 dhcp\n", ("enp3s0", "")),
        (
            "/etc/NetworkManager/system-connections/lan.nmconnection",
            f"[connection]\nid=lan\ntype=ethernet\ninterface-name=eno1\n[ethernet]\nmac-address={MAC}\n",
            ("eno1", MAC),
        ),
        (
            "/etc/netplan/01.yaml",
            "network:\n  version: 2\n  ethernets:\n    eno1:\n      addresses: [192.0.2.7/24]\n"
            f"      match:\n        macaddress: '{MAC}'\n      set-name: eno1\n"
            "  bonds:\n    bond0: {}\n",
            ("eno1", MAC),
        ),
        (
            "/etc/netplan/02.yaml",
            'network:\n    ethernets:\n        "ens192":\n            dhcp4: true\n',
            ("ens192", ""),
        ),
        ("/etc/systemd/network/a.network", "[Match]\nName=eno1\n[Network]\n", ("eno1", "")),
        (
            "/etc/sysconfig/network-scripts/ifcfg-em1",
            f'DEVICE="em1"\nHWADDR={MAC.upper()}\nBOOTPROTO=none\nIPADDR=192.0.2.7\n',
            ("em1", MAC),
        ),
        ("/etc/sysconfig/network/ifcfg-eth3", "BOOTPROTO='static'\n", ("eth3", "")),
        (
            "/etc/udev/rules.d/70-persistent-net.rules",
            f'SUBSYSTEM=="net", ACTION=="add", ATTR{{address}}=="{MAC}", NAME="eth0"\n',
            ("eth0", MAC),
        ),
    ],
)  # fmt: skip
def test_interfaces_are_read_in_every_style(path, text, expected):
    assert named({path: text}) == [expected]


@pytest.mark.parametrize("name", ["lo", "bond0", "br0", "docker0", "vlan10", "wlan0", "tun0"])
def test_what_is_no_network_card_is_left_alone(name):
    assert named({"/etc/network/interfaces": f"iface {name} inet manual\n"}) == []


def plan(files, target, **facts):
    return list(network.plan(guest(files, **facts), target, ()))


def test_a_known_mac_gives_the_name_to_the_synthetic_interface_only():
    outcomes = plan({"/etc/network/interfaces": STATIC}, hyperv(nics={"eno1": MAC}))
    assert written(outcomes, "/etc/systemd/network/10-p2v-eno1.link") == (
        f"[Match]\nMACAddress={MAC}\nDriver=hv_netvsc\n\n[Link]\nName=eno1\n"
    )


def test_the_only_interface_needs_no_mac():
    outcomes = plan({"/etc/network/interfaces": STATIC}, kvm())
    assert written(outcomes, "/etc/systemd/network/10-p2v-eno1.link") == (
        "[Match]\nDriver=virtio_net\n\n[Link]\nName=eno1\n"
    )


def test_one_of_several_without_a_mac_is_named():
    text = STATIC + STATIC.replace("eno1", "eno2")
    outcomes = plan({"/etc/network/interfaces": text}, hyperv(nics={"eno1": MAC}))
    assert problems(outcomes) == ["unknown-mac"]
    assert written(outcomes, "/etc/systemd/network/10-p2v-eno1.link")


def test_the_names_that_hyper_v_gives_anyway_need_nothing():
    text = "iface eth0 inet dhcp\niface eth1 inet dhcp\n"
    assert plan({"/etc/network/interfaces": text}, hyperv()) == []
    assert plan({"/etc/network/interfaces": "iface eth0 inet dhcp\n"}, kvm()) != []


def test_the_list_of_old_cards_goes():
    rule = f'SUBSYSTEM=="net", ATTR{{address}}=="{MAC}", NAME="eth0"\n'
    outcomes = plan({"/etc/udev/rules.d/70-persistent-net.rules": rule}, hyperv())
    assert [one.action for one in outcomes if isinstance(one, Edit)] == [
        RemoveFile("/etc/udev/rules.d/70-persistent-net.rules")
    ]


def test_udev_before_systemd_gets_a_rule():
    outcomes = plan(
        {"/etc/sysconfig/network-scripts/ifcfg-em1": f"HWADDR={MAC}\n"}, hyperv(), paths=()
    )
    rule = written(outcomes, "/etc/udev/rules.d/70-persistent-net.rules")
    assert f'ATTR{{address}}=="{MAC}"' in rule and 'NAME="em1"' in rule
