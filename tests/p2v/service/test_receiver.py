# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest

from p2v.model.errors import ImageError, NoRoomError, NoSuchDiskError, ProtocolError, VerifyError
from p2v.model.plan import ImageFormat
from p2v.service import receiver as receiver_module
from p2v.service.receiver import Receiver, image_name
from p2v.wire.chunk import CHUNK_SIZE, GROUP_CHUNKS, GROUP_SIZE, UNKNOWN, digest, zero_digest
from p2v.wire.codec import Decoder
from p2v.wire.digestmap import DigestMap
from p2v.wire.frame import Frame, Kind, WireCodec

FORMATS = tuple(ImageFormat)


def data_frame(data, chunk=0, disk=0) -> Frame:
    offset = chunk * CHUNK_SIZE
    return Frame(Kind.DATA, disk, offset, len(data), payload=len(data), digest=digest(data))


def put(receiver, data, chunk=0, disk=0) -> None:
    receiver.apply(data_frame(data, chunk, disk), data, Decoder())


def zero(receiver, first, count, disk=0) -> None:
    offset = first * CHUNK_SIZE
    length = min(count * CHUNK_SIZE, receiver.sizes[disk] - offset)
    receiver.apply(Frame(Kind.ZERO, disk, offset, length), b"", Decoder())


def read(receiver, chunk=0, disk=0) -> bytes:
    buffer = bytearray(min(CHUNK_SIZE, receiver.sizes[disk] - chunk * CHUNK_SIZE))
    receiver._disks[disk].image.readinto(chunk * CHUNK_SIZE, buffer)
    return bytes(buffer)


def known(receiver, chunk=0, disk=0) -> bytes:
    return receiver._disks[disk].map.get(chunk)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


A, B = (bytes([value]) * CHUNK_SIZE for value in (0xA5, 0x5A))


@pytest.fixture
def make(tmp_path, make_plan):
    """Make a receiver; it is closed at the end."""
    made = []

    def create(size=4 * CHUNK_SIZE + 4096, disks=("sda",), image=ImageFormat.RAW) -> Receiver:
        plan = make_plan(disks=disks, size=size, image=image)
        made.append(Receiver.create(tmp_path, plan))
        return made[-1]

    yield create
    for receiver in made:
        receiver.close()


def failing(number, times=1):
    """Return a call that fails with this errno so many times, and then does nothing."""
    left = [times]

    def call(*_, **__) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("image", FORMATS)
def test_a_digest_is_known_only_after_the_checkpoint(make, image):
    receiver = make(image=image)
    put(receiver, A)
    assert known(receiver) == UNKNOWN
    receiver.checkpoint()
    assert known(receiver) == digest(A) and read(receiver) == A


@pytest.mark.parametrize("image", FORMATS)
def test_a_chunk_that_is_written_again_is_unknown_until_the_next_checkpoint(make, image):
    receiver = make(image=image)
    put(receiver, A)
    receiver.checkpoint()
    put(receiver, B)
    assert known(receiver) == UNKNOWN
    receiver.checkpoint()
    assert known(receiver) == digest(B) and read(receiver) == B


def forget(receiver, first, count, disk=0) -> None:
    length = min(count * CHUNK_SIZE, receiver.sizes[disk] - first * CHUNK_SIZE)
    frame = Frame(Kind.FORGET, disk, first * CHUNK_SIZE, length)
    receiver.apply(frame, b"", Decoder())


@pytest.fixture
def syncs(make, monkeypatch):
    """A receiver with five known chunks, and the syncs of its map from then on."""
    receiver = make()
    for chunk in range(4):
        put(receiver, A, chunk)
    put(receiver, A[:4096], 4)
    receiver.checkpoint()
    digests = receiver._disks[0].map
    real, counted = digests.sync, []

    def sync() -> None:
        counted.append([known(receiver, chunk) == UNKNOWN for chunk in range(5)])
        real()

    monkeypatch.setattr(digests, "sync", sync)
    return receiver, counted


def test_what_is_announced_is_unknown_and_keeps_its_bytes(syncs):
    receiver, _ = syncs
    forget(receiver, 1, 4)
    assert [known(receiver, chunk) == UNKNOWN for chunk in range(5)] == [False] + [True] * 4
    assert receiver.missing(0) == 4 and read(receiver, 1) == A


def test_rewriting_what_was_announced_costs_one_sync(syncs):
    receiver, counted = syncs
    forget(receiver, 0, 2)
    forget(receiver, 3, 1)
    for chunk in (0, 1, 3):
        put(receiver, B, chunk)
    assert counted == [[True, True, False, True, False]]


def test_rewriting_what_was_not_announced_costs_a_sync_each(syncs):
    receiver, counted = syncs
    for chunk in (0, 1, 3):
        put(receiver, B, chunk)
    assert len(counted) == 3


