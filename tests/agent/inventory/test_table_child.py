# SPDX-License-Identifier: GPL-3.0-or-later
"""The reader of partition tables as the process that it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from p2v.model.units import MiB


def read(path) -> dict:
    argv = [sys.executable, "-m", "agent.inventory.table_child", str(path), "512"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("content", [bytes(5 * MiB), os.urandom(5 * MiB)], ids=["blank", "random"])
def test_a_disk_without_a_table_has_none_and_is_not_called_damaged(tmp_path, content):
    disk = tmp_path / "disk.img"
    disk.write_bytes(content)
    assert read(disk)["type"] == "none"
