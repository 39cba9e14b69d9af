# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces and routes, by iproute2 and sysfs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent import tools
from p2v.model.errors import ToolError
from p2v.model.machine import Nic, NicKind, Route

_KINDS = {"bond": NicKind.BOND, "bridge": NicKind.BRIDGE, "vlan": NicKind.VLAN}


def read_nics(sys: Path = Path("/sys")) -> tuple[Nic, ...]:
    """Return all interfaces but the loopback.

    Raises:
        ToolError: ``ip`` failed.
    """
    return parse_nics(tools.run(["ip", "-j", "-d", "address", "show"]), sys / "class/net")


def parse_nics(text: bytes, net: Path) -> tuple[Nic, ...]:
    """Return the interfaces in the output of ``ip -j -d address``; drivers and speeds by `net`.

    Raises:
        ToolError: it is not such a document.
    """
    return tuple(_nic(link, net) for link in _entries(text) if link.get("ifname") != "lo")


def read_routes() -> tuple[Route, ...]:
    """Return the routes of the main table, IPv4 first.

    Raises:
        ToolError: ``ip`` failed.
    """
    routes = [entry for family in ("-4", "-6") for entry in _routes(family)]
    return tuple(_route(route) for route in routes)


def _routes(family: str) -> list[dict[str, Any]]:
    return _entries(tools.run(["ip", "-j", family, "route", "show"]))


def _entries(text: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(text or b"[]")
    except ValueError as error:
        raise ToolError(tool="ip", problem=f"its output is no JSON: {error}") from error
    return [entry for entry in entries if entry]  # `ip -6 addr` leaves empty objects


def _nic(link: dict[str, Any], net: Path) -> Nic:
    name = str(link["ifname"])
    info = link.get("linkinfo", {})
    data = info.get("info_data", {})
    device = net / name / "device"
    kind = _KINDS.get(info.get("info_kind", ""))
    if kind is None:
        kind = NicKind.PHYSICAL if device.exists() else NicKind.VIRTUAL
    return Nic(
        name=name,
        mac=str(link.get("permaddr") or link.get("address", "")),
        kind=kind,
        driver=_driver(device) or str(info.get("info_kind", "")),
        speed=_speed(net / name),
        mtu=int(link.get("mtu", 0)),
        up="UP" in link.get("flags", []),
        addresses=tuple(_address(a) for a in link.get("addr_info", []) if _lasting(a)),
        master=str(link.get("master", "")),
        parent=str(link.get("link") or "") if kind is NicKind.VLAN else "",
        vlan=data.get("id") if kind is NicKind.VLAN else None,
        bond_mode=str(data.get("mode", "")) if kind is NicKind.BOND else "",
    )


def _lasting(address: dict[str, Any]) -> bool:
    """Link-local addresses are made anew wherever the interface comes up."""
    return address.get("scope") != "link" and "local" in address


def _address(address: dict[str, Any]) -> str:
    return f"{address['local']}/{address['prefixlen']}"


def _driver(device: Path) -> str:
    try:
        return (device / "driver").readlink().name
    except OSError:
        return ""


def _speed(node: Path) -> int | None:
    """The kernel says -1, or EINVAL, without a link."""
    try:
        speed = int((node / "speed").read_text())
    except (OSError, ValueError):
        return None
    return speed if speed > 0 else None


def _route(route: dict[str, Any]) -> Route:
    return Route(
        destination=str(route["dst"]),
        interface=str(route.get("dev", "")),
        gateway=str(route.get("gateway", "")),
        metric=int(route.get("metric", 0)),
    )