def test_a_pending_digest_is_dropped_by_an_announcement(make):
    receiver = make()
    put(receiver, A)
    forget(receiver, 0, 1)
    receiver.checkpoint()
    assert known(receiver) == UNKNOWN


def test_a_chunk_that_is_written_again_during_a_checkpoint_is_not_recorded_by_it(make, monkeypatch):
    receiver = make()
    put(receiver, A)
    image = receiver._disks[0].image
    real = image.checkpoint

    def checkpoint() -> None:
        real()
        put(receiver, B)

    monkeypatch.setattr(image, "checkpoint", checkpoint)
    receiver.checkpoint()
    assert known(receiver) == UNKNOWN
    monkeypatch.undo()
    receiver.checkpoint()
    assert known(receiver) == digest(B)


def test_zeros_over_data_and_data_over_zeros(make):
    receiver = make()
    put(receiver, A, 1)
    zero(receiver, 0, 5)
    put(receiver, B, 2)
    receiver.checkpoint()
    claims = [known(receiver, chunk) for chunk in range(5)]
    zeros = zero_digest(CHUNK_SIZE)
    assert claims == [zeros, zeros, digest(B), zeros, zero_digest(4096)]
    assert [read(receiver, chunk) == bytes(CHUNK_SIZE) for chunk in (0, 1, 3)] == [True] * 3
    assert receiver.missing(0) == 0
    receiver.verify()


def test_a_long_run_of_zeros_costs_one_note(make):
    receiver = make(size=3 * GROUP_SIZE)
    zero(receiver, 1, 3 * GROUP_CHUNKS - 1)
    disk = receiver._disks[0]
    assert [(e.offset, e.length) for e in disk.pending.zeros] == [(1, 3 * GROUP_CHUNKS - 1)]
    assert not disk.pending.chunks
    put(receiver, A, GROUP_CHUNKS + 5)  # cuts the extent
    receiver.checkpoint()
    assert receiver.missing(0) == 1 and known(receiver, 0) == UNKNOWN
    assert receiver.digests(0, 2) == b"\1"
    assert known(receiver, GROUP_CHUNKS + 5) == digest(A)


def test_pages_change_a_chunk_that_is_known_and_nothing_else_is_written(make, monkeypatch):
    from native import changed_pages
    from p2v.wire import pages
    from p2v.wire.codec import Encoder

    receiver = make()
    put(receiver, A)
    image, written = receiver._disks[0].image, []
    write = image.write

    def note(offset, data):
        written.append((offset, len(data)))
        write(offset, data)

    monkeypatch.setattr(image, "write", note)
    new = A[:8192] + B[:4096] + A[12288:]
    codec, payload = pages.pack(new, changed_pages(A, new), Encoder(WireCodec.ZSTD))
    frame = Frame(
        Kind.PAGES, 0, 0, CHUNK_SIZE, codec=codec, payload=len(payload), digest=digest(new)
    )
    receiver.apply(frame, payload, Decoder())
    receiver.checkpoint()
    assert read(receiver) == new and known(receiver) == digest(new)
    assert written == [(8192, 4096)]


def test_a_wrong_digest_changes_nothing(make):
    receiver = make()
    put(receiver, A)
    receiver.checkpoint()
    with pytest.raises(ProtocolError, match="digest of the chunk at 0 is wrong"):
        receiver.apply(data_frame(B), A, Decoder())
    assert read(receiver) == A and known(receiver) == digest(A)


def test_a_group_that_is_none_is_refused(make):
    receiver = make()
    assert receiver.digests(0, 0) == b"\0"
    for disk, group in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        with pytest.raises(NoSuchDiskError):
            receiver.digests(disk, group)


@pytest.mark.parametrize("image", FORMATS)
def test_a_receiver_that_is_opened_again_knows_what_was_checkpointed(tmp_path, make_plan, image):
    plan = make_plan(size=4 * CHUNK_SIZE, image=image)
    with closing(Receiver.create(tmp_path, plan)) as receiver:
        put(receiver, A, 0)
        receiver.checkpoint()
        put(receiver, A, 1)
    with closing(Receiver.resume(tmp_path, plan)) as receiver:
        assert [known(receiver, chunk) for chunk in (0, 1)] == [digest(A), UNKNOWN]
        assert read(receiver, 0) == A


def test_verify_names_what_differs_and_forgets_it(make):
    receiver = make()
    zero(receiver, 0, 5)
    put(receiver, A, 1)
    put(receiver, B, 3)
    receiver.checkpoint()
    receiver.verify()
    receiver._disks[0].image.write(3 * CHUNK_SIZE + 77, b"?")
    with pytest.raises(VerifyError) as caught:
        receiver.verify()
    assert caught.value.fields["count"] == 1
    assert caught.value.fields["offset"] == 3 * CHUNK_SIZE
    assert [known(receiver, chunk) != UNKNOWN for chunk in range(5)] == [1, 1, 1, 0, 1]
    put(receiver, B, 3)
    receiver.checkpoint()
    receiver.verify()


