# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine without a network: its disk goes through files on a stick, and becomes an image."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from agent.inventory.collect import collect
from agent.migration import migrate
from agent.plan import Choices, make_plan
from agent.stream.folder import FolderConverter
from p2v.model.errors import NoRoomError
from p2v.model.plan import Plan
from p2v.model.units import MiB
from tests.e2e.conftest import converting
from tests.e2e.running import P2V, run, tool
from tests.e2e.stores import small_store, take_room

SIZE = 40 * MiB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A disk with data, repetition and holes."""
    path = tmp_path / "disk.img"
    noise = random.Random(7).randbytes(MiB)
    with path.open("wb") as file:
        for at in (0, 3, 4, 17, 38):
            file.seek(at * MiB)
            file.write(noise[at:] + b"text " * 20)
        file.truncate(SIZE)
    return path


def plan_for(source: Path) -> Plan:
    return make_plan(collect([str(source)]), Choices((str(source),), name="far", format="raw"))


def stream_of(source: Path, stick: Path, name: str = "far-1") -> Path:
    stick.mkdir(exist_ok=True)
    with contextlib.closing(FolderConverter(stick)) as converter:
        migrate(converter, plan_for(source), id=name)
        converter.keep_evidence(name, b"evidence")
    return stick / name


def imported(converter, folder: Path) -> Path:
    document = converter.p2v("import", folder)
    assert document["state"] == "finished"
    return Path(document["images"][0])


def test_a_stream_becomes_the_image_of_its_disk(converter, source, tmp_path):
    image = imported(converter, stream_of(source, tmp_path / "stick"))
    assert image.read_bytes() == source.read_bytes()
    assert (image.parent / "evidence.tar.gz").read_bytes() == b"evidence"


def test_importing_a_stream_again_is_harmless(converter, source, tmp_path):
    folder = stream_of(source, tmp_path / "stick")
    assert imported(converter, folder) == imported(converter, folder)


def test_a_stream_that_was_cut_off_is_refused_and_then_resumed(converter, source, tmp_path):
    folder = stream_of(source, tmp_path / "stick")
    (folder / "report.json").unlink()
    segment = folder / "frames-000001"
    os.truncate(segment, segment.stat().st_size + 4096)  # what a loss of power leaves behind
    refused = run([*P2V, "import", folder, "--data", converter.data, "--json"])
    assert refused.code == 2
    assert "not complete" in refused.error["message"]
    with source.open("r+b") as file:
        file.seek(20 * MiB)
        file.write(b"written later")
    with contextlib.closing(FolderConverter(folder.parent)) as again:
        outcome = migrate(again, plan_for(source), resume="far-1")
    assert outcome.counters.sent <= MiB
    assert imported(converter, folder).read_bytes() == source.read_bytes()


def test_a_folder_that_holds_no_stream_is_named(converter, tmp_path):
    refused = run([*P2V, "import", tmp_path, "--data", converter.data, "--json"])
    assert refused.code == 2
    assert f"there is no stream in {tmp_path}: it holds no stream.json" in refused.error["message"]


def test_a_stream_that_lost_a_chunk_is_not_believed(converter, source, tmp_path):
    folder = stream_of(source, tmp_path / "stick")
    segment = folder / "frames-000001"
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    segment.write_bytes(damaged)
    refused = run([*P2V, "import", folder, "--data", converter.data, "--json"])
    assert refused.code in (50, 51), refused.out
    assert converter.show("far-1")["state"] == "paused"


@pytest.mark.root
def test_an_import_into_a_full_store_says_so_and_goes_on_once_there_is_room(source, room):
    folder = stream_of(source, room / "stick")
    with (
        small_store(room, 128 * MiB) as store,
        converting(store / "data", room / "converter.log") as converter,
    ):
        take_room(store / "ballast", but=10 * MiB)
        words = [*P2V, "import", folder, "--data", converter.data, "--progress", "none"]
        running = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        said = running.stderr.readline()
        assert said.startswith(f"p2v: waiting: No room left in {store}") and "by itself" in said
        assert running.poll() is None
        (store / "ballast").unlink()
        out, err = running.communicate(timeout=60)
        assert (running.returncode, err) == (0, "p2v: going on\n")
        image = Path(converter.show("far-1")["images"][0])
        assert str(image) in out
        assert image.read_bytes() == source.read_bytes()


def test_an_import_whose_guest_could_not_be_converted_says_so(converter, tmp_path):
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(SIZE))
    run(["sfdisk", "-q", disk], stdin="label: dos\n,,L\n")
    with disk.open("r+b") as file:
        file.write(b"\xeb\x63\x90")  # something to start, and nothing behind it
    folder = stream_of(disk, tmp_path / "stick")
    done = run([*P2V, "import", folder, "--data", converter.data, "--json"])
    assert done.code == 3, done.err
    assert "The guest was not converted" in done.json["problem"]
    assert f"p2v: warning: {done.json['problem']}" in done.err
    tasks = [json.loads(line)["task"] for line in done.err.splitlines() if line[:1] == "{"]
    assert tasks[0] == "import"


@pytest.mark.root
def test_a_stick_that_is_full_is_named(source, tmp_path):
    stick = tmp_path / "stick"
    stick.mkdir()
    tool("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", stick)
    try:
        with (
            contextlib.closing(FolderConverter(stick)) as converter,
            pytest.raises(NoRoomError, match=str(stick)),
        ):
            migrate(converter, plan_for(source))
    finally:
        tool("umount", stick)
