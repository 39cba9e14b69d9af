# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks on their way into an HTTP NFC lease, as an OVF's would be.

Source: vSphere Web Services API, HttpNfcLease. Each disk has a URL of its own, on the ESXi that
takes it: another host than vCenter, with another certificate, that the lease tells.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from p2v.hosts.pinned import certificate_context, session
from p2v.hosts.sending import Pieces, Sent
from p2v.model.errors import HostError
from p2v.model.order import Order

_TIMEOUT_S = (30.0, 600.0)
"""To connect; and for an answer, which comes when all is written."""
_BEAT_S = 10.0
"""A lease that hears nothing for five minutes ends."""
_PLACE = re.compile(r"(\d+):(\d+)$")


def upload(
    lease: Any,
    order: Order,
    images: Sequence[Path],
    places: Sequence[tuple[int, int]],
    vcenter: tuple[str, requests.Session],
    sent: Sent,
) -> None:
    """Send each image to the lease's URL for its disk; `places` are their SCSI bus and unit.

    `vcenter` is the address that the lease is of, ``host:port``, and a session that trusts it.

    Raises:
        HostError: the lease has no URL for a disk, or the host shows another certificate.
        requests.RequestException: the host does not take an image.
    """
    urls = _urls(lease, places)
    total = max(sum(image.stat().st_size for image in images), 1)
    done, beat = 0, time.monotonic() + _BEAT_S

    def heard(count: int) -> None:
        nonlocal done, beat
        done += count
        sent(count)
        if time.monotonic() >= beat:
            lease.HttpNfcLeaseProgress(min(100 * done // total, 100))
            beat = time.monotonic() + _BEAT_S

    for disk, image, place in zip(order.disks, images, places, strict=True):
        device = urls.get(place)
        if device is None:
            raise HostError(host=vcenter[0], problem=f"it names no place for {disk.file}")
        url = device.url.replace("*", vcenter[0], 1)
        answer = _session(url, device.sslThumbprint, vcenter).post(
            url,
            data=Pieces(image, heard),
            headers={"Content-Type": "application/x-vnd.vmware-streamVmdk"},
            timeout=_TIMEOUT_S,
        )
        answer.raise_for_status()


def _urls(lease: Any, places: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], Any]:
    """Return the lease's disks by bus and unit, which their keys end with.

    vCenter's simulator counts the disks there instead, as ``disk-0:1``; it has no controllers.
    """
    found = {}
    disks = [device for device in lease.info.deviceUrl if device.disk]
    for number, device in enumerate(disks):
        name = (device.importKey or "").rpartition("/")[2]
        key = _PLACE.search(name)
        counted = key is None or name.startswith("disk-")
        if counted and number < len(places):
            found[places[number]] = device
        elif key is not None:
            found[int(key[1]), int(key[2])] = device
    return found


def _session(
    url: str, thumbprint: str | None, vcenter: tuple[str, requests.Session]
) -> requests.Session:
    address, trusting = vcenter
    parts = urlsplit(url)
    port = parts.port or 443
    if f"{parts.hostname}:{port}" == address or not thumbprint:
        return trusting
    host = parts.hostname or ""
    return session(certificate_context(host, host, port, thumbprint))
