# SPDX-License-Identifier: GPL-3.0-or-later
import random

import lzf
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import native
from native import reference

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NOISE = random.Random(1).randbytes(70_000)


@st.composite
def texture(draw):
    """Data with repeats near and far, runs, and noise: all that a compressor tells apart."""
    noise = random.Random(draw(st.integers(0, 1 << 16)))
    data = bytearray()
    kinds = st.sampled_from(["noise", "run", "repeat", "pattern"])
    for kind in draw(st.lists(kinds, max_size=12)):
        length = draw(st.integers(1, 600) | st.sampled_from([3, 4, 8, 9, 263, 264, 265, 8200]))
        if kind == "noise":
            data += noise.randbytes(length)
        elif kind == "run":
            data += bytes([noise.randrange(256)]) * length
        elif kind == "pattern":
            data += (noise.randbytes(noise.randrange(1, 40)) * length)[:length]
        elif data:
            start = noise.randrange(len(data))
            data += data[start : start + length]
    return bytes(data)


@patient
@given(texture() | st.binary(max_size=300))
@example(bytes(66_000))
@example(bytes(3) + b"abc" * 22_000 + bytes(70))
def test_compressed_bytes_are_those_of_the_reference_and_come_back(data):
    packed = native.lzf_compress(data)
    assert packed == reference.lzf_compress(data)
    if packed is not None:
        assert len(packed) < len(data)
        assert native.lzf_decompress(packed, len(data)) == data
        assert reference.lzf_decompress(packed, len(data)) == data


@patient
@given(texture())
def test_liblzf_reads_what_we_write_and_we_read_what_it_writes(data):
    if (ours := native.lzf_compress(data)) is not None:
        assert lzf.decompress(ours, len(data)) == data
    if data and (theirs := lzf.compress(data)) is not None:
        assert native.lzf_decompress(theirs, len(data)) == data


