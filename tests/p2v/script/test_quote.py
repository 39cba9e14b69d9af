# SPDX-License-Identifier: GPL-3.0-or-later
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.model.errors import UsageError
from p2v.script.quote import label, powershell, shell
from tests.p2v.script.orders import NASTY
from tests.p2v.script.powershell import faults, parse, walk

printable = st.text(st.characters(exclude_categories=("C", "Z"))).map(lambda s: s.replace("\0", ""))


def evaluate(literal: str) -> str:
    """Return what an expression of quoted strings and characters means, by the language's rules."""
    units = b""
    for quoted, code in re.findall(r"'((?:[^']|'')*)'|\[char\]0x([0-9A-F]{4})", literal):
        units += bytes.fromhex(code) if code else quoted.replace("''", "'").encode("utf-16-be")
    return units.decode("utf-16-be")


@pytest.mark.parametrize("text", [*NASTY, ""])
def test_a_nasty_name_is_one_expression_of_powershell(text):
    check_powershell(text)


@settings(deadline=None)
@given(printable)
def test_any_name_is_one_expression_of_powershell(text):
    check_powershell(text)


def check_powershell(text):
    literal = powershell(text)
    assert literal.isascii()
    assert evaluate(literal) == text
    root = parse(f"$x = {literal}\n")
    assert not faults(root)
    kinds = {node.type for node in walk(root)}
    assert not kinds & {"command", "sub_expression", "variable_expansion"}
    assert sum(node.type == "assignment_expression" for node in walk(root)) == 1
    assert sum(node.type == "statement_list" for node in walk(root)) == 1


@pytest.mark.parametrize("text", [*NASTY, ""])
def test_a_nasty_name_is_one_word_of_the_shell(text):
    script = f"printf '%s\\0' {shell(text)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout == text.encode() + b"\0"


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "\x1b[2J", "a\u202eb", "a\u2028b", "\ud800"])
def test_what_can_not_be_printed_is_refused(text):
    for quote in (powershell, shell):
        with pytest.raises(UsageError):
            quote(text)


@settings(deadline=None)
@given(st.text())
def test_a_label_is_one_of_a_host(text):
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", label(text))
