# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import logging
from pathlib import Path
from random import Random

import pytest

from agent.cli.main import main
from agent.cli.migrate import printable
from agent.device import resolve
from p2v.service import steps
from p2v.wire.chunk import CHUNK_SIZE


@pytest.fixture(autouse=True)
def _quiet_logging():
    """The verb sets up logging, which would outlive the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def disk(tmp_path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(Random(1).randbytes(4 * CHUNK_SIZE) + bytes(4 * CHUNK_SIZE + 512))
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def run(capsys):
    def call(*words):
        code = main(["migrate", *(str(word) for word in words)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def migrated(run, disk, folder, *more):
    code, out, err = run(
        "--disk", disk, "--to", folder, "--name", "web01", "--progress", "none", "--json", *more
    )
    assert code == 0, out + err
    return json.loads(out)


@pytest.mark.parametrize("image", ["raw", "qcow2", "vhdx"])
def test_a_disk_becomes_an_image_in_a_folder(run, disk, folder, image):
    from p2v.images.compare import compare_images

    document = migrated(run, disk, folder, "--format", image)
    assert document["schema"] == 1 and document["state"] == "finished"
    assert document["counters"]["durable"] == disk.stat().st_size
    (made,) = document["images"]
    assert Path(made).suffix == f".{image}" and compare_images(disk, Path(made)).same


def test_people_are_told_in_words(run, disk, folder):
    code, out, err = run("--disk", disk, "--to", folder, "--format", "raw", "--progress", "none")
    assert code == 0
    assert "is finished after" in out and "wire" in out and ".raw" in out
    assert f"--to {folder} --resume" in err


def test_a_guest_that_was_not_converted_is_told_and_counts(run, disk, folder, monkeypatch):
    monkeypatch.setattr(steps, "not_converted", lambda _: "The guest was not converted: \x1b no.")
    words = ("--disk", disk, "--to", folder, "--format", "raw", "--progress", "none")
    code, out, err = run(*words)
    assert (code, "is finished" in out) == (3, True)
    assert "p2v-agent: warning: The guest was not converted: \\x1b no.\n" in err
    assert "waiting" not in err
    code, out, err = run(*words, "--name", "again", "--json")
    assert (code, json.loads(out)["problem"]) == (3, "The guest was not converted: \x1b no.")


def test_resuming_what_is_finished_shows_it_again(run, disk, folder):
    first = migrated(run, disk, folder, "--format", "raw")
    code, out, _ = run(
        "--resume", first["migration"], "--to", folder, "--progress", "none", "--json"
    )
    again = json.loads(out)
    assert code == 0 and again["images"] == first["images"] and again["state"] == "finished"


def test_resuming_what_does_not_exist(run, folder):
    code, out, _ = run("--resume", "web01-00000000", "--to", folder, "--json")
    assert code == 14 and json.loads(out)["error"]["code"] == "no-such-migration"


def test_a_dry_run_writes_nothing(run, disk, folder):
    code, out, _ = run("--disk", disk, "--to", folder, "--dry-run", "--json")
    assert code in (0, 3)
    assert json.loads(out)["plan"]["disks"][0]["path"] == str(resolve(str(disk)))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--disk", "disk.img"), "say where to"),
        (("--resume", "x-1", "--to", ".", "--dry-run"), "a resume has one already"),
        (("--disk", "disk.img", "--to", "/nowhere"), "is no folder"),
        (("--disk", "disk.img", "--server", "http://x"), "is no converter's address"),
    ],
)
def test_a_command_line_that_makes_no_sense(run, disk, monkeypatch, words, said):
    monkeypatch.chdir(disk.parent)
    code, _, err = run(*words)
    assert code == 2 and said in err and "Traceback" not in err


def test_a_disk_that_nobody_writes_to_needs_no_live_capture(run, disk, folder):
    done = migrated(run, disk, folder, "--live", "--format", "raw")
    assert Path(done["images"][0]).read_bytes() == disk.read_bytes()
    assert "live" not in done


@pytest.mark.parametrize("words", [["at"], ["noon"], ["at", "25:00"], ["at", "2001-01-01T00:00"]])
def test_a_cutover_at_no_time_is_refused_in_words(run, disk, folder, words):
    code, _, err = run("--disk", disk, "--to", folder, "--live", "--cutover", *words)
    assert code == 2 and words[-1] in err


def test_a_freeze_without_end_is_refused(run, disk, folder):
    code, _, err = run("--disk", disk, "--to", folder, "--live", "--freeze-limit", "3600")
    assert code == 2 and "--freeze-limit" in err


def test_what_a_terminal_would_obey_is_made_visible():
    assert printable("web\x1b[2J01\n") == "web\\x1b[2J01\\n"