def test_verify_reads_groups_of_zeros_that_are_stored(make):
    receiver = make(size=GROUP_SIZE + 4096)
    zero(receiver, 0, GROUP_CHUNKS + 1)
    receiver.checkpoint()
    progress: list[tuple[int, int]] = []
    receiver.verify(lambda done, total: progress.append((done, total)))
    assert progress == [(GROUP_SIZE, GROUP_SIZE + 4096), (GROUP_SIZE + 4096, GROUP_SIZE + 4096)]
    receiver._disks[0].image.write(9 * CHUNK_SIZE, b"?")
    with pytest.raises(VerifyError):
        receiver.verify()


@pytest.mark.parametrize("image", FORMATS)
def test_commit_gives_the_images_their_names(make, image):
    receiver = make(image=image)
    zero(receiver, 0, 5)
    paths = receiver.commit()
    assert [path.name for path in paths] == [f"web01-sda.{image}"]
    assert all(path.exists() for path in paths)


def test_discard_leaves_nothing(make, tmp_path):
    make(disks=("sda", "sdb")).discard()
    assert list(tmp_path.iterdir()) == []


def test_names_of_images_are_harmless(make_plan):
    plan = make_plan(name="../../etc/web 01\n", disks=("/dev/mapper/a b", "...", "C:\\x"))
    names = [image_name(plan, index) for index in range(3)]
    assert names == ["etc_web_01-a_b.raw", "etc_web_01-disk.raw", "etc_web_01-C_x.raw"]


# --- what goes wrong on the converter's own disk


