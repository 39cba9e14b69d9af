# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every function: which buffers it takes, and that others work meanwhile."""

import mmap
import os
import random
import sys
import threading
import time

import lzf
import pytest

import native
from native import reference

LENGTH = 1 << 24
DATA = random.Random(0).randbytes(1 << 16) * (LENGTH >> 16)
PACKED = native.lzf_compress(DATA[: 1 << 20] + bytes(LENGTH - (1 << 20)))
OUT = bytearray(LENGTH)
ALL = [(0, LENGTH // 4096)]

CALLS = {
    "is_zero": lambda: native.is_zero(bytes(LENGTH)),
    "zero_runs": lambda: native.zero_runs(bytes(LENGTH), 4096),
    "changed_pages": lambda: native.changed_pages(DATA, OUT),
    "pack_pages": lambda: native.pack_pages(DATA, ALL),
    "apply_pages": lambda: native.apply_pages(OUT, ALL, DATA),
    "lzf_compress": lambda: native.lzf_compress(DATA),
    "lzf_compress_into": lambda: native.lzf_compress_into(DATA, OUT),
    "lzf_decompress": lambda: native.lzf_decompress(PACKED, LENGTH),
    "lzf_decompress_into": lambda: native.lzf_decompress_into(PACKED, OUT),
    "crc32c": lambda: native.crc32c(DATA),
}


@pytest.fixture
def no_switching():
    """Let a thread lose the GIL only by giving it up."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def others_run_during(call, patience_s):
    """Repeat `call` until another thread has run, which it can only while the GIL is released."""
    ran = []
    gate = threading.Lock()
    gate.acquire()

    def other():
        with gate:
            ran.append(True)

    thread = threading.Thread(target=other)
    thread.start()
    gate.release()
    deadline = time.monotonic() + patience_s
    seen = False
    while not seen and time.monotonic() < deadline:
        call()
        seen = bool(ran)
    thread.join()
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_other_threads_run_during_a_call(no_switching, name):
    assert others_run_during(CALLS[name], patience_s=60)


def test_a_call_that_keeps_the_gil_would_be_noticed(no_switching):
    assert not others_run_during(lambda: lzf.compress(DATA), patience_s=0.5)


def test_all_public_functions_are_described_by_the_reference():
    assert set(CALLS) == {name for name in native.__all__ if not name.isupper()}
    assert {name: getattr(reference, name) for name in native.__all__ if name.isupper()} == {
        name: getattr(native, name) for name in native.__all__ if name.isupper()
    }


GAPS = memoryview(bytearray(8192))[::2]
FLAT = bytearray(4096)


@pytest.mark.parametrize("module", [native, reference])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("is_zero", (GAPS,)),
        ("zero_runs", (GAPS, 512)),
        ("changed_pages", (FLAT, GAPS)),
        ("changed_pages", (GAPS, FLAT)),
        ("pack_pages", (GAPS, [(0, 1)])),
        ("apply_pages", (GAPS, [(0, 1)], FLAT)),
        ("apply_pages", (FLAT, [(0, 1)], GAPS)),
        ("lzf_compress", (GAPS,)),
        ("lzf_compress_into", (GAPS, FLAT)),
        ("lzf_compress_into", (FLAT, GAPS)),
        ("lzf_decompress", (GAPS, 10)),
        ("lzf_decompress_into", (GAPS, FLAT)),
        ("lzf_decompress_into", (FLAT, GAPS)),
        ("crc32c", (GAPS,)),
    ],
)
def test_a_buffer_with_gaps_is_refused(module, name, arguments):
    with pytest.raises(BufferError, match="contiguous"):
        getattr(module, name)(*arguments)


@pytest.mark.parametrize("name", ["is_zero", "crc32c", "lzf_compress"])
@pytest.mark.parametrize("thing", ["text", None, 5])
def test_what_is_no_buffer_is_refused(name, thing):
    with pytest.raises(TypeError):
        getattr(native, name)(thing)


def test_a_read_only_output_is_refused():
    with pytest.raises(BufferError):
        native.lzf_compress_into(bytes(100), bytes(100))
    with pytest.raises(BufferError):
        native.lzf_decompress_into(b"\x00a", bytes(100))


def test_a_buffer_beyond_the_limit_is_refused():
    with mmap.mmap(-1, native.MAX_LENGTH + 1, flags=mmap.MAP_PRIVATE) as memory:
        for call in (native.is_zero, native.crc32c, lambda data: native.zero_runs(data, 4096)):
            with pytest.raises(ValueError, match="too long"):
                call(memory)


def test_a_buffer_is_let_go_also_after_a_refusal():
    data = bytearray(os.urandom(1000))
    assert native.lzf_compress(data) is None
    with pytest.raises(ValueError, match="LZF"):
        native.lzf_decompress(data, 5)
    with pytest.raises(ValueError, match="share"):
        native.lzf_compress_into(data, data)
    with pytest.raises(ValueError, match="ascend"):
        native.apply_pages(data, [(5, 5)], b"")
    data.append(0)
    assert sys.getrefcount(data) == 2
