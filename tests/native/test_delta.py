# SPDX-License-Identifier: GPL-3.0-or-later
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import native
from native import reference

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PAGES = st.sampled_from([512, 700, 4096])


@st.composite
def versions(draw):
    """Two buffers of one length that differ in a few places, and a page size."""
    old = bytearray(draw(st.binary(max_size=64)) * draw(st.integers(0, 300)))
    new = bytearray(old)
    if old:
        for at in draw(st.lists(st.integers(0, len(old) - 1), max_size=6)):
            new[at] ^= draw(st.integers(1, 255))
    return old, new, draw(PAGES)


@patient
@given(versions())
def test_changed_pages_agree_with_the_reference(case):
    old, new, page = case
    assert native.changed_pages(old, new, page) == reference.changed_pages(old, new, page)


@patient
@given(versions())
def test_a_packed_delta_turns_the_old_into_the_new(case):
    old, new, page = case
    runs = native.changed_pages(old, new, page)
    payload = native.pack_pages(new, runs, page)
    assert payload == reference.pack_pages(new, runs, page)
    expected = bytearray(old)
    reference.apply_pages(expected, runs, payload, page)
    native.apply_pages(old, runs, payload, page)
    assert old == new == expected


RUNS = st.lists(st.tuples(st.integers(-2, 9), st.integers(-2, 9)), max_size=4)


@patient
@given(RUNS, st.integers(0, 4000), st.integers(0, 4000))
def test_any_runs_are_applied_or_refused_as_in_the_reference(runs, length, payload_length):
    outcomes = []
    payload = random.Random(length).randbytes(payload_length)
    for module in (native, reference):
        target = bytearray(length)
        try:
            packed = module.pack_pages(bytes(length), runs, 512)
            module.apply_pages(target, runs, payload[: len(packed)], 512)
            module.apply_pages(target, runs, payload, 512)
            outcomes.append(target)
        except ValueError as refusal:
            outcomes.append((target, str(refusal)))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("count", [255, 256, 257, 600])
def test_changed_pages_are_whole_across_batches(count):
    new = bytearray(1024 * count)
    for run in range(count):
        new[1024 * run] = 1
    assert native.changed_pages(bytes(len(new)), new, 512) == [(2 * run, 1) for run in range(count)]


def test_every_byte_of_a_page_counts_and_the_last_page_may_be_short():
    for length in (4096, 4097, 8191):
        for at in (0, 1, 4095, length - 1):
            new = bytearray(length)
            new[at] = 1
            assert native.changed_pages(bytes(length), new) == [(at // 4096, 1)]


def test_buffers_of_different_length_are_refused():
    with pytest.raises(ValueError, match="4096 and 4097"):
        native.changed_pages(bytes(4096), bytes(4097))


@pytest.mark.parametrize(
    "runs",
    [[(0, 0)], [(-1, 1)], [(2, 1)], [(0, 3)], [(1, 1), (0, 1)], [(0, 2), (1, 1)], [(0, 1 << 70)]],
)
def test_runs_that_do_not_ascend_inside_the_buffer_are_refused_and_write_nothing(runs):
    target = bytearray(8000)
    with pytest.raises(ValueError, match="ascend"):
        native.apply_pages(target, runs, b"x" * 8000)
    with pytest.raises(ValueError, match="ascend"):
        native.pack_pages(target, runs)
    assert not any(target)


@pytest.mark.parametrize("runs", [[(0.0, 1)], [("0", 1)], [None]])
def test_runs_that_are_no_integers_are_refused(runs):
    with pytest.raises(TypeError):
        native.pack_pages(bytes(8000), runs)


@pytest.mark.parametrize("payload", [b"", b"x" * 3903, b"x" * 3905])
def test_a_payload_of_another_length_is_refused_and_writes_nothing(payload):
    target = bytearray(8000)
    with pytest.raises(ValueError, match="3904"):
        native.apply_pages(target, [(1, 1)], payload)
    assert not any(target)


def test_a_read_only_target_is_refused():
    with pytest.raises(BufferError):
        native.apply_pages(bytes(4096), [(0, 1)], bytes(4096))


def test_a_delta_within_one_buffer_moves_overlapping_bytes():
    data = bytearray(random.Random(1).randbytes(3000))
    expected = bytearray(data)
    expected[512:2560] = data[100:2148]
    view = memoryview(data)
    native.apply_pages(view, [(1, 4)], view[100:2148], 512)
    assert data == expected


@pytest.mark.parametrize("length", [1, 511, 512, 4097, 65_536])
def test_pages_stay_inside_their_buffers(guarded, length):
    one, two = guarded(), guarded()
    for place in ("at_end", "at_start"):
        old, new = getattr(one, place)(length), getattr(two, place)(length)
        old[:] = bytes(length)
        new[:] = b"\x01" * length
        runs = native.changed_pages(old, new, 512)
        assert runs == [(0, -(-length // 512))]
        native.apply_pages(old, runs, native.pack_pages(new, runs, 512), 512)
        assert old == new
