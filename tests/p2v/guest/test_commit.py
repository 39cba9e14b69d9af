# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits on their way from an overlay into an image: exact, and whole whatever is killed when."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from p2v.guest import commit
from p2v.guest.overlay import create_overlay, overlay_path
from p2v.images.check import check_image
from p2v.images.open import create_writer, open_reader
from p2v.model.errors import ImageError, ImageIncompleteError
from p2v.model.plan import ImageFormat
from p2v.model.units import KiB, MiB
from p2v.wire.chunk import CHUNK_SIZE, chunk_count, chunk_length, digest
from p2v.wire.digestmap import DigestMap

SIZE = 32 * MiB + 4 * KiB
EDITS = [(0, 512, 1), (1 * MiB, 3 * MiB, 2), (10 * MiB, 8 * MiB, 3), (SIZE - 4 * KiB, 4 * KiB, 4)]
ZEROED = (24 * MiB, 2 * MiB)


def content(image: Path, image_format: ImageFormat) -> bytes:
    with closing(open_reader(image, image_format)) as reader:
        data = bytearray(reader.size)
        reader.readinto(0, data)
    return bytes(data)


def chunk(data: bytes, index: int) -> memoryview:
    start = index * CHUNK_SIZE
    return memoryview(data)[start : start + chunk_length(index, SIZE)]


def captured(folder: Path, image_format: ImageFormat) -> Path:
    """Make an image with something in it, and its digest map, as a migration leaves them."""
    path = folder / f"disk.{image_format}"
    with closing(create_writer(image_format, path, SIZE)) as writer:
        random.seed(7)
        for offset in (0, 2 * MiB, 12 * MiB, 24 * MiB, SIZE - MiB):
            writer.write(offset, random.randbytes(MiB))
        writer.commit()
    before = content(path, image_format)
    with closing(DigestMap.create(Path(f"{path}.digests"), SIZE)) as digests:
        digests.record((index, digest(chunk(before, index))) for index in range(chunk_count(SIZE)))
        digests.sync()
    return path


def edited(image: Path, image_format: ImageFormat) -> bytes:
    """Edit an overlay of the image with QEMU; return what the disk must then hold."""
    wanted = bytearray(content(image, image_format))
    overlay = create_overlay(image, image_format)
    commands = []
    for offset, length, pattern in EDITS:
        commands += ["-c", f"write -P {pattern} {offset} {length}"]
        wanted[offset : offset + length] = bytes([pattern]) * length
    commands += ["-c", f"write -z {ZEROED[0]} {ZEROED[1]}"]
    wanted[ZEROED[0] : sum(ZEROED)] = bytes(ZEROED[1])
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, str(overlay)], check=True, timeout=60)
    return bytes(wanted)


def begun(image: Path, image_format: ImageFormat) -> Path:
    """Bring the edits to where they can't be lost; return the journal's path."""
    journal = commit.journal_path(image)
    images = commit.prepare([(image, image_format, overlay_path(image))])
    commit.begin(journal, commit.Journal(images, {"kept": True}))
    return journal


def assert_digests_are_true(image: Path, data: bytes) -> None:
    with closing(DigestMap.open(Path(f"{image}.digests"))) as digests:
        assert digests.missing() == 0
        for index in range(chunk_count(SIZE)):
            assert digests.get(index) == digest(chunk(data, index)), index


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_edits_reach_the_image_exactly_and_its_digests_stay_true(tmp_path, image_format):
    image = captured(tmp_path, image_format)
    wanted = edited(image, image_format)
    path = begun(image, image_format)
    journal = commit.load(path)
    assert journal is not None
    steps = []
    commit.finish(path, journal, lambda done, total: steps.append((done, total)))
    commit.end(path)
    assert content(image, image_format) == wanted
    assert_digests_are_true(image, wanted)
    assert check_image(image).errors == 0
    assert steps[-1] == (journal.length, journal.length)
    assert sorted(one.name for one in tmp_path.iterdir()) == [image.name, f"{image.name}.digests"]


def test_nothing_reaches_the_image_before_the_journal(tmp_path):
    image = captured(tmp_path, ImageFormat.VHDX)
    before = image.read_bytes()
    edited(image, ImageFormat.VHDX)
    commit.prepare([(image, ImageFormat.VHDX, overlay_path(image))])
    assert image.read_bytes() == before


def test_an_image_half_written_is_not_taken_for_a_finished_one(tmp_path):
    image = captured(tmp_path, ImageFormat.VHDX)
    edited(image, ImageFormat.VHDX)
    path = begun(image, ImageFormat.VHDX)
    journal = commit.load(path)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit.finish(path, journal, stop)
    with pytest.raises(ImageIncompleteError):
        open_reader(image)
    commit.finish(path, journal)
    assert check_image(image).errors == 0


KILLED = """
import sys
from pathlib import Path
from p2v.guest import commit
path = Path(sys.argv[1])
print("begun", flush=True)
commit.finish(path, commit.load(path))
commit.end(path)
"""


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_a_commit_that_is_killed_at_any_moment_is_made_good_by_the_next(tmp_path, image_format):
    source = captured(tmp_path, image_format)
    wanted = edited(source, image_format)
    path = begun(source, image_format)
    names = [one.name for one in tmp_path.iterdir()]
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    for name in names:
        shutil.copy(tmp_path / name, pristine / name)
    chance = random.Random(11)
    cut_off = 0
    for _ in range(8):
        for one in tmp_path.iterdir():
            if one.is_file():
                one.unlink()
        for name in names:
            shutil.copy(pristine / name, tmp_path / name)
        while path.exists():
            process = subprocess.Popen(
                [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE
            )
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            cut_off += path.exists()
            if chance.random() < 0.4:  # else once more, over the ruins
                break
        if (journal := commit.load(path)) is not None:
            commit.finish(path, journal)
            commit.end(path)
        assert content(source, image_format) == wanted
        assert_digests_are_true(source, wanted)
        assert check_image(source).errors == 0
    assert cut_off, "no run was cut off: this test has shown nothing"


def test_a_journal_that_is_damaged_is_named(tmp_path):
    path = tmp_path / "disk.vhdx.edits.journal"
    path.write_text('{"images": [{"image": 3}]}')
    with pytest.raises(ImageError, match="no journal of a conversion"):
        commit.load(path)
    assert commit.load(tmp_path / "none") is None
