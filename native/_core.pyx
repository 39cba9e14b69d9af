# SPDX-License-Identifier: GPL-3.0-or-later
# cython: language_level=3, boundscheck=False, wraparound=False
"""Glue between Python's buffers and the kernels; documented in _core.pyi."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uint32_t
cimport cython
from native cimport _kernels as kernels

from operator import index

MAX_LENGTH = 1 << 30
MAX_LZF_LENGTH = 1 << 24
MIN_PAGE = 512

cdef enum:
    BATCH = 256  # spans fetched at a time
    LZF_EXPANSION = 88  # a match token of 3 bytes makes 264

kernels.crc32c_init()


@cython.final
@cython.freelist(8)
cdef class View:
    """The memory of a contiguous buffer, held until the view goes."""
    cdef Py_buffer buffer
    cdef uint8_t *data
    cdef size_t length

    def __cinit__(self, object owner, bint writable=False, size_t limit=MAX_LENGTH):
        PyObject_GetBuffer(owner, &self.buffer, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.data = <uint8_t *>self.buffer.buf
        self.length = <size_t>self.buffer.len
        if self.length > limit:
            raise ValueError(f"a buffer of {self.length} bytes is too long, {limit} is the limit")

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


@cython.final
cdef class Spans:
    """A caller's page runs, checked, as byte ranges of a buffer of `length` bytes."""
    cdef kernels.span *items
    cdef size_t count
    cdef size_t total

    def __cinit__(self, object runs, size_t length, size_t page):
        cdef size_t pages = length // page + (length % page != 0)
        cdef size_t start, end = 0
        cdef list listed = list(runs)
        self.items = <kernels.span *>PyMem_Malloc((len(listed) + 1) * sizeof(kernels.span))
        if self.items == NULL:
            raise MemoryError
        for run in listed:
            first, count = map(index, run)
            if first < end or count <= 0 or first + count > pages:
                raise ValueError(f"pages {first} + {count} do not ascend within {pages} pages")
            start = first
            end = first + count
            self.items[self.count].start = start * page
            self.items[self.count].length = min(end * page, length) - start * page
            self.total += self.items[self.count].length
            self.count += 1

    def __dealloc__(self):
        PyMem_Free(self.items)


cdef size_t _page(Py_ssize_t page) except 0:
    if not MIN_PAGE <= page <= MAX_LENGTH:
        raise ValueError(f"a page or granule is {MIN_PAGE} to {MAX_LENGTH} bytes, not {page}")
    return page


cdef int _disjoint(View a, View b) except -1:
    if a.data < b.data + b.length and b.data < a.data + a.length:
        raise ValueError("input and output share memory")
    return 0


cdef size_t _decompress(View view, uint8_t *out, size_t room) except? 0:
    cdef ptrdiff_t done
    with nogil:
        done = kernels.lzf_decompress(view.data, view.length, out, room)
    if done < 0:
        raise ValueError("LZF data is corrupt" if done == kernels.LZF_CORRUPT
                         else f"LZF data holds more than {room} bytes")
    return done


def crc32c(buffer, uint32_t value=0):
    cdef View view = View(buffer)
    with nogil:
        value = kernels.crc32c(value, view.data, view.length)
    return value


def crc32c_portable(buffer, uint32_t value=0):
    cdef View view = View(buffer)
    with nogil:
        value = kernels.crc32c_portable(value, view.data, view.length)
    return value


def is_zero(buffer):
    cdef View view = View(buffer)
    cdef bint answer
    with nogil:
        answer = kernels.is_zero(view.data, view.length)
    return answer


def zero_runs(buffer, granule):
    cdef View view = View(buffer)
    cdef size_t step = _page(granule), cursor = 0, count, i
    cdef kernels.span spans[BATCH]
    cdef list runs = []
    while cursor < view.length:
        with nogil:
            count = kernels.data_spans(view.data, view.length, step, &cursor, spans, BATCH)
        for i in range(count):
            runs.append((spans[i].start, spans[i].length))
    return runs


def changed_pages(old, new, page=4096):
    cdef View before = View(old), after = View(new)
    cdef size_t step = _page(page), cursor = 0, count, i
    cdef kernels.span spans[BATCH]
    cdef list runs = []
    if before.length != after.length:
        raise ValueError(f"buffers of {before.length} and {after.length} bytes differ in length")
    while cursor * step < before.length:
        with nogil:
            count = kernels.changed_spans(before.data, after.data, before.length, step, &cursor,
                                          spans, BATCH)
        for i in range(count):
            runs.append((spans[i].start, spans[i].length))
    return runs


def pack_pages(new, runs, page=4096):
    cdef View view = View(new)
    cdef Spans spans = Spans(runs, view.length, _page(page))
    cdef bytes payload = PyBytes_FromStringAndSize(NULL, spans.total)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(payload)
    with nogil:
        kernels.gather(out, view.data, spans.items, spans.count)
    return payload


def apply_pages(target, runs, payload, page=4096):
    cdef View view = View(target, True), source = View(payload)
    cdef Spans spans = Spans(runs, view.length, _page(page))
    if spans.total != source.length:
        raise ValueError(f"the runs take {spans.total} bytes, the payload has {source.length}")
    with nogil:
        kernels.scatter(view.data, source.data, spans.items, spans.count)


def lzf_compress(buffer):
    cdef View view = View(buffer, False, MAX_LZF_LENGTH)
    cdef size_t room = view.length - 1 if view.length else 0
    cdef bytes scratch = PyBytes_FromStringAndSize(NULL, room)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(scratch)
    with nogil:
        room = kernels.lzf_compress(view.data, view.length, out, room)
    return scratch[:room] if room else None


def lzf_compress_into(buffer, out):
    cdef View view = View(buffer, False, MAX_LZF_LENGTH), target = View(out, True)
    cdef size_t done
    _disjoint(view, target)
    with nogil:
        done = kernels.lzf_compress(view.data, view.length, target.data, target.length)
    return done


def lzf_decompress(buffer, length):
    cdef View view = View(buffer)
    if not 0 <= length <= min(MAX_LZF_LENGTH, view.length * LZF_EXPANSION):
        raise ValueError(f"{view.length} bytes of LZF data can't hold {length} bytes")
    cdef bytes result = PyBytes_FromStringAndSize(NULL, length)
    cdef size_t done = _decompress(view, <uint8_t *>PyBytes_AS_STRING(result), len(result))
    if done != <size_t>len(result):
        raise ValueError(f"LZF data holds {done} bytes, not {length}")
    return result


def lzf_decompress_into(buffer, out):
    cdef View view = View(buffer), target = View(out, True)
    _disjoint(view, target)
    return _decompress(view, target.data, target.length)
