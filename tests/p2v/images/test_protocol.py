# SPDX-License-Identifier: GPL-3.0-or-later
"""Every writer against a bytearray: any order of writes, zeros, checkpoints, commits, power losses.

A power loss leaves, of every 4 KiB page written since the last sync of the file, either the old or
the new content. It may strike between the syncs inside a checkpoint or commit.
"""

import os
import random
import shutil
import subprocess
import tempfile
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from p2v.images.base import StoresZstd, partial_path
from p2v.images.open import create_writer, open_reader, resume_writer
from p2v.images.qcow2_writer import Qcow2Writer
from p2v.model.errors import ImageIncompleteError
from p2v.model.plan import ImageFormat

PAGE = 4096
SIZE = (1 << 20) + 1536


def _qcow2(cluster_size, compressed=False):
    return lambda path: Qcow2Writer.create(
        path, SIZE, cluster_size=cluster_size, compressed=compressed
    )


KINDS = {
    "raw": (ImageFormat.RAW, lambda path: create_writer(ImageFormat.RAW, path, SIZE)),
    "vhdx": (ImageFormat.VHDX, lambda path: create_writer(ImageFormat.VHDX, path, SIZE)),
    "qcow2, 64 KiB": (ImageFormat.QCOW2, _qcow2(65536)),
    "qcow2, 512 bytes": (ImageFormat.QCOW2, _qcow2(512)),
    "qcow2 zstd, 16 KiB": (ImageFormat.QCOW2, _qcow2(16384, compressed=True)),
    "qcow2 zstd, 2 KiB": (ImageFormat.QCOW2, _qcow2(2048, compressed=True)),
}


class PowerLossError(BaseException):
    """Unwinds the writer as it stands."""


