# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's file as a server gets it: with curl, and sure of both ends."""

import hashlib
import os
import subprocess

import pytest

from p2v.service import agentfile


@pytest.fixture
def program(running, monkeypatch, tmp_path):
    monkeypatch.setattr(agentfile, "BUILT", tmp_path / "absent")
    path = running.data / "p2v-agent"
    path.write_bytes(b"#!/bin/sh\necho $((6 * 7))\n" + bytes(3 << 20))
    return path


def fetch(command, folder):
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_one_line_fetches_it_and_it_runs(running, program, tmp_path):
    described = running.client().call("GET", "/agent").json
    assert described["size"] == program.stat().st_size
    assert described["sha256"] == hashlib.sha256(program.read_bytes()).hexdigest()
    done = fetch(described["command"], tmp_path)
    assert done.returncode == 0, done.stderr
    said = subprocess.run([tmp_path / "p2v-agent"], capture_output=True, text=True, check=False)
    assert said.stdout.startswith("42")


def test_another_converter_and_another_file_are_not_taken(running, program, tmp_path):
    described = running.client().call("GET", "/agent").json
    pinned = described["command"].split("sha256//")[1][:43]
    done = fetch(described["command"].replace(pinned, "A" * 43), tmp_path)
    assert done.returncode != 0
    assert not (tmp_path / "p2v-agent").exists()
    with program.open("ab") as file:
        file.write(b"more")
    assert fetch(described["command"], tmp_path).returncode != 0
    assert not os.access(tmp_path / "p2v-agent", os.X_OK)


def test_a_new_file_has_a_new_digest_at_once(running, program):
    before = running.client().call("GET", "/agent").json["sha256"]
    program.write_bytes(b"another")
    assert running.client().call("GET", "/agent").json["sha256"] != before


def test_without_one_it_says_how_to_get_one(running, program):
    program.unlink()
    answer = running.client().call("GET", "/agent")
    assert answer.status == 404
    assert answer.json["type"] == "no-agent-file"
    assert "make agent" in answer.json["hint"]