@patient
@given(texture(), st.integers(-3, 3))
def test_output_fits_exactly_or_not_at_all(data, spare):
    whole = bytearray(len(data) + len(data) // 32 + 1)
    size = native.lzf_compress_into(data, whole)
    assert (size > 0) == (len(data) > 0)
    room = max(0, size + spare)
    out, expected = bytearray(room), bytearray(room)
    assert native.lzf_compress_into(data, out) == (size if room >= size else 0)
    assert reference.lzf_compress_into(data, expected) == (size if room >= size else 0)
    plain = bytearray(len(data))
    assert native.lzf_decompress_into(whole[:size], plain) == len(data)
    assert plain == data


def outcome(decompress, *arguments):
    try:
        return decompress(*arguments)
    except ValueError as refusal:
        return str(refusal)


@patient
@given(st.binary(max_size=400), st.integers(0, 3000))
@example(b"\x00", 1)
@example(b"\xe0\xff", 300)
@example(b"\x00a\xe0\xff\x00", 273)
def test_any_bytes_decompress_as_in_the_reference_or_are_refused_the_same(packed, length):
    ours = outcome(native.lzf_decompress, packed, length)
    assert ours == outcome(reference.lzf_decompress, packed, length)
    out, expected = bytearray(length), bytearray(length)
    size = outcome(native.lzf_decompress_into, packed, out)
    assert size == outcome(reference.lzf_decompress_into, packed, expected)
    if isinstance(size, int):
        assert out[:size] == expected[:size]


@patient
@given(texture(), st.data())
def test_damaged_data_never_does_more_than_fail(data, source):
    packed = bytearray(native.lzf_compress(data) or b"\x00")
    for _ in range(source.draw(st.integers(1, 3))):
        packed[source.draw(st.integers(0, len(packed) - 1))] = source.draw(st.integers(0, 255))
    cut = source.draw(st.integers(0, len(packed)))
    for damaged in (packed, packed[:cut]):
        ours = outcome(native.lzf_decompress, damaged, len(data))
        assert ours == outcome(reference.lzf_decompress, damaged, len(data))


@pytest.mark.parametrize("seed", range(30))
def test_damage_stays_inside_the_buffers(guarded, seed):
    noise = random.Random(seed)
    inside, outside = guarded(), guarded()
    for _ in range(50):
        controls = (0, 31, 32, 64, 224, 255, noise.randrange(256))
        packed = bytes(noise.choices(controls, k=noise.randrange(1, 200)))
        length = noise.randrange(1, 2000)
        for place in ("at_end", "at_start"):
            source, target = getattr(inside, place)(len(packed)), getattr(outside, place)(length)
            source[:] = packed
            size = outcome(native.lzf_decompress_into, source, target)
            expected = bytearray(length)
            assert size == outcome(reference.lzf_decompress_into, packed, expected)
            if isinstance(size, int):
                assert target[:size] == expected[:size]


@pytest.mark.parametrize("length", [1, 3, 4, 5, 31, 32, 33, 300, 9000])
def test_compression_stays_inside_the_buffers(guarded, length):
    inside, outside = guarded(), guarded()
    for data in (random.Random(length).randbytes(length), bytes(length), b"abcd " * length):
        for place in ("at_end", "at_start"):
            source = getattr(inside, place)(len(data))
            source[:] = data
            for room in range(1, 80):
                assert native.lzf_compress_into(
                    source, getattr(outside, place)(room)
                ) == reference.lzf_compress_into(data, bytearray(room))


@pytest.mark.parametrize(
    "data", [b"", b"a", b"ab", b"abcdefgh", random.Random(1).randbytes(70_000)]
)
def test_what_does_not_shrink_gives_none(data):
    assert native.lzf_compress(data) is None


def test_sixteen_mebibytes_come_back():
    noise = random.Random(3)
    mixed = b"".join(noise.randbytes(5000) + bytes(9000) + b"key=value\n" * 300 for _ in range(988))
    data = (mixed * 2)[: native.MAX_LZF_LENGTH]
    assert len(data) == native.MAX_LZF_LENGTH
    packed = native.lzf_compress(data)
    assert native.lzf_decompress(packed, len(data)) == data
    assert lzf.decompress(packed, len(data)) == data


def test_compressible_data_behind_much_noise_is_found():
    noise = random.Random(4).randbytes(1 << 20)
    packed = native.lzf_compress(noise + b"0123456789abcdef" * 8192)
    assert packed is not None
    assert len(packed) < len(noise) * 33 // 32 + 8192


def test_too_much_at_once_is_refused():
    data = bytes(native.MAX_LZF_LENGTH + 1)
    for module in (native, reference):
        with pytest.raises(ValueError, match="too long"):
            module.lzf_compress(data)
        with pytest.raises(ValueError, match="too long"):
            module.lzf_compress_into(data, bytearray(10))


@pytest.mark.parametrize("length", [-1, 89, 1 << 40, 1 << 70])
@pytest.mark.parametrize("module", [native, reference])
def test_a_length_that_the_input_cannot_hold_is_refused_before_it_is_allocated(module, length):
    with pytest.raises(ValueError, match="can't hold"):
        module.lzf_decompress(b"\x00", length)


@pytest.mark.parametrize(
    ("packed", "length", "problem"),
    [
        (b"\x05abc", 6, "corrupt"),
        (b"\x20\x00", 3, "corrupt"),
        (b"\x00a\x20\x01", 4, "corrupt"),
        (b"\x00a\xe0", 10, "corrupt"),
        (b"\x00a\x20", 4, "corrupt"),
        (b"\x02abc", 2, "more than 2"),
        (b"\x00a\x20\x00", 3, "more than 3"),
        (b"\x02abc", 4, "3 bytes, not 4"),
    ],
)
def test_each_defect_is_named(packed, length, problem):
    with pytest.raises(ValueError, match=problem):
        native.lzf_decompress(packed, length)
    with pytest.raises(ValueError, match=problem):
        reference.lzf_decompress(packed, length)


def test_shared_memory_is_refused():
    data = bytearray(1000)
    view = memoryview(data)
    for function in (native.lzf_compress_into, native.lzf_decompress_into):
        with pytest.raises(ValueError, match="share"):
            function(view[:600], view[500:])
    assert native.lzf_compress_into(view[:500], view[500:]) > 0
