# SPDX-License-Identifier: GPL-3.0-or-later
import mmap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import native
from native import reference

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

GRANULES = st.sampled_from([512, 513, 4096, 10_000])


@st.composite
def sparse(draw):
    """A buffer of zeros with a few bytes set, starting at any alignment."""
    length = draw(st.integers(0, 30_000))
    data = bytearray(length + 64)
    start = draw(st.integers(0, 64))
    for at in draw(st.lists(st.integers(0, length + 63), max_size=6)):
        data[at] = draw(st.integers(1, 255))
    return memoryview(data)[start : start + length]


@patient
@given(sparse())
def test_is_zero_agrees_with_the_reference(data):
    assert native.is_zero(data) is reference.is_zero(data)


@pytest.mark.parametrize("length", [1, 7, 8, 31, 255, 256, 257, 511, 512, 1000, 4096])
def test_one_bit_anywhere_is_not_zero(length):
    data = bytearray(length)
    assert native.is_zero(data)
    for at in range(length):
        for bit in (1, 128):
            data[at] = bit
            assert not native.is_zero(data)
        data[at] = 0


def test_an_empty_buffer_is_zero():
    assert native.is_zero(b"")
    assert native.zero_runs(b"", 4096) == []


@patient
@given(sparse(), GRANULES)
def test_zero_runs_agree_with_the_reference(data, granule):
    assert native.zero_runs(data, granule) == reference.zero_runs(data, granule)


@pytest.mark.parametrize("runs", [255, 256, 257, 600])
def test_zero_runs_are_whole_across_batches(runs):
    data = bytearray(1024 * runs)
    for run in range(runs):
        data[1024 * run + 512] = 1
    assert native.zero_runs(data, 512) == [(1024 * run + 512, 512) for run in range(runs)]
    assert native.zero_runs(b"\x01" * len(data), 512) == [(0, len(data))]


def test_a_short_last_granule_ends_with_the_buffer():
    assert native.zero_runs(bytes(4096) + b"x", 4096) == [(4096, 1)]


@pytest.mark.parametrize("granule", [0, 511, -4096, native.MAX_LENGTH + 1])
@pytest.mark.parametrize("module", [native, reference])
def test_a_granule_out_of_range_is_refused(module, granule):
    with pytest.raises(ValueError, match="granule"):
        module.zero_runs(bytes(4096), granule)


def test_mmap_bytearray_and_memoryview_are_taken():
    with mmap.mmap(-1, 8192) as memory:
        assert native.is_zero(memory)
        memory[8191] = 1
        assert not native.is_zero(memory)
        assert native.zero_runs(memory, 4096) == [(4096, 4096)]
    assert native.is_zero(memoryview(bytearray(100)).cast("I"))


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 4095, 4096, 65_536])
def test_scans_stay_inside_the_buffer(guarded, length):
    memory = guarded()
    for place in (memory.at_end, memory.at_start):
        assert native.is_zero(place(length))
        assert native.zero_runs(place(length), 512) == []
