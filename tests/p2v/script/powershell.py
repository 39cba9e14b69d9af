# SPDX-License-Identifier: GPL-3.0-or-later
"""A parser of PowerShell that shares nothing with the generator, and what it finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import tree_sitter_pwsh
from tree_sitter import Language, Node, Parser

_LANGUAGE = Language(tree_sitter_pwsh.language())
_DATA = json.loads((Path(__file__).parent / "data/hyperv-cmdlets.json").read_text())
CMDLETS: dict[str, dict[str, list[str]]] = _DATA

COMMON = {"ErrorAction", "WarningAction", "Confirm", "WhatIf", "Verbose"}
ELSEWHERE = {
    "Add-Type": {"TypeDefinition"},
    "ConvertTo-Json": {"Compress"},
    "Get-FileHash": {"LiteralPath", "Algorithm"},
    "Get-ClusterGroup": set(),
    "Add-ClusterVirtualMachineRole": {"VMId"},
    "Remove-ClusterGroup": {"VMId", "RemoveResources", "Force"},
    "Move-Item": {"LiteralPath", "Destination", "Force"},
    "New-Object": set(),
    "Out-Null": set(),
    "Remove-Item": {"LiteralPath", "Recurse", "Force"},
    "Set-StrictMode": {"Version"},
    "Start-Sleep": {"Seconds"},
    "Test-Path": {"LiteralPath"},
    "Where-Object": set(),
    "Write-Warning": set(),
}
"""Cmdlets of Windows PowerShell 5.1 and FailoverClusters, with the parameters that are in use."""


def parse(text: str) -> Node:
    """Return the root of the syntax tree."""
    return Parser(_LANGUAGE).parse(text.encode()).root_node


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def faults(root: Node) -> list[str]:
    """Return what does not parse."""
    return [
        f"{node.start_point}: {node.text.decode()[:60]}"
        for node in walk(root)
        if node.type == "ERROR" or node.is_missing
    ]


def commands(root: Node) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the parameters of each command."""
    for node in walk(root):
        if node.type != "command":
            continue
        name = node.child_by_field_name("command_name")
        if name is None:
            continue
        parameters = [
            each.text.decode().lstrip("-")
            for element in node.children
            for each in _own(element)
            if each.type == "command_parameter"
        ]
        yield name.text.decode(), parameters


def _own(node: Node) -> Iterator[Node]:
    """Yield the nodes of a command's element, but not those of commands inside of it."""
    yield node
    for child in node.children:
        if child.type not in ("command", "script_block", "sub_expression"):
            yield from _own(child)
