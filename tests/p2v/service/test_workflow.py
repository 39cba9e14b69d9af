# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v serve` is killed while it finishes a migration, started again, and must end it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

# Each makes the process kill itself at one moment of the finish, wherever a thread happens to be.
DIE = """
import os, signal
from p2v.service import receiver, steps, store
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def before(cls, name):
    setattr(cls, name, die)
def after(cls, name, when=lambda *args: True):
    real = getattr(cls, name)
    def run(*args, **kwargs):
        result = real(*args, **kwargs)
        if when(*args):
            die()
        return result
    setattr(cls, name, run)
def to(state):
    return lambda store, id, sources, target: target == state
"""
MOMENTS = {
    "handed over, the workflow not begun": "after(store.Store, 'hand_over')",
    "verification begins": "before(receiver.Receiver, 'verify')",
    "verification ends, not recorded": "after(receiver.Receiver, 'verify')",
    "recorded in the store, not by DBOS": "after(store.Store, 'move', to('committing'))",
    "commit begins": "before(receiver.Receiver, 'commit')",
    "image committed, not recorded": "after(receiver.Receiver, 'commit')",
    "report written, state not": "after(steps, 'write_durably')",
    "finished in the store, not by DBOS": "after(store.Store, 'move', to('finished'))",
}
QUICK = ("image committed, not recorded",)


@pytest.mark.parametrize(
    "moment",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MOMENTS],
)
def test_a_kill_at_this_moment_is_recovered_from(serve, send, moment):
    converter = serve().start(DIE + MOMENTS[moment] + "\n")
    name, lease, disk = send(converter)
    converter.complete(name, lease)
    assert converter.process.wait(20) == -signal.SIGKILL
    events = converter.again().finishes_whole(name, disk)
    assert events == ["receiving", "verifying", "committing", "finished"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_random_moments_are_recovered_from(serve, send):
    converter = serve().start()
    chance = random.Random(os.environ.get("P2V_TEST_SEED", "p2v"))
    for _ in range(12):
        name, lease, disk = send(converter, chunks=200)
        converter.complete(name, lease)
        for _ in range(chance.choice((1, 1, 2))):
            time.sleep(chance.uniform(0, 0.3))
            converter.kill()
            converter.again()
        converter.finishes_whole(name, disk)
        shutil.rmtree(Path(converter.data) / "migrations" / name)


def test_what_was_acknowledged_survives_a_kill_while_receiving(serve, send):
    converter = serve().start()
    name, _, disk = send(converter)
    converter.kill()
    converter.again()
    assert converter.call("GET", f"/migrations/{name}/missing") == {"missing": [0]}
    lease = converter.call("POST", f"/migrations/{name}/lease", {"agent": "other"})["lease"]
    converter.complete(name, lease)
    converter.finishes_whole(name, disk)


@pytest.mark.slow
def test_sigterm_keeps_what_was_received_and_exits_0(serve, send):
    converter = serve().start()
    name, _, _ = send(converter)
    assert converter.kill(signal.SIGTERM) == 0
    converter.process.stdout.close()
    assert not list(converter.data.glob("*.sock"))
    converter.start()
    assert converter.call("GET", f"/migrations/{name}/missing") == {"missing": [0]}


def test_sigterm_while_verifying_exits_0_and_is_taken_up(serve, send):
    slow = (
        "import time\nfrom p2v.service import receiver\n"
        "receiver.Receiver.verify = lambda *_: time.sleep(60)\n"
    )
    converter = serve().start(slow)
    name, lease, disk = send(converter)
    converter.complete(name, lease)
    began = time.monotonic()
    assert converter.kill(signal.SIGTERM) == 0
    assert time.monotonic() - began < 20
    converter.again().finishes_whole(name, disk)