class Disk:
    """Watches the syncs of a file, and knows what of it is durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.durable = b""
        self.syncs_left = -1

    @property
    def present(self) -> Path:
        return self.path if self.path.exists() else partial_path(self.path)

    @contextmanager
    def watched(self):
        fsync, fdatasync = os.fsync, os.fdatasync

        def sync(fd):
            if self.syncs_left == 0:
                raise PowerLossError
            self.syncs_left -= 1
            fsync(fd)
            if self.present.exists() and os.path.samestat(os.fstat(fd), self.present.stat()):
                self.durable = self.present.read_bytes()

        os.fsync = os.fdatasync = sync
        try:
            yield
        finally:
            os.fsync, os.fdatasync = fsync, fdatasync

    def lose_power(self, seed: int) -> None:
        """Replace the file with what the disk may hold of it."""
        chance = random.Random(seed)
        now = self.present.read_bytes()
        share = chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        length = len(now) if chance.random() < share else len(self.durable)
        after = bytearray(now[:length].ljust(length, b"\0"))
        for start in range(0, length, PAGE):
            end = min(start + PAGE, length)
            if chance.random() >= share:
                after[start:end] = self.durable[start:end].ljust(end - start, b"\0")
        name = self.present
        name.unlink()
        name.write_bytes(after)


class WriterMachine(RuleBasedStateMachine):
    """Drives one writer; subclasses say which."""

    kind = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="p2v-protocol-"))
        self.path = self.folder / "disk"
        self.disk = Disk(self.path)
        self.model = bytearray(SIZE)
        self.undone = []  # what came after the last checkpoint, to be done again
        self.format, create = KINDS[self.kind]
        with self.disk.watched():
            self.writer = create(self.path)
        self.compressor = zstandard.ZstdCompressor(level=1)

    def teardown(self) -> None:
        self.writer.close()
        shutil.rmtree(self.folder)

    offsets = st.one_of(
        st.integers(0, SIZE - 1), st.sampled_from([k * 16384 for k in range(SIZE // 16384)])
    )
    lengths = st.one_of(st.integers(1, 70000), st.sampled_from([512, 2048, 16384, 65536, 400000]))

    def do(self, name, offset, payload) -> None:
        """Do an operation on the image and on the model."""
        if name == "zero":
            self.writer.zero(offset, payload)
            self.model[offset : offset + payload] = bytes(payload)
        else:
            if name == "write":
                self.writer.write(offset, payload)
            else:
                frame = self.compressor.compress(payload)
                kept = self.writer.write_zstd(offset, len(payload), frame)
                assert kept or len(payload) != self.writer.cluster_size
                if not kept:
                    self.writer.write(offset, payload)
            self.model[offset : offset + len(payload)] = payload
        self.undone.append((name, offset, payload))

    @rule(offset=offsets, length=lengths, seed=st.integers(0, 255))
    def write(self, offset, length, seed) -> None:
        length = min(length, SIZE - offset)
        with self.disk.watched():
            self.do("write", offset, random.Random(seed).randbytes(length))

    @rule(offset=offsets, length=lengths)
    def zero(self, offset, length) -> None:
        with self.disk.watched():
            self.do("zero", offset, min(length, SIZE - offset))

    @precondition(lambda self: isinstance(self.writer, StoresZstd))
    @rule(offset=offsets, count=st.integers(1, 8), seed=st.integers(0, 255))
    def write_zstd(self, offset, count, seed) -> None:
        cluster = self.writer.cluster_size
        for index in range(offset // cluster, offset // cluster + count):
            length = min(cluster, SIZE - index * cluster)
            if length > 0:
                text = random.Random(seed + index).randbytes(200) * (length // 200 + 1)
                self.do("zstd", index * cluster, text[:length])

    @rule()
    def read_back(self) -> None:
        content = bytearray(SIZE)
        self.writer.readinto(0, content)
        assert content == self.model

    @rule()
    def checkpoint(self) -> None:
        with self.disk.watched():
            self.writer.checkpoint()
        self.undone.clear()

    @rule()
    def commit_and_resume(self) -> None:
        with self.disk.watched():
            self.writer.commit()
            self.undone.clear()
            self.writer.close()
            assert self.path.exists() and not partial_path(self.path).exists()
            self.read_committed()
            self.writer = resume_writer(self.format, self.path)
        assert not self.path.exists()

    @rule(
        seed=st.integers(0, 1 << 30),
        syncs=st.integers(0, 4),
        within=st.sampled_from(["", "checkpoint", "commit", "resume"]),
    )
    def lose_power(self, seed, syncs, within) -> None:
        lost = False
        with self.disk.watched():
            self.disk.syncs_left = syncs
            try:
                if within in ("checkpoint", "commit"):
                    getattr(self.writer, within)()
                    if within == "checkpoint":
                        self.undone.clear()
            except PowerLossError:
                lost = True
            self.writer.close()
            self.disk.lose_power(seed)
            self.check_whole_if_it_looks_so()
            if within == "resume" and not lost:  # and once more while it recovers
                self.disk.durable = self.disk.present.read_bytes()
                try:
                    resume_writer(self.format, self.path).close()
                except PowerLossError:
                    self.disk.lose_power(seed + 1)
                    self.check_whole_if_it_looks_so()
            self.disk.syncs_left = -1
            self.disk.durable = self.disk.present.read_bytes()
            self.writer = resume_writer(self.format, self.path)
            self.check_untouched()
            todo, self.undone = self.undone, []
            for name, offset, payload in todo:
                self.do(name, offset, payload)

    def check_whole_if_it_looks_so(self) -> None:
        """What a reader takes for a finished image is one; a raw image has only its name."""
        if self.format is ImageFormat.RAW:
            return
        copy = self.folder / "copy"
        copy.write_bytes(self.disk.present.read_bytes())
        with suppress(ImageIncompleteError), closing(open_reader(copy, self.format)) as reader:
            content = bytearray(SIZE)
            reader.readinto(0, content)
            assert content == self.model
            if self.format is ImageFormat.QCOW2:
                subprocess.run(["qemu-img", "check", "-q", copy], check=True)

    def check_untouched(self) -> None:
        """What was not written since the checkpoint is as it was."""
        touched = bytearray(SIZE)
        for _, offset, payload in self.undone:
            length = payload if isinstance(payload, int) else len(payload)
            touched[offset : offset + length] = b"\1" * length
        content = bytearray(SIZE)
        self.writer.readinto(0, content)
        for start in range(0, SIZE, 512):
            if not any(touched[start : start + 512]):
                assert content[start : start + 512] == self.model[start : start + 512], start

    def read_committed(self) -> None:
        reader = open_reader(self.path, self.format)
        content = bytearray(SIZE)
        reader.readinto(0, content)
        assert content == self.model
        if self.format is ImageFormat.QCOW2:
            subprocess.run(["qemu-img", "check", "-q", self.path], check=True)
        end = 0
        for extent in reader.extents():
            assert extent.offset == end and extent.length > 0
            assert not extent.zero or not any(self.model[extent.offset : extent.end])
            end = extent.end
        assert end == SIZE
        reader.close()

    @initialize()
    def starts_as_zeros(self) -> None:
        self.read_back()


def _run(kind: str, examples: int) -> None:
    machine = type("Machine", (WriterMachine,), {"kind": kind})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_keeps_what_a_checkpoint_covered(kind):
    _run(kind, 12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_a_writer_keeps_what_a_checkpoint_covered_in_many_runs(kind):
    _run(kind, 500)
