# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirtd of the tests."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = Path("/run/libvirt/libvirt-sock")
LOCK = Path("/run/lock/p2v-tests-libvirtd")
START_S = 100.0

_WITHOUT_KVM = """
touch "$1/kvm" && mount --bind "$1/kvm" /dev/kvm && mount -o remount,bind,ro /dev/kvm
echo 'namespaces = []' >"$1/qemu.conf" && mount --bind "$1/qemu.conf" /etc/libvirt/qemu.conf
exec libvirtd
"""
"""libvirt asks QEMU for KVM, time and again, on machines where that hangs: here there is none."""


@contextmanager
def libvirtd(folder: Path) -> Iterator[None]:
    """Run libvirtd, unless one runs already; needs root. It ends when no test uses it any more."""
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        started = [] if SOCKET.exists() and _answers() else _start(folder)
        try:
            yield
        finally:
            if started:
                fcntl.flock(lock, fcntl.LOCK_UN)
                fcntl.flock(lock, fcntl.LOCK_EX)
            for process in reversed(started):
                process.terminate()
                process.wait(60)


def _start(folder: Path) -> list[subprocess.Popen[bytes]]:
    hidden = ["unshare", "--mount", "sh", "-c", _WITHOUT_KVM, "sh", str(folder)]
    started = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (["virtlogd"], hidden if Path("/dev/kvm").exists() else ["libvirtd"])
    ]
    deadline = time.monotonic() + START_S
    while not _answers():
        assert time.monotonic() < deadline and started[1].poll() is None, "libvirtd does not start"
        time.sleep(0.2)
    return started


def _answers() -> bool:
    return not subprocess.run(["virsh", "-q", "version"], capture_output=True).returncode
