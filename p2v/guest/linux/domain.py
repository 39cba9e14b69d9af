# SPDX-License-Identifier: GPL-3.0-or-later
"""Step: a controller of an Active Directory domain (Samba) is named as one; nothing is edited.

Its database tells others which of its changes they have: a controller that goes back in time, or
runs twice, damages the domain, so its VM is to start without a network.
https://wiki.samba.org/index.php/Back_up_and_Restoring_a_Samba_AD_DC
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from p2v.guest.appliance import Appliance
from p2v.guest.edit import Edit
from p2v.guest.facts import GuestFacts
from p2v.guest.linux.steps import linux
from p2v.guest.report import Check
from p2v.guest.target import Target
from p2v.model.machine import Problem, Severity

CONFIGURATION = "/etc/samba/smb.conf"
DATABASE = "/var/lib/samba/private/sam.ldb"
FILES: tuple[str, ...] = (CONFIGURATION,)
PATHS: tuple[str, ...] = (DATABASE,)

_ROLE = re.compile(
    r"^\s*server\s+role\s*=\s*(active directory domain controller|domain controller|dc)\s*$",
    re.MULTILINE | re.IGNORECASE,
)


def detect(facts: GuestFacts, _target: Target) -> bool:
    """Return whether the guest is one."""
    file = linux(facts).file(CONFIGURATION)
    return file is not None and _ROLE.search(file.text) is not None and linux(facts).has(DATABASE)


def plan(facts: GuestFacts, _target: Target, _planned: Sequence[Edit]) -> Iterator[Edit | Problem]:
    """Yield the warning."""
    yield Problem(
        severity=Severity.WARNING,
        code="domain-controller",
        subject=facts.system.hostname,
        message="This is a domain controller: the source must never run again once the VM has, or "
        "the domain is damaged.",
        action="Start the VM without a network first; keep the source switched off for good.",
    )


def check(_appliance: Appliance, _facts: GuestFacts, _target: Target) -> Iterator[Check]:
    """Yield nothing: nothing was edited."""
    return iter(())
