# SPDX-License-Identifier: GPL-3.0-or-later
"""The shell scripts, run by a real bash; the hypervisors' tools only write down what they are told.

With the real tools they are run in tests/p2v/hosts.
"""

import os
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from p2v.model.errors import UsageError
from p2v.model.host import HypervisorKind
from p2v.model.machine import FirmwareKind
from p2v.model.vm import SecureBoot, VmNic
from p2v.script import libvirt_xml, make_script
from tests.p2v.script.golden import of_kind
from tests.p2v.script.orders import CASES, NASTY, order

SHELLS = [kind for kind in HypervisorKind if kind is not HypervisorKind.HYPERV]
TOOLS = {
    HypervisorKind.LIBVIRT: "virsh",
    HypervisorKind.PROXMOX: "qm",
    HypervisorKind.XENSERVER: "xe",
    HypervisorKind.VMWARE: "govc",
}
_RECORDER = r"""#!/bin/bash
{ printf '%s\0' "${0##*/}" "$@"; echo; } >>"$RECORD"
case $* in
    dominfo*) exit 1;;
    vm-list*|vm.info*) exit 0;;
esac
if [ "$FAIL" ]; then case $* in "$FAIL"*) exit 3;; esac; fi
case $* in *nextid*|*list*|*-create*|vm-install*) echo 101;; esac
"""


def bare(kind, **changes):
    """Return an order whose images are brought by hand."""
    made = of_kind(replace(order(**changes), storage="pool1"), kind)
    return replace(made, disks=tuple(replace(d, url="", sha256="") for d in made.disks))


@pytest.fixture
def run(tmp_path):
    for tool in ("virsh", "qm", "pvesh", "xe", "govc"):
        (tmp_path / tool).write_text(_RECORDER)
        (tmp_path / tool).chmod(0o755)

    def run(kind, order, fail=""):
        record = tmp_path / "record"
        record.write_text("")
        for disk in order.disks:
            (tmp_path / disk.file).touch()
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "RECORD": str(record),
            "P2V_IMAGES": str(tmp_path),
            "FAIL": fail,
        }
        done = subprocess.run(
            ["bash", "-c", make_script(kind, order)],
            env=environment,
            capture_output=True,
            text=True,
        )
        return done, [line.split("\0")[:-1] for line in record.read_text().splitlines()]

    return run


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", SHELLS)
def test_shellcheck_finds_nothing(kind, name):
    text = make_script(kind, of_kind(CASES[name], kind))
    done = subprocess.run(
        ["shellcheck", "-s", "bash", "-S", "warning", "-"],
        input=text,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", [name for name in NASTY if name != "*"])
@pytest.mark.parametrize("kind", SHELLS)
def test_a_nasty_name_is_told_to_the_tools_as_it_is(run, kind, name):
    nic = VmNic("eno1", "52:54:00:00:00:00", name, vlan=3, connected=False)
    harmless = bare(kind, nics=(replace(nic, network="lan"),))
    nasty = replace(harmless, vm=replace(harmless.vm, name=name, nics=(nic,)), storage=name)
    done, calls = run(kind, nasty)
    assert done.returncode == 0, done.stderr
    plain, expected = run(kind, harmless)
    assert plain.returncode == 0, plain.stderr
    assert [call[:2] for call in calls] == [call[:2] for call in expected]
    assert len(calls) > 4
    if kind is not HypervisorKind.LIBVIRT:  # there it is in the XML, on the standard input
        words = [word for call in calls for word in call]
        assert any(name in word for word in words)


@pytest.mark.parametrize(
    ("kind", "fail", "undone"),
    [
        (HypervisorKind.LIBVIRT, "define", ["vol-delete"]),
        (HypervisorKind.LIBVIRT, "start", ["undefine", "vol-delete"]),
        (HypervisorKind.PROXMOX, "set", ["destroy"]),
        (HypervisorKind.XENSERVER, "vdi-import", ["vdi-destroy", "vm-uninstall"]),
        (HypervisorKind.VMWARE, "vm.disk.attach", ["vm.destroy", "datastore.rm"]),
    ],
)
def test_what_was_made_is_undone_in_the_reverse_order(run, kind, fail, undone):
    done, calls = run(kind, bare(kind, power_on=True), fail)
    failed = max(i for i, call in enumerate(calls) if call[1].startswith(fail))
    assert done.returncode == 3
    assert [call[1] for call in calls[failed + 1 :]] == undone
    assert done.stderr.count("undone: ") == len(undone)


def test_a_missing_image_is_asked_for_before_anything_is_made(run, tmp_path):
    made = bare(HypervisorKind.PROXMOX)
    missing = replace(made, disks=(replace(made.disks[0], file="gone-0.qcow2"),))
    script = make_script(HypervisorKind.PROXMOX, missing)
    record = tmp_path / "record"
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(record),
             "P2V_IMAGES": str(tmp_path)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "gone-0.qcow2 first" in done.stderr
    assert "create" not in record.read_text()


@pytest.mark.parametrize(
    ("name", "found_by"),
    [
        ("web01", "web01"),
        ("*", r"\*"),
        ("a[1-3]?", r"a\[1-3\]?".replace("?", r"\?")),
        ("50% a/b\\c", "50%25 a%2fb%5cc"),
    ],
)
def test_a_name_is_no_pattern_to_govc(run, name, found_by):
    done, calls = run(HypervisorKind.VMWARE, bare(HypervisorKind.VMWARE, name=name), "vm.disk")
    assert done.returncode == 3
    (destroyed,) = (call for call in calls if call[1] == "vm.destroy")
    assert destroyed == ["govc", "vm.destroy", "--", found_by]
    (made,) = (call for call in calls if call[1] == "vm.create")
    assert made[-2:] == ["--", name]


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_name_stays_text_in_xml(name):
    nic = VmNic("eno1", "52:54:00:00:00:00", name, vlan=3, connected=False)
    root = ET.fromstring(libvirt_xml.domain(replace(order(name=name, nics=(nic,)), storage=name)))
    assert root.findtext("name") == name
    assert root.find("devices/interface/source").attrib == {"network": name}
    assert root.find("devices/disk/source").get("pool") == name


def test_xml_that_can_not_be_is_refused():
    with pytest.raises(UsageError):
        libvirt_xml.domain(order(name="a\x01b"))


@pytest.mark.parametrize("name", CASES)
def test_libvirts_own_schema_takes_the_domain(name, tmp_path):
    case = replace(CASES[name], storage="pool1")
    safe = replace(case, vm=replace(case.vm, name="web01"))
    path = tmp_path / "domain.xml"
    path.write_text(libvirt_xml.domain(safe))
    done = subprocess.run(
        ["virt-xml-validate", str(path), "domain"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_secure_boot_has_the_keys_and_the_mode_that_it_needs():
    made = order(firmware=FirmwareKind.UEFI, secure_boot=SecureBoot.UEFI_CA)
    root = ET.fromstring(libvirt_xml.domain(made))
    features = {f.get("name"): f.get("enabled") for f in root.iterfind("os/firmware/feature")}
    assert features == {"secure-boot": "yes", "enrolled-keys": "yes"}
    assert root.find("features/smm").get("state") == "on"
