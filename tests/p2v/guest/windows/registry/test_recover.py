# SPDX-License-Identifier: GPL-3.0-or-later
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.guest.windows.registry.base import (
    KTM_LOCKED,
    PAGE,
    SECTOR,
    BaseBlock,
    FileType,
    HiveDamagedError,
)
from p2v.guest.windows.registry.entries import Entry, entries
from p2v.guest.windows.registry.hive import Hive, walk
from p2v.guest.windows.registry.marvin import marvin32
from p2v.guest.windows.registry.recover import recover
from tests.p2v.guest.windows import building

BINS = 4
"""Pages of the small hives made here; each page is a bin."""


def a_hive(fill: bytes, primary: int, secondary: int, written: int = 7, pages: int = BINS) -> bytes:
    base = bytearray(PAGE)
    struct.pack_into(
        "<4sIIQIIIIIII", base, 0, b"regf", primary, secondary, written, 1, 5, 0, 1, 32, 0, 1
    )
    struct.pack_into("<I", base, 40, pages * PAGE)
    return sealed(base) + b"".join(a_bin(number, fill) for number in range(pages))


def a_bin(number: int, fill: bytes) -> bytes:
    head = struct.pack("<4sIIQQI", b"hbin", number * PAGE, PAGE, 0, 7 if number == 0 else 0, 0)
    return head + fill * (PAGE - len(head))


def sealed(base: bytearray) -> bytes:
    value = 0
    for (word,) in struct.iter_unpack("<I", base[:508]):
        value ^= word
    struct.pack_into("<I", base, 508, value)
    return bytes(base)


def log_base(kind: int, sequence: int, pages: int = BINS, written: int = 7) -> bytes:
    base = bytearray(a_hive(b"-", sequence, sequence, written, pages)[:SECTOR])
    struct.pack_into("<I", base, 28, kind)
    return sealed(base)


