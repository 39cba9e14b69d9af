# SPDX-License-Identifier: GPL-3.0-or-later
"""The probe of the accelerator, held against QEMU itself."""

from __future__ import annotations

import pytest

from p2v.guest import accelerator
from p2v.guest.accelerator import Accelerator
from p2v.model.errors import ToolError

pytestmark = pytest.mark.qemu


def test_a_machine_that_switches_itself_off_is_seen_to_do_so():
    assert accelerator._runs("tcg", "max")


def test_an_accelerator_that_does_not_start_is_not_used():
    assert not accelerator._runs("xen", "max")


def test_a_machine_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(accelerator, "_SWITCH_OFF", bytes.fromhex("ebfe"))  # jmp to itself
    assert not accelerator._runs("tcg", "max")


def test_a_machine_that_is_a_hundred_times_too_slow_is_not_used(monkeypatch):
    monkeypatch.setattr(accelerator, "_COUNT", bytes.fromhex("66b9ffffffff 6649 75fc"))
    assert not accelerator._runs("tcg", "max")


def test_without_qemu_the_error_names_it(monkeypatch):
    monkeypatch.setattr(accelerator, "QEMU", "no-such-qemu")
    with pytest.raises(ToolError, match="no-such-qemu"):
        accelerator._runs("tcg", "max")


def test_the_answer_is_one_of_the_two_and_kept():
    assert accelerator.accelerator() in Accelerator
    assert accelerator.accelerator() is accelerator.accelerator()
