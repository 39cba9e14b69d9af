# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/image-check.md lists every finding with its severity, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import p2v.images.check

DOCUMENT = Path(__file__).parents[4] / "docs" / "image-check.md"
SEVERITIES = {"error": "error", "warn": "warning", "note": "note"}
# Given to the call by a loop over both tables' places.
BY_VARIABLE = {("l1-offset", "error"), ("refcount-table", "error")}


def in_code() -> set[tuple[str, str]]:
    found = set()
    for path in Path(p2v.images.check.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            code = getattr(node.args[0], "value", None)
            if name in SEVERITIES and isinstance(code, str):
                found.add((code, SEVERITIES[name]))
    return found | BY_VARIABLE


def test_the_document_lists_what_the_code_can_find():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| \S.*\|$", DOCUMENT.read_text(), re.MULTILINE)
    assert set(rows) == in_code()
    assert len(rows) == len(set(rows))