def an_entry(sequence: int, changed: dict[int, bytes], pages: int = BINS, flags: int = 0) -> bytes:
    references = b"".join(struct.pack("<II", number * PAGE, PAGE) for number in changed)
    body = references + b"".join(changed.values())
    size = -(-(40 + len(body)) // SECTOR) * SECTOR
    body = body.ljust(size - 40, b"\0")
    head = struct.pack("<4sIIIII", b"HvLE", size, flags, sequence, pages * PAGE, len(changed))
    head += struct.pack("<Q", marvin32(body))
    return head + struct.pack("<Q", marvin32(head)) + body


def entry_log(first: int, *written: bytes) -> bytes:
    return log_base(FileType.LOG_OF_ENTRIES, first) + b"".join(written)


def vector_log(changed: dict[int, bytes], sequence: int = 5, written: int = 7) -> bytes:
    bitmap = bytes(255 if number in changed else 0 for number in range(BINS))
    vector = (b"DIRT" + bitmap).ljust(SECTOR, b"\0")
    return log_base(FileType.LOG, sequence, written=written) + vector + b"".join(changed.values())


def pages_of(hive: bytes) -> list[bytes]:
    return [hive[at : at + PAGE] for at in range(PAGE, len(hive), PAGE)]


# --- what Windows wrote


def test_every_entry_in_the_logs_of_a_real_windows_has_the_hash_that_we_compute():
    first, second = building.logs()
    assert [entry.sequence for entry in entries(first, 2107)] == list(range(2107, 2111))
    assert [entry.sequence for entry in entries(second, 2111)] == list(range(2111, 2131))


def test_a_real_dirty_hive_is_whole_after_24_changes_from_both_its_logs():
    recovered = recover(building.packed("SYSTEM_B"), building.logs())
    base = BaseBlock.parse(recovered.data)
    assert recovered.applied == 24
    assert not base.dirty and base.primary == 2131
    hive = Hive(recovered.data)
    keys = list(walk(hive.root()))
    assert len(keys) == 35595
    assert sum(1 for _, key in keys for _ in key.values()) == 78901


def test_the_order_in_which_the_logs_are_given_does_not_matter():
    first, second = building.logs()
    hive = building.packed("SYSTEM_B")
    assert recover(hive, [second, first]) == recover(hive, [first, second])


def test_without_its_second_log_a_real_hive_is_recovered_as_far_as_the_first_one_goes():
    recovered = recover(building.packed("SYSTEM_B"), building.logs()[:1])
    assert recovered.applied == 4
    assert BaseBlock.parse(recovered.data).primary == 2111


def test_a_clean_hive_stays_as_it_is_even_with_a_log_that_would_fit():
    hive = building.packed("SYSTEM")
    assert recover(hive, building.logs()).data is hive


def test_a_dirty_hive_whose_logs_are_lost_is_refused():
    with pytest.raises(HiveDamagedError, match="none of its logs"):
        recover(building.packed("SYSTEM_2"), [])


@pytest.mark.parametrize("damaged", [600, 5000, 16000, 20000])
def test_nothing_from_a_damaged_entry_on_is_applied(damaged):
    first, second = building.logs()
    broken = bytearray(first)
    broken[damaged] ^= 1
    hive = building.packed("SYSTEM_B")
    untouched = sum(1 for entry in entries(first, 2107) if _end(first, entry) <= damaged)
    if untouched == 0:
        # The other log continues nothing then, but is itself newer than the hive.
        assert recover(hive, [bytes(broken), second]).applied == 20
    else:
        assert recover(hive, [bytes(broken), second]).applied == untouched


def _end(log: bytes, wanted: Entry) -> int:
    at = SECTOR
    for entry in entries(log, 2107):
        at += entry.size
        if entry == wanted:
            break
    return at


# --- the new format, made to the specification


def test_entries_are_applied_in_order_and_grow_the_hive():
    hive = a_hive(b"a", 11, 10)
    log = entry_log(
        10,
        an_entry(10, {1: a_bin(1, b"b"), 2: a_bin(2, b"b")}),
        an_entry(11, {2: a_bin(2, b"c"), 4: a_bin(4, b"c")}, pages=5),
    )
    recovered = recover(hive, [log])
    expected = [a_bin(0, b"a"), a_bin(1, b"b"), a_bin(2, b"c"), a_bin(3, b"a"), a_bin(4, b"c")]
    assert pages_of(recovered.data) == expected
    base = BaseBlock.parse(recovered.data)
    assert (base.primary, base.secondary, base.length) == (12, 12, 5 * PAGE)


def test_a_gap_between_entries_ends_the_recovery():
    log = entry_log(10, an_entry(10, {1: a_bin(1, b"b")}), an_entry(12, {1: a_bin(1, b"c")}))
    recovered = recover(a_hive(b"a", 11, 10), [log])
    assert recovered.applied == 1
    assert pages_of(recovered.data)[1] == a_bin(1, b"b")


def test_a_log_older_than_the_hive_is_left_out():
    old = entry_log(8, an_entry(8, {1: a_bin(1, b"o")}))
    new = entry_log(10, an_entry(10, {2: a_bin(2, b"n")}))
    recovered = recover(a_hive(b"a", 11, 10), [new, old])
    assert pages_of(recovered.data)[1:3] == [a_bin(1, b"a"), a_bin(2, b"n")]


def test_the_second_log_must_continue_the_first():
    first = entry_log(10, an_entry(10, {1: a_bin(1, b"b")}))
    far = entry_log(15, an_entry(15, {1: a_bin(1, b"f")}))
    assert recover(a_hive(b"a", 11, 10), [far, first]).applied == 1


def test_sequence_numbers_count_around():
    top = 0xFFFFFFFF
    log = entry_log(top, an_entry(top, {1: a_bin(1, b"b")}), an_entry(0, {1: a_bin(1, b"c")}))
    recovered = recover(a_hive(b"a", top, top - 1), [log])
    assert recovered.applied == 2
    assert BaseBlock.parse(recovered.data).primary == 1


def test_a_torn_base_block_comes_back_from_the_latest_log_alone():
    hive = b"\xff" * PAGE + a_hive(b"a", 11, 10)[PAGE:]
    older = entry_log(8, an_entry(8, {1: a_bin(1, b"o")}))
    newer = entry_log(10, an_entry(10, {2: a_bin(2, b"n")}))
    recovered = recover(hive, [older, newer])
    assert recovered.applied == 1
    assert pages_of(recovered.data)[1:3] == [a_bin(1, b"a"), a_bin(2, b"n")]
    assert not BaseBlock.parse(recovered.data).dirty


def test_pending_transactions_are_noted_as_the_last_entry_says():
    log = entry_log(10, an_entry(10, {1: a_bin(1, b"b")}, flags=KTM_LOCKED))
    assert BaseBlock.parse(recover(a_hive(b"a", 11, 10), [log]).data).flags & KTM_LOCKED


def test_a_log_that_continues_nothing_is_no_recovery():
    log = entry_log(5, an_entry(5, {1: a_bin(1, b"b")}))
    with pytest.raises(HiveDamagedError, match="do not continue"):
        recover(a_hive(b"a", 11, 10), [log])


def test_a_recovered_hive_with_a_broken_bin_is_refused():
    log = entry_log(10, an_entry(10, {1: b"nibh" + a_bin(1, b"b")[4:]}))
    with pytest.raises(HiveDamagedError, match="bin at 4096"):
        recover(a_hive(b"a", 11, 10), [log])


@pytest.mark.parametrize(
    "entry",
    [
        an_entry(10, {BINS: a_bin(BINS, b"x")}),
        an_entry(10, {0xFFFFF: a_bin(1, b"x")}),
        an_entry(10, {1: a_bin(1, b"x")}, pages=1 << 19),
    ],
    ids=["page behind the end", "page far away", "enormous hive"],
)
def test_an_entry_that_leaves_the_hive_is_none(entry):
    with pytest.raises(HiveDamagedError):
        recover(a_hive(b"a", 11, 10), [entry_log(10, entry)])


# --- the old format


def test_an_old_log_puts_its_dirty_pages_where_its_bits_say():
    changed = {0: a_bin(0, b"b"), 3: a_bin(3, b"b")}
    recovered = recover(a_hive(b"a", 5, 4), [vector_log(changed), b""])
    assert pages_of(recovered.data) == [changed[0], a_bin(1, b"a"), a_bin(2, b"a"), changed[3]]
    assert not BaseBlock.parse(recovered.data).dirty


def test_an_old_log_of_another_write_is_not_applied():
    with pytest.raises(HiveDamagedError, match="none of its logs is of that write"):
        recover(a_hive(b"a", 5, 4), [vector_log({1: a_bin(1, b"b")}, written=8)])


def test_the_second_old_log_is_used_where_the_first_is_of_another_write():
    logs = [vector_log({1: a_bin(1, b"x")}, written=6), vector_log({1: a_bin(1, b"b")})]
    assert pages_of(recover(a_hive(b"a", 5, 4), logs).data)[1] == a_bin(1, b"b")


def test_an_old_log_that_is_cut_is_not_applied_in_part():
    log = vector_log({1: a_bin(1, b"b"), 2: a_bin(2, b"b")})
    with pytest.raises(HiveDamagedError, match="cut"):
        recover(a_hive(b"a", 5, 4), [log[:-SECTOR]])


def test_a_base_block_torn_under_an_old_log_comes_back_if_the_first_bin_is_of_that_write():
    hive = b"\0" * PAGE + a_hive(b"a", 5, 4)[PAGE:]
    recovered = recover(hive, [vector_log({1: a_bin(1, b"b")})])
    assert pages_of(recovered.data)[:2] == [a_bin(0, b"a"), a_bin(1, b"b")]
    assert BaseBlock.parse(recovered.data).file_type == FileType.PRIMARY


# --- anything


@settings(max_examples=300, deadline=None)
@given(hive=st.binary(max_size=600), logs=st.lists(st.binary(max_size=600), max_size=2))
def test_bytes_that_are_no_hive_are_refused(hive, logs):
    with pytest.raises(HiveDamagedError):
        recover(hive, logs)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damage_anywhere_gives_a_clean_hive_or_an_error(data):
    hive = bytearray(a_hive(b"a", 11, 10))
    old = data.draw(st.booleans())
    log = bytearray(
        vector_log({1: a_bin(1, b"b"), 2: a_bin(2, b"b")})
        if old
        else entry_log(10, an_entry(10, {1: a_bin(1, b"b")}), an_entry(11, {2: a_bin(2, b"c")}))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        target = data.draw(st.sampled_from([hive, log]))
        at = data.draw(st.integers(0, len(target) - 4) | st.integers(0, 1100))
        struct.pack_into("<I", target, at, data.draw(st.integers(0, 0xFFFFFFFF)))
    end = data.draw(st.integers(0, len(log)) | st.just(len(log)))
    try:
        recovered = recover(bytes(hive), [bytes(log[:end])])
    except HiveDamagedError:
        return
    assert not BaseBlock.parse(recovered.data).dirty