@pytest.mark.parametrize("place", ["image", "map"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_checkpoint_without_room_loses_no_digest_of_any_disk(make, monkeypatch, place, number):
    receiver = make(disks=("sda", "sdb", "sdc"))
    for disk in range(3):
        put(receiver, A, 0, disk)
        zero(receiver, 1, 4, disk)
    image = receiver._disks[1].image
    with monkeypatch.context() as patch:
        if place == "image":
            patch.setattr(image, "checkpoint", failing(number))
        else:
            patch.setattr(receiver._disks[1].map, "record", failing(number))
        with pytest.raises(NoRoomError):
            receiver.checkpoint()
    assert receiver.durable == 0
    put(receiver, B, 0, 2)
    receiver.checkpoint()
    assert [receiver.missing(disk) for disk in range(3)] == [0, 0, 0]
    assert [known(receiver, 0, disk) for disk in range(3)] == [digest(A), digest(A), digest(B)]


def test_room_that_the_map_lacks_pauses_like_room_that_the_image_lacks(make, monkeypatch):
    receiver = make()
    zero(receiver, 0, 5)
    receiver.checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(receiver._disks[0].map, "forget", failing(errno.ENOSPC))
        with pytest.raises(NoRoomError):
            put(receiver, A)
    put(receiver, A)
    receiver.checkpoint()
    assert receiver.missing(0) == 0 and read(receiver) == A


def test_a_failure_of_the_converters_disk_names_the_image(make, monkeypatch):
    receiver = make()
    with monkeypatch.context() as patch:
        patch.setattr(receiver._disks[0].image, "write", failing(errno.EIO))
        with pytest.raises(ImageError, match=r"web01-sda\.raw\.partial: .*Input/output error"):
            put(receiver, A)


def test_a_map_whose_sync_failed_is_not_trusted_again(tmp_path, monkeypatch):
    digests = DigestMap.create(tmp_path / "map", GROUP_SIZE)
    digests.record_zero(0, GROUP_CHUNKS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            digests.sync()
    with pytest.raises(ImageError, match="could not be made durable"):
        digests.sync()
    digests.close()


def test_a_receiver_with_a_failed_sync_says_so(make, monkeypatch):
    receiver = make()
    put(receiver, A)
    assert not receiver.failed
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(ImageError):
            receiver.checkpoint()
    assert receiver.failed


def test_opening_that_fails_holds_no_file(tmp_path, make_plan):
    plan = make_plan(disks=("sda", "sdb"))
    receiver = Receiver.create(tmp_path, plan)
    receiver.close()
    kept = (tmp_path / "web01-sdb.raw.digests").read_bytes()
    (tmp_path / "web01-sdb.raw.digests").write_bytes(b"damaged")
    with pytest.raises(ImageError, match="digest map"):
        Receiver.resume(tmp_path, plan)
    (tmp_path / "web01-sdb.raw.digests").write_bytes(kept)
    Receiver.resume(tmp_path, plan).close()  # its locks were given back


def test_creation_that_fails_leaves_nothing(tmp_path, make_plan):
    (tmp_path / "web01-sdb.raw.partial").write_bytes(b"in the way")
    before = descriptors()
    with pytest.raises(ImageError):
        Receiver.create(tmp_path, make_plan(disks=("sda", "sdb")))
    assert [path.name for path in tmp_path.iterdir()] == ["web01-sdb.raw.partial"]
    assert descriptors() == before


# --- when checkpoints come


def test_a_checkpoint_comes_when_much_was_written(make, monkeypatch):
    monkeypatch.setattr(receiver_module, "CHECKPOINT_BYTES", 2 * CHUNK_SIZE)
    receiver = make()
    put(receiver, A, 0)
    receiver.checkpoint_if_due()
    assert receiver.stats.checkpoints == 0
    put(receiver, A, 1)
    receiver.checkpoint_if_due()
    assert receiver.stats.checkpoints == 1 and known(receiver) == digest(A)


def test_a_checkpoint_comes_when_time_went_by(make, monkeypatch):
    monkeypatch.setattr(receiver_module, "CHECKPOINT_SECONDS", 0.05)
    receiver = make()
    sleep(0.06)
    receiver.checkpoint_if_due()
    assert receiver.stats.checkpoints == 0, "nothing was written"
    put(receiver, A)
    receiver.checkpoint_if_due()
    assert receiver.stats.checkpoints == 1


def test_who_writes_much_during_a_slow_checkpoint_waits_for_it(make, monkeypatch):
    monkeypatch.setattr(receiver_module, "CHECKPOINT_BYTES", CHUNK_SIZE)
    receiver = make(size=64 * CHUNK_SIZE)
    image = receiver._disks[0].image
    real = image.checkpoint
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)
        real()

    monkeypatch.setattr(image, "checkpoint", slow)
    put(receiver, A, 0)
    first = threading.Thread(target=receiver.checkpoint_if_due)
    first.start()
    assert begun.wait(20)

    def write_on() -> None:
        for chunk in range(1, 40):
            put(receiver, A, chunk)
            receiver.checkpoint_if_due()

    second = threading.Thread(target=write_on)
    second.start()
    second.join(0.5)
    waiting, pending = second.is_alive(), len(receiver._disks[0].pending.chunks)
    go_on.set()
    for thread in (first, second):
        thread.join(20)
    assert waiting and pending <= 2, "what a crash costs is not bounded"
    assert receiver.stats.checkpoints > 2


def test_who_asks_for_a_checkpoint_during_another_shares_the_next_one(make, monkeypatch):
    receiver = make(size=64 * CHUNK_SIZE)
    image = receiver._disks[0].image
    real = image.checkpoint
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(20)
        real()

    def flush(chunk) -> None:
        put(receiver, B, chunk)
        receiver.checkpoint()

    monkeypatch.setattr(image, "checkpoint", slow)
    senders = [threading.Thread(target=flush, args=(chunk,)) for chunk in range(8)]
    senders[0].start()
    assert begun.wait(20)
    for sender in senders[1:]:
        sender.start()
    while len(receiver._disks[0].pending.chunks) < 7:
        sleep(0.01)
    go_on.set()
    for sender in senders:
        sender.join(20)
    assert receiver.stats.checkpoints < len(senders)
    assert all(known(receiver, chunk) == digest(B) for chunk in range(8))


def test_an_epoch_is_durable_only_after_the_checkpoint_that_ended_it(make):
    receiver = make()
    put(receiver, A)
    written_in = receiver.epoch
    assert receiver.durable == written_in
    receiver.checkpoint()
    assert receiver.durable > written_in


def test_sessions_that_write_beside_checkpoints_end_with_what_they_wrote_last(make):
    receiver = make(size=16 * CHUNK_SIZE)
    stop = threading.Event()

    def checkpoints() -> None:
        while not stop.is_set():
            receiver.checkpoint()

    def session(first: int) -> None:
        for turn in range(30):
            for chunk in range(first, 16, 4):
                if turn % 3 == 2:
                    zero(receiver, chunk, 1)
                else:
                    put(receiver, bytes([turn]) * CHUNK_SIZE, chunk)

    beside = threading.Thread(target=checkpoints)
    sessions = [threading.Thread(target=session, args=(first,)) for first in range(4)]
    deadline = monotonic() + 60
    beside.start()
    for thread in sessions:
        thread.start()
    for thread in sessions:
        thread.join(deadline - monotonic())
    stop.set()
    beside.join(20)
    receiver.checkpoint()
    assert receiver.missing(0) == 0
    receiver.verify()
