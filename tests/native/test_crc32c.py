# SPDX-License-Identifier: GPL-3.0-or-later
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import native
from native import _core, reference

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCSI_READ = bytes.fromhex(
    "01c00000000000000000000000000000140000000000040000000014000000182800000000000000"
    "0200000000000000"
)
FUNCTIONS = pytest.mark.parametrize(
    "crc32c", [native.crc32c, _core.crc32c_portable, reference.crc32c]
)


@FUNCTIONS
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (SCSI_READ, 0xD9963A56),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_the_vectors_of_rfc_3720_appendix_b_4_hold(crc32c, data, expected):
    assert crc32c(data) == expected


@patient
@given(st.binary(max_size=3000), st.integers(0, 0xFFFFFFFF))
def test_all_implementations_agree(data, value):
    expected = reference.crc32c(data, value)
    assert native.crc32c(data, value) == _core.crc32c_portable(data, value) == expected


@pytest.mark.parametrize("length", [767, 768, 769, 1536, 12_287, 12_288, 12_289, 30_000, 1 << 20])
@pytest.mark.parametrize("start", range(8))
def test_lanes_are_joined_at_any_length_and_alignment(length, start):
    data = memoryview(random.Random(length).randbytes(length + start))[start:]
    assert native.crc32c(data) == _core.crc32c_portable(data)


@patient
@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_a_sum_continues_where_it_stopped(data, cut):
    assert native.crc32c(data[cut:], native.crc32c(data[:cut])) == native.crc32c(data)


@FUNCTIONS
@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_value_that_is_no_crc_is_refused(crc32c, value):
    with pytest.raises(OverflowError):
        crc32c(b"", value)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 767, 768, 12_288, 65_536])
def test_sums_stay_inside_the_buffer(guarded, length):
    memory = guarded()
    for place in (memory.at_end, memory.at_start):
        assert native.crc32c(place(length)) == _core.crc32c_portable(bytes(length))
        assert _core.crc32c_portable(place(length)) == native.crc32c(bytes(length))
