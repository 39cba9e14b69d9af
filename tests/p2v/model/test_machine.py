# SPDX-License-Identifier: GPL-3.0-or-later
import json
from pathlib import Path

import pytest

from p2v.model.errors import UsageError
from p2v.model.machine import Machine

MACHINES = sorted((Path(__file__).parents[2] / "machines").glob("*.json"))


def test_there_are_recorded_machines():
    assert MACHINES


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_a_recorded_machine_reads_back_as_it_was_written(path):
    document = json.loads(path.read_text())
    assert Machine.from_json(document).to_json() == document


def test_another_schema_is_refused():
    document = json.loads(MACHINES[0].read_text())
    for schema in (2, None, "1"):
        with pytest.raises(UsageError, match="schema"):
            Machine.from_json({**document, "schema": schema})
    with pytest.raises(UsageError):
        Machine.from_json([])


def test_a_wrong_value_is_named_with_its_place():
    document = json.loads(MACHINES[0].read_text())
    document["disks"][0]["size"] = "large"
    with pytest.raises(UsageError, match=r"inventory.disks\[0\].size must be a whole number"):
        Machine.from_json(document)
