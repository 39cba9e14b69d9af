# SPDX-License-Identifier: GPL-3.0-or-later
"""The validator's parts: its own CRC-32C, and the map of what is claimed."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import native
import p2v.images.check
from p2v.images.check.bitmap import ClaimMap
from p2v.images.check.crc import crc32c
from p2v.images.check.report import Findings


def test_crc32c_gives_the_published_values():
    # RFC 3720 appendix B.4, and the usual check value.
    assert crc32c([b"123456789"]) == 0xE3069283
    assert crc32c([bytes(32)]) == 0x8A9136AA
    assert crc32c([b"\xff" * 32]) == 0x62A8AB43


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_crc32c_agrees_with_the_native_one(pieces):
    assert crc32c(pieces) == native.crc32c(b"".join(pieces))


@given(st.lists(st.tuples(st.integers(-5, 70), st.integers(0, 40)), max_size=12))
def test_a_claim_map_behaves_like_a_set(claims):
    units = 61
    claimed = ClaimMap(units)
    model: set[int] = set()
    for first, count in claims:
        wanted = set(range(first, min(first + count, units))) if first >= 0 else set()
        assert claimed.claim(first, count) == (not wanted & model)
        model |= wanted
    assert claimed.free() == units - len(model)


def test_findings_are_counted_in_full_and_kept_in_part():
    findings = Findings()
    for offset in range(1000):
        findings.warn("late", "a warning", offset)
    findings.error("bad", "an error")
    assert findings.kept()[0].code == "bad"
    assert len(findings.kept()) < 50
    assert findings.counts == {"late": 1000, "bad": 1}


@pytest.mark.parametrize("path", sorted(Path(p2v.images.check.__file__).parent.glob("*.py")))
def test_the_validator_imports_nothing_of_what_it_judges(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    ours = {name for name in names if name.split(".")[0] in ("p2v", "agent", "native")}
    allowed = ("p2v.images.check", "p2v.model.")
    assert {n for n in ours if not n.startswith(allowed)} <= {"p2v.images.base"}
