# SPDX-License-Identifier: GPL-3.0-or-later
"""`p2v serve` is killed while it finishes a migration, started again, and must end it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.model.errors import UnreachableError
from p2v.model.planfile import to_json
from p2v.service.adminclient import AdminClient
from p2v.wire.chunk import CHUNK_SIZE, digest
from p2v.wire.frame import ACK_SIZE, ALPN, Frame, Kind
from p2v.wire.hello import Hello, read_welcome, receive_exact, receive_message, send_message

MAIN = "import sys\nfrom p2v.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"

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


class Serve:
    """A `p2v serve` of its own process."""

    def __init__(self, data: Path, *options: str) -> None:
        self.data = data
        self.options = options
        self.process: subprocess.Popen | None = None

    def start(self, prelude: str = "") -> Serve:
        command = [sys.executable, "-c", prelude + MAIN, "serve", "--data", str(self.data)]
        command += ["--listen", "127.0.0.1:0", "--json", *self.options]
        with (self.data.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        document = ""
        while line := self.process.stdout.readline():
            document += line
            if line == "}\n":
                self.facts = json.loads(document)
                return self
        raise AssertionError(f"serve ended: {(self.data.parent / 'log').read_text()}")

    def kill(self, number: int = signal.SIGKILL) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def call(self, method: str, path: str, body=None):
        return AdminClient(self.data).call(method, path, body)


@pytest.fixture
def serve(tmp_path):
    made = []

    def make(*options):
        made.append(Serve(tmp_path / "data", *options))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.kill()
        if each.process is not None:
            each.process.stdout.close()


@pytest.fixture
def send(make_plan):
    """Give a converter a migration and all its data; return id, lease and the disk."""

    def run(serve, chunks=8):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([ALPN])
        plan = to_json(make_plan(size=chunks * CHUNK_SIZE))
        name = serve.call("POST", "/migrations", {"plan": plan})["id"]
        lease = serve.call("POST", f"/migrations/{name}/lease", {"agent": "tests"})["lease"]
        token = serve.call("POST", "/admin/tokens", {})["token"]
        disk = random.Random(1).randbytes(chunks * CHUNK_SIZE)
        plain = socket.create_connection(("127.0.0.1", serve.facts["port"]))
        with context.wrap_socket(plain) as sock:
            send_message(sock, Hello([1], token, name, lease))
            read_welcome(receive_message(sock))
            for offset in range(0, len(disk), CHUNK_SIZE):
                chunk = disk[offset : offset + CHUNK_SIZE]
                frame = Frame(Kind.DATA, 0, offset, len(chunk), 1, payload=len(chunk))
                sock.sendall(replace(frame, digest=digest(chunk)).pack() + chunk)
            sock.sendall(Frame(Kind.FLUSH, sequence=2).pack())
            assert receive_exact(sock, bytearray(ACK_SIZE))
        return name, lease, disk

    return run


def complete(serve, name, lease):
    """Say that all was sent; the converter may die before it answers."""
    with suppress(UnreachableError):
        serve.call("POST", f"/migrations/{name}/complete", {"lease": lease, "report": {"n": 1}})


def wait_finished(serve, name, seconds=30):
    deadline = time.monotonic() + seconds
    while (found := serve.call("GET", f"/migrations/{name}"))["state"] != "finished":
        assert found["state"] in ("verifying", "committing"), found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def is_whole(found, disk):
    image = Path(found["images"][0])
    assert image.read_bytes() == disk
    assert not list(image.parent.glob("*.partial"))
    report = json.loads((image.parent / "report.json").read_text())
    assert report["state"] == "finished" and report["report"] == {"n": 1}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MOMENTS],
)
def test_a_kill_at_this_moment_is_recovered_from(serve, send, moment):
    converter = serve().start(DIE + MOMENTS[moment] + "\n")
    name, lease, disk = send(converter)
    complete(converter, name, lease)
    assert converter.process.wait(20) == -signal.SIGKILL
    converter.process.stdout.close()
    is_whole(wait_finished(converter.start(), name), disk)
    events = [event["kind"] for event in converter.call("GET", f"/migrations/{name}/events")]
    assert events == ["receiving", "verifying", "committing", "finished"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_random_moments_are_recovered_from(serve, send):
    converter = serve().start()
    chance = random.Random(os.environ.get("P2V_TEST_SEED", "p2v"))
    for _ in range(12):
        name, lease, disk = send(converter, chunks=200)
        complete(converter, name, lease)
        for _ in range(chance.choice((1, 1, 2))):
            time.sleep(chance.uniform(0, 0.3))
            converter.kill()
            converter.process.stdout.close()
            converter.start()
        is_whole(wait_finished(converter, name), disk)
        shutil.rmtree(Path(converter.data) / "migrations" / name)


def test_what_was_acknowledged_survives_a_kill_while_receiving(serve, send):
    converter = serve().start()
    name, _, disk = send(converter)
    converter.kill()
    converter.process.stdout.close()
    converter.start()
    assert converter.call("GET", f"/migrations/{name}/missing") == {"missing": [0]}
    lease = converter.call("POST", f"/migrations/{name}/lease", {"agent": "other"})["lease"]
    complete(converter, name, lease)
    is_whole(wait_finished(converter, name), disk)


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
    complete(converter, name, lease)
    began = time.monotonic()
    assert converter.kill(signal.SIGTERM) == 0
    assert time.monotonic() - began < 20
    converter.process.stdout.close()
    is_whole(wait_finished(converter.start(), name), disk)
