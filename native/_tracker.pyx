# SPDX-License-Identifier: GPL-3.0-or-later
# cython: language_level=3, boundscheck=False, wraparound=False
"""Glue between Python and the change tracker's programs; documented in _tracker.pyi."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
cimport cython

import os

cdef extern from "tracker/layout.h":
    enum:
        SECTOR_SHIFT
        MIN_GRANULE_SHIFT
        NAME_LENGTH

    struct disk:
        uint64_t granules
        uint64_t shift
        uint64_t completed
        uint64_t passthrough
        uint64_t unplaced
        uint64_t beyond

    uint64_t DEVICE_KEY(uint64_t major, uint64_t minor) nogil
    uint64_t NVME_KEY(uint64_t subsystem, uint64_t head) nogil

cdef extern from "tracker/nvme.h":
    uint64_t c_nvme_path_key "nvme_path_key"(const char *name) nogil

cdef extern from "tracker/marks.h":
    struct run:
        size_t first
        size_t count

    void c_bits_set "bits_set"(uint8_t *bits, size_t first, size_t count) nogil
    void c_bits_or "bits_or"(uint8_t *into, const uint8_t *bits, size_t length) nogil
    size_t c_bits_count "bits_count"(const uint8_t *bits, size_t length) nogil
    size_t c_bits_runs "bits_runs"(
        const uint8_t *bits, size_t start, size_t end, run *runs, size_t room) nogil

cdef extern from "tracker/load.h":
    struct tracker:
        pass

    const char *tracker_log() nogil
    void tracker_capture_log() nogil
    int tracker_has_atomic_or() nogil
    int tracker_load(tracker **out, const void *object, size_t length, const uint64_t *keys,
                     const disk *disks, size_t count, int bytes) nogil
    void tracker_close(tracker *self) nogil
    void tracker_take(tracker *self, size_t index, uint8_t *bits) nogil
    void tracker_peek(
        const tracker *self, size_t index, size_t first, size_t count, uint8_t *bits) nogil
    size_t tracker_bits_length(const tracker *self, size_t index) nogil
    int tracker_counts(const tracker *self, size_t index, disk *counts) nogil
    int tracker_lost(const tracker *self, uint64_t *most) nogil

cdef extern from "tracker/classic.h":
    enum:
        PAGE_BYTES

    int c_classic_map "classic_map"(const char *name, uint32_t value, uint32_t entries) nogil
    int c_classic_program "classic_program"(
        const char *name, const void *instructions, size_t length) nogil
    int c_classic_attach "classic_attach"(int program, uint64_t id, int cpu) nogil
    int c_classic_skipped "classic_skipped"(int program, uint64_t *skipped) nogil
    int c_classic_settle "classic_settle"() nogil
    int c_classic_take "classic_take"(
        int map, uint64_t first, uint64_t granules, unsigned int shift, uint8_t generation,
        uint8_t *bits) nogil

cdef extern from "<bpf/bpf.h>":
    int bpf_map_update_elem(int fd, const void *key, const void *value, uint64_t flags) nogil
    int bpf_map_lookup_elem(int fd, const void *key, void *value) nogil

MIN_GRANULE = 1 << MIN_GRANULE_SHIFT
MAP_PAGE = PAGE_BYTES

cdef enum:
    BATCH = 512  # runs found at a time
    MAX_DISKS = 256

tracker_capture_log()


cdef object failure(int error, str step):
    """The OSError for -errno; what libbpf and the verifier had to say is its note."""
    found = OSError(-error, f"{step}: {os.strerror(-error)}")
    said = tracker_log().decode(errors="replace").strip()
    if said:
        found.add_note(said)
    return found


@cython.final
cdef class Bits:
    """The memory of a bitmap, held until the view goes."""
    cdef Py_buffer buffer
    cdef uint8_t *data
    cdef size_t length

    def __cinit__(self, object owner, bint writable=False):
        PyObject_GetBuffer(owner, &self.buffer, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.data = <uint8_t *>self.buffer.buf
        self.length = <size_t>self.buffer.len

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)


def bits_set(bits, size_t first, size_t count):
    cdef Bits view = Bits(bits, True)
    if first > view.length * 8 or count > view.length * 8 - first:
        raise ValueError(f"{count} bits from {first} on leave the bitmap")
    with nogil:
        c_bits_set(view.data, first, count)


def bits_or(into, bits):
    cdef Bits target = Bits(into, True)
    cdef Bits view = Bits(bits)
    if target.length != view.length:
        raise ValueError(f"bitmaps of {target.length} and {view.length} bytes")
    with nogil:
        c_bits_or(target.data, view.data, view.length)


def bits_count(bits):
    cdef Bits view = Bits(bits)
    cdef size_t count
    with nogil:
        count = c_bits_count(view.data, view.length)
    return count


def bits_runs(bits, size_t start):
    cdef Bits view = Bits(bits)
    cdef run found[BATCH]
    cdef size_t count
    if start > view.length * 8:
        raise ValueError(f"bit {start} is outside the bitmap")
    with nogil:
        count = c_bits_runs(view.data, start, view.length * 8, found, BATCH)
    return [(found[i].first, found[i].count) for i in range(count)]


def device_key(uint32_t major, uint32_t minor):
    return DEVICE_KEY(major, minor)


def nvme_key(uint32_t subsystem, uint32_t head):
    return NVME_KEY(subsystem, head)


def nvme_path_key(bytes name):
    cdef char padded[NAME_LENGTH]
    if len(name) >= NAME_LENGTH:
        raise ValueError(f"{name!r} is too long for a device's name")
    for i in range(NAME_LENGTH):
        padded[i] = name[i] if i < len(name) else 0
    return c_nvme_path_key(padded)


def has_atomic_or():
    cdef int found
    with nogil:
        found = tracker_has_atomic_or()
    return bool(found)


@cython.final
cdef class CoreTracker:
    cdef tracker *loaded
    cdef readonly Py_ssize_t disks

    def __cinit__(self, bytes program, object disks, size_t granule, bint bytewise):
        cdef uint64_t keys[MAX_DISKS]
        cdef disk wanted[MAX_DISKS]
        cdef const char *data = program
        cdef size_t length = len(program), count
        cdef int shift = granule.bit_length() - 1, error
        listed = list(disks)
        count = len(listed)
        if not 0 < count <= MAX_DISKS:
            raise ValueError(f"{count} disks; from 1 to {MAX_DISKS} can be tracked at once")
        if shift < MIN_GRANULE_SHIFT or granule != <size_t>1 << shift:
            raise ValueError(f"a granule of {granule} bytes is no power of two from 64 KiB on")
        for i, (key, size) in enumerate(listed):
            if size <= 0:
                raise ValueError(f"a disk of {size} bytes")
            keys[i] = key
            wanted[i] = disk(granules=-(-size // granule), shift=shift - SECTOR_SHIFT,
                             completed=0, passthrough=0, unplaced=0, beyond=0)
        with nogil:
            error = tracker_load(&self.loaded, data, length, keys, wanted, count, bytewise)
        if error:
            raise failure(error, "loading the tracker's programs")
        self.disks = count

    def __dealloc__(self):
        tracker_close(self.loaded)

    cdef int check(self, Py_ssize_t index) except -1:
        if self.loaded == NULL:
            raise ValueError("the tracker is closed")
        if not 0 <= index < self.disks:
            raise IndexError(f"there is no disk {index}")
        return 0

    def close(self):
        cdef tracker *loaded = self.loaded
        self.loaded = NULL
        with nogil:
            tracker_close(loaded)

    def bits_length(self, Py_ssize_t index):
        self.check(index)
        return tracker_bits_length(self.loaded, index)

    def take(self, Py_ssize_t index, bits):
        cdef Bits view = Bits(bits, True)
        self.check(index)
        if view.length != tracker_bits_length(self.loaded, index):
            raise ValueError(f"the bitmap has {view.length} bytes")
        with nogil:
            tracker_take(self.loaded, index, view.data)

    def peek(self, Py_ssize_t index, size_t first, size_t count):
        cdef bytearray found
        cdef Bits view
        cdef size_t granules
        self.check(index)
        granules = tracker_bits_length(self.loaded, index) * 8
        if first > granules or count > granules - first:
            raise ValueError(f"{count} granules from {first} on leave the disk")
        found = bytearray((count + 7) // 8)
        view = Bits(found, True)
        tracker_peek(self.loaded, index, first, count, view.data)
        return found

    def counts(self, Py_ssize_t index):
        cdef disk found
        cdef int error
        self.check(index)
        error = tracker_counts(self.loaded, index, &found)
        if error:
            raise failure(error, "reading the tracker's counters")
        return found.completed, found.passthrough, found.unplaced, found.beyond

    def lost(self):
        cdef uint64_t most
        cdef int error
        self.check(0)
        error = tracker_lost(self.loaded, &most)
        if error:
            raise failure(error, "reading the tracker's counters")
        return most


@cython.final
cdef class ArrayMap:
    cdef int fd
    cdef readonly uint32_t value_length, entries

    def __cinit__(self, str name, uint32_t value_length, uint32_t entries):
        cdef bytes encoded = name.encode()
        cdef const char *data = encoded
        self.fd = -1
        if value_length > PAGE_BYTES:
            raise ValueError(f"a value of {value_length} bytes")
        with nogil:
            self.fd = c_classic_map(data, value_length, entries)
        if self.fd < 0:
            raise failure(self.fd, f"making the map {name}")
        self.value_length, self.entries = value_length, entries

    def __dealloc__(self):
        self.close()

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def fileno(self):
        if self.fd < 0:
            raise ValueError("the map is closed")
        return self.fd

    def __setitem__(self, uint32_t index, bytes value):
        cdef const char *data = value
        if len(value) != self.value_length:
            raise ValueError(f"a value has {self.value_length} bytes, not {len(value)}")
        if bpf_map_update_elem(self.fileno(), &index, data, 0):
            raise failure(-errno, "writing to a map")

    def __getitem__(self, uint32_t index):
        cdef char value[PAGE_BYTES]
        if index >= self.entries:
            raise IndexError(f"there is no entry {index}")
        if bpf_map_lookup_elem(self.fileno(), &index, value):
            raise failure(-errno, "reading a map")
        return value[:self.value_length]

    def take(self, uint64_t first, uint64_t granules, unsigned int shift, uint8_t generation, bits):
        cdef Bits view = Bits(bits, True)
        cdef int fd = self.fileno(), error
        if self.value_length != PAGE_BYTES or not generation or shift > 32:
            raise ValueError(f"generation {generation}, shift {shift}")
        if granules > view.length * 8:
            raise ValueError(f"{granules} granules do not fit the bitmap")
        with nogil:
            error = c_classic_take(fd, first, granules, shift, generation, view.data)
        if error:
            raise failure(error, "reading marks")


def load_program(str name, bytes instructions):
    cdef bytes encoded = name.encode()
    cdef const char *label = encoded
    cdef const char *data = instructions
    cdef size_t length = len(instructions)
    cdef int found
    with nogil:
        found = c_classic_program(label, data, length)
    if found < 0:
        raise failure(found, f"loading the program {name}")
    return found


def attach_tracepoint(int program, uint64_t identifier, int cpu):
    cdef int found
    with nogil:
        found = c_classic_attach(program, identifier, cpu)
    if found < 0:
        raise failure(found, "attaching to a tracepoint")
    return found


def skipped(int program):
    cdef uint64_t count
    cdef int error = c_classic_skipped(program, &count)
    if error:
        raise failure(error, "reading a program's counters")
    return count


def settle():
    cdef int error
    with nogil:
        error = c_classic_settle()
    if error:
        raise failure(error, "waiting for running programs (membarrier)")
