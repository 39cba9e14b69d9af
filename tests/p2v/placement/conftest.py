# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan and a host whose ratings are easily computed by hand."""

from __future__ import annotations

import pytest

from p2v.model.host import (
    HostFacts,
    HostLimits,
    HostLoad,
    HostNetwork,
    HostReserve,
    HostStorage,
    HypervisorKind,
)
from p2v.model.machine import FirmwareKind
from p2v.model.plan import ImageFormat, Plan, PlannedDisk
from p2v.model.vm import VmLoad, VmNic, VmSettings

GiB = 1 << 30


@pytest.fixture
def plan() -> Plan:
    return Plan(
        name="web01",
        disks=(PlannedDisk("sda", "/dev/sda", 100 * GiB, used=20 * GiB),),
        vm=VmSettings(
            cpus=4,
            memory=16 * GiB,
            firmware=FirmwareKind.UEFI,
            nics=(VmNic("eno1", "52:54:00:00:00:01", "LAN"),),
            load=VmLoad(busy_cores=2.0, iops=100.0, network_bytes=10e6),
        ),
    )


@pytest.fixture
def host() -> HostFacts:
    return HostFacts(
        name="hv1",
        hypervisor=HypervisorKind.HYPERV,
        cpus=20,
        memory=144 * GiB,
        group=("Berlin", "cluster-a"),
        storages=(HostStorage("D:", 500 * GiB, 1000 * GiB),),
        networks=(HostNetwork("LAN"), HostNetwork("DMZ", vlans=(10, 20))),
        load=HostLoad(cpu_percent=17.0, memory_used=16 * GiB, iops=900.0, network_bytes=90e6),
        reserve=HostReserve(cpu_percent=10.0, memory=16 * GiB, disk=10 * GiB),
        limits=HostLimits(sectors=(512, 4096), formats=(ImageFormat.VHDX,)),
        max_iops=5000.0,
        network_rate=1e9,
    )
