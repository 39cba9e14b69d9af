# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that only make sense on the old hardware, or under another hypervisor."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from p2v.guest.edit import Area, Edit
from p2v.guest.windows.facts import WindowsFacts
from p2v.guest.windows.values import set_number

_DISABLED = 4
_PRODUCTS = {
    "VMware Tools": "vmtools vmci vsock vmhgfs vmmemctl vmrawdsk vmvss vgauthservice vm3dservice "
    "vmupgradehelper vmdebug vmware?physical?disk?helper?service",
    "VirtualBox Guest Additions": "vboxguest vboxservice vboxsf",
    "Xen guest tools": "xenbus xenfilt xeniface xennet xensvc xenvbd xenvif xenguestagent "
    "rhelscsi scsifilt",
    "Parallels Tools": "prl_* parallels?tools?service",
    "HPE management": "cissesrv cpqnicmgmt cpqrcmc3 cqmghost cqmgserv cqmgstor hpqilo? "
    "hpwmistor sysmgmthp sysdown proliantmonitor hpdskflt",
    "Dell OpenManage": "dcevt?? dcstor?? dsm_sa_* dcdbas?? mr2kserv racsvc server?administrator "
    "stdcfltn",
    "RAID management": "msmframework megamonitorsrv iastordatamgrsvc iastorf",
}
"""By the names of their services, as patterns. Filters of mice and keyboards are left alone: the
device that they stand before would not start without them."""
_PATTERNS = tuple(
    (product, pattern) for product, names in _PRODUCTS.items() for pattern in names.split()
)


def unwanted(name: str) -> str:
    """Return the product that a service belongs to if a VM has no use for it, else ""."""
    lower = name.lower()
    return next((product for product, one in _PATTERNS if fnmatchcase(lower, one)), "")


def plan(windows: WindowsFacts) -> Iterator[Edit]:
    """Yield the edits that disable them; uninstalling them is left to their own programs."""
    for control_set in windows.control_sets:
        for service in control_set.services:
            product = unwanted(service.name)
            if not product or service.start in (-1, _DISABLED):
                continue
            yield Edit(
                area=Area.SERVICES,
                what=f"disable {service.name} ({control_set.name})",
                reason=f"{product}: the VM has nothing for it to work with",
                action=set_number(
                    windows.hive,
                    rf"{control_set.name}\Services\{service.name}",
                    "Start",
                    _DISABLED,
                ),
                before=f"Start {service.start}",
            )
