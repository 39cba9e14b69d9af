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
        ("/etc/network/interfaces.d/v", "iface eno1.100 inet static\n", ("eno1", "")),
        ("/etc/network/interfaces.d/b", "iface br0 inet dhcp\n bridge_ports eno2\n", ("eno2", "")),
        ("/etc/systemd/network/w.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n", ("en*", "")),
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


BONDS = {
    "/etc/network/interfaces": "iface bond0 inet static\n address 192.0.2.7/24\n"
    " bond-slaves eno1 eno2\n bond-mode 4\n",
    "/etc/network/interfaces.d/old": "iface eno1 inet manual\n bond-master bond0\n"
    "iface eno2 inet manual\n bond-master bond0\n",
    "/etc/netplan/1.yaml": "network:\n  ethernets:\n    eno1: {}\n    eno2: {}\n  bonds:\n"
    "    bond0:\n      interfaces: [eno1, eno2]\n      dhcp4: true\n",
    "/etc/netplan/2.yaml": "network:\n  bonds:\n    bond0:\n      interfaces:\n"
    "        - eno1\n        - eno2\n",
    "/etc/systemd/network/b.network": "[Match]\nName=eno1 eno2\n[Network]\nBond=bond0\n",
    "/etc/sysconfig/network/ifcfg-bond0": "BONDING_MASTER='yes'\nBONDING_SLAVE_0='eno1'\n"
    "BONDING_SLAVE_1='eno2'\n",
}


@pytest.mark.parametrize("path", sorted(BONDS))
def test_a_bond_that_became_one_card_goes_on_with_its_first(path):
    outcomes = plan({path: BONDS[path]}, hyperv(nics={"bond0": MAC}))
    assert f"MACAddress={MAC}\n" in written(outcomes, "/etc/systemd/network/10-p2v-eno1.link")
    assert len(outcomes) == 1
    both = {"bond0": MAC, "eno1": MAC, "eno2": "52:54:00:aa:bb:cd"}
    outcomes = plan({path: BONDS[path]}, hyperv(nics=both))
    assert problems(outcomes) == [] and len(outcomes) == 2


def test_the_bonds_of_red_hat_and_network_manager_are_known_too():
    folder = "/etc/sysconfig/network-scripts/ifcfg-"
    files = {
        f"{folder}{name}": f"DEVICE={name}\nMASTER=bond0\nSLAVE=yes\n" for name in ("em1", "em2")
    }
    outcomes = plan(files, hyperv(nics={"bond0": MAC}))
    assert len(outcomes) == 1 and written(outcomes, "/etc/systemd/network/10-p2v-em1.link")
    text = "[connection]\ntype=ethernet\ninterface-name=em1\nmaster=bond0\nslave-type=bond\n"
    folder = "/etc/NetworkManager/system-connections/"
    outcomes = plan({f"{folder}1": text}, hyperv(nics={"bond0": MAC}))
    assert len(outcomes) == 1 and written(outcomes, "/etc/systemd/network/10-p2v-em1.link")
    bond = "[connection]\nuuid=aa-bb\ntype=bond\ninterface-name=bond0\n"
    files = {f"{folder}1": text.replace("bond0", "aa-bb"), f"{folder}2": bond}
    outcomes = plan(files, hyperv(nics={"bond0": MAC}))
    assert len(outcomes) == 1 and written(outcomes, "/etc/systemd/network/10-p2v-em1.link")


def test_a_pattern_is_given_a_name_that_fits_it():
    files = {"/etc/systemd/network/a.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n"}
    outcomes = plan(files, hyperv(nics={"eno1": MAC}))
    assert f"MACAddress={MAC}\n" in written(outcomes, "/etc/systemd/network/10-p2v-eno1.link")
    assert "Name=en0\n" in written(plan(files, hyperv()), "/etc/systemd/network/10-p2v-en0.link")
    assert plan(files, kvm()) == []
    files = {"/etc/netplan/a.yaml": 'network:\n ethernets:\n  all:\n   match: {name: "e*"}\n'}
    assert plan(files, hyperv()) == []


def test_a_name_is_kept_even_where_addresses_hang_on_the_mac():
    files = {
        "/etc/netplan/a.yaml": f"network:\n ethernets:\n  lan:\n   match:\n    macaddress: {MAC}\n"
    }
    assert plan(files, hyperv()) == []
    outcomes = plan(files, hyperv(nics={"eno1": MAC, "no such name": MAC}))
    assert len(outcomes) == 1 and written(outcomes, "/etc/systemd/network/10-p2v-eno1.link")


def test_names_that_another_system_gave_the_cards_are_not_the_guests():
    outcomes = plan({"/etc/network/interfaces": STATIC}, hyperv(nics={"enp3s0": MAC}))
    assert f"MACAddress={MAC}\n" in written(outcomes, "/etc/systemd/network/10-p2v-eno1.link")
    assert len(outcomes) == 1
    files = {"/etc/sysconfig/network-scripts/ifcfg-em1": f"DEVICE=em1\nHWADDR={MAC.upper()}\n"}
    outcomes = plan(files, hyperv(nics={"enp3s0": MAC}))
    assert len(outcomes) == 1 and written(outcomes, "/etc/systemd/network/10-p2v-em1.link")
    both = {"enp3s0": MAC, "enp4s0": "52:54:00:aa:bb:cd"}
    text = STATIC + STATIC.replace("eno1", "eno2")
    outcomes = plan({"/etc/network/interfaces": text}, hyperv(nics=both))
    assert problems(outcomes) == ["unknown-mac", "unknown-mac"] and len(outcomes) == 2
    assert problems(plan({"/etc/network/interfaces": STATIC}, hyperv(nics=both))) == ["unknown-mac"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/systemd/network/a.network", "[Match]\nDriver=igb\n[Network]\n"),
        ("/etc/systemd/network/b.network", "[Match]\nPath=pci-0000:03:00.0\n"),
        ("/etc/netplan/a.yaml", "network:\n ethernets:\n  a:\n   match:\n    driver: ixgbe\n"),
        ("/etc/NetworkManager/system-connections/a", "[match]\npath=pci-0000:03:00.0\n"),
    ],
)
def test_what_hangs_on_the_card_itself_is_named(path, text):
    assert network.detect(guest({path: text}), hyperv())
    assert "network-by-hardware" in problems(plan({path: text}, hyperv()))


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
