# SPDX-License-Identifier: GPL-3.0-or-later
"""A signal reaches a thread while the main one is in a library's call."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from p2v.guest.signals import Signals

WAITING = """
import ctypes, os, signal, sys, threading, time
from p2v.guest.signals import Signals
signal.signal(signal.SIGTERM, signal.default_int_handler)
signal.signal(signal.SIGUSR1, lambda *_: None)
read, write = os.pipe()
seen = Signals(lambda: os.write(write, b"x"))
libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(1)
try:
    print("ready", flush=True)
    while libc.read(read, buffer, 1) != 1:
        pass
    time.sleep(10)
except KeyboardInterrupt:
    seen.close()
    print("interrupted", flush=True)
"""


def test_a_call_that_waits_is_ended_by_a_signal():
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20)[0] == "interrupted\n"
    assert process.returncode == 0


def test_the_descriptor_of_before_is_back_when_it_is_closed():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    Signals(lambda: None).close()
    assert signal.set_wakeup_fd(before) == before


def test_in_another_thread_it_does_nothing():
    made = []
    thread = threading.Thread(target=lambda: made.append(Signals(lambda: None)))
    thread.start()
    thread.join()
    made[0].close()
