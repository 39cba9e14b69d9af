# SPDX-License-Identifier: GPL-3.0-or-later
# cython: language_level=3
"""Glue between Python and the watchdog over frozen file systems; documented in _freeze.pyi."""

from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

import os

cdef extern from "freeze/watchdog.h":
    enum:
        WATCHDOG_MAX_FILE_SYSTEMS

    struct watchdog:
        pass

    int watchdog_start(watchdog **out, const int *fds, size_t count, uint64_t limit_ms,
                       char **commands) nogil
    void watchdog_begin(watchdog *dog) nogil
    void watchdog_note(watchdog *dog, size_t index, int frozen) nogil
    void watchdog_command(watchdog *dog, size_t begun, int running) nogil
    int watchdog_expired(const watchdog *dog) nogil
    int watchdog_pid(const watchdog *dog) nogil
    void watchdog_end(watchdog *dog, int done) nogil

cdef extern from "sys/mman.h":
    enum:
        MCL_CURRENT
        MCL_ONFAULT
    int mlockall(int flags) nogil
    int munlockall() nogil


def lock_memory():
    if mlockall(MCL_CURRENT | MCL_ONFAULT) != 0 and mlockall(MCL_CURRENT) != 0:
        raise OSError(errno, os.strerror(errno))


def unlock_memory():
    munlockall()


cdef class Watchdog:
    cdef watchdog *_dog
    cdef size_t _count

    def __init__(self, fds, limit_s, commands=()):
        self._count = len(fds)
        if self._count > WATCHDOG_MAX_FILE_SYSTEMS:
            raise ValueError(f"{self._count} file systems, at most {WATCHDOG_MAX_FILE_SYSTEMS}")
        words = [os.fsencode(command) for command in commands]
        cdef int *numbers = <int *>malloc((self._count + 1) * sizeof(int))
        cdef char **paths = <char **>malloc((len(words) + 1) * sizeof(char *))
        cdef uint64_t limit_ms = int(limit_s * 1000)
        cdef int result
        try:
            if numbers == NULL or paths == NULL:
                raise MemoryError
            for at, fd in enumerate(fds):
                numbers[at] = fd
            for at, word in enumerate(words):
                paths[at] = word
            paths[len(words)] = NULL
            with nogil:
                result = watchdog_start(&self._dog, numbers, self._count, limit_ms, paths)
        finally:
            free(numbers)
            free(paths)
        if result < 0:
            raise OSError(-result, os.strerror(-result))

    def __dealloc__(self):
        if self._dog != NULL:
            watchdog_end(self._dog, 0)

    @property
    def pid(self):
        return watchdog_pid(self._open())

    @property
    def expired(self):
        return bool(watchdog_expired(self._open()))

    def begin(self):
        watchdog_begin(self._open())

    def note(self, index, frozen):
        if not 0 <= index < self._count:
            raise IndexError(index)
        watchdog_note(self._open(), index, bool(frozen))

    def command(self, begun, running=0):
        watchdog_command(self._open(), begun, running)

    def end(self, done):
        cdef watchdog *dog = self._open()
        cdef int all_thawed = bool(done)
        self._dog = NULL
        with nogil:
            watchdog_end(dog, all_thawed)

    cdef watchdog *_open(self) except NULL:
        if self._dog == NULL:
            raise ValueError("the watchdog has ended")
        return self._dog
