# SPDX-License-Identifier: GPL-3.0-or-later
"""The wizard's questions line by line, answered as they come, against a real converter."""

from __future__ import annotations

import os
import re
import select
import subprocess
from pathlib import Path
from random import Random

import pytest

from agent.job.folder import list_jobs
from p2v.images.compare import compare_images
from tests.e2e.running import P2V_AGENT, home

MiB = 1 << 20
SILENCE_S = 45.0


@pytest.fixture
def env(tmp_path, monkeypatch):
    monkeypatch.setenv("P2V_JOBS", str(tmp_path / "jobs"))
    return home(tmp_path / "home", P2V_JOBS=str(tmp_path / "jobs"), LANG="C.UTF-8")


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "web01.img"
    path.write_bytes(Random(5).randbytes(6 * MiB) + bytes(2 * MiB))
    return path


def converse(env, words: list[str], answers: list[tuple[str, list[str]]]) -> tuple[int, str]:
    """Answer each question that matches with the next of its answers; return code and all said."""
    process = subprocess.Popen(
        [*P2V_AGENT, "tui", "--plain", *words], env=env, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    said, line = "", ""
    left = {pattern: list(each) for pattern, each in answers}
    while True:
        if not select.select([process.stdout], [], [], SILENCE_S)[0]:
            process.kill()
            raise AssertionError(f"no answer fits:\n{said}")
        if not (byte := os.read(process.stdout.fileno(), 1)):
            break
        said += byte.decode(errors="replace")
        line = said.rpartition("\n")[2]
        if not line.endswith(": ") or line.startswith(("Error", "Known", "WARNING")):
            continue
        for pattern, texts in left.items():
            if texts and re.match(pattern, line):
                process.stdin.write(texts.pop(0).encode() + b"\n")
                process.stdin.flush()
                said += "\n"
                break
    process.stdin.close()
    return process.wait(60), said


def test_the_same_questions_line_by_line_end_in_a_verified_image(env, converter, disk):
    address = f"127.0.0.1:{converter.port}"
    code, said = converse(
        env,
        ["--disk", str(disk)],
        [
            ("Converter's address", ["not an address", "127.0.0.1:9", address]),
            ("Pairing code", ["7QK-3M9-X4T", converter.code()]),
            ("Disks to copy", ["sdz", ""]),
            ("Partitions to leave out", [""]),
            ("Name of", ["a/b", "web01"]),
            ("Processors", ["0", "2"]),
            ("Memory", ["1"]),
            ("Firmware", ["efi", "uefi"]),  # nothing in the disk tells
            ("Format", ["raw"]),
            ("Make the guest", ["no"]),
            ("Network of the host", ["LAN:9999", *[""] * 50]),
            ("Start now", ["begin", "start"]),
        ],
    )
    assert code == 0, said
    for part in (
        "is no converter's address", "No converter answers at https://127.0.0.1:9",
        "there is no sdz", "none of", "from 1 to 240", "with a VLAN up to 4094", "one of: start",
        "one of: bios, uefi", "No host can take", "Ctrl-C ends this display", "DONE", "Verified: ",
    ):  # fmt: skip
        assert part in said, (part, said)
    assert "Traceback" not in said and said.isascii()
    (migration,) = converter.migrations()
    assert compare_images(disk, Path(migration["images"][0])).same
    assert (migration["plan"]["name"], migration["plan"]["vm"]["cpus"]) == ("web01", 2)
    assert migration["plan"]["vm"]["firmware"] == "uefi"
    (job,) = list_jobs()
    assert not job.alive()


def test_a_plan_is_saved_and_no_answer_is_an_error(env, disk, tmp_path):
    (tmp_path / "images").mkdir()
    plan = tmp_path / "plan.toml"
    code, said = converse(
        env,
        ["--disk", str(disk)],
        [
            ("Converter's address", [str(tmp_path / "images")]),
            ("(Disks|Partitions|Name|Processors|Memory|Firmware|Format|Make|Network)", [""] * 60),
            ("Start now", ["save"]),
            ("Save as", [str(plan)]),
        ],
    )
    assert code == 0 and plan.read_text().startswith("#") and f"--plan {plan}" in said, said
    done = subprocess.run(
        [*P2V_AGENT, "tui", "--plain"], env=env, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "no answer to" in done.stderr
