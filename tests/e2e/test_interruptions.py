# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is killed or cut, and whenever: the migration ends bit-identical and re-sends little."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from p2v.images.compare import compare_images
from p2v.model.errors import MigrationBusyError
from p2v.model.units import MiB
from p2v.service.lease import GRACE_S
from p2v.service.receiver import CHECKPOINT_SECONDS
from tests.e2e.network import Network
from tests.e2e.running import P2V, Agent, Converter, Ended, home, run, tool, wait_for

SEED = int(os.environ.get("P2V_SEED", "0")) or time.time_ns() % 1_000_000
"""Where the moments come from; a run that failed is repeated with P2V_SEED."""

FORMATS = (
    ("vhdx", ()),
    ("qcow2", ()),
    ("qcow2", ("--compress-image",)),
    ("raw", ()),
)
QUICK, ALL = 3, 20
NOISE = 72 * MiB
"""Bytes of the source that can't be compressed."""
WIRE = NOISE + 2 * MiB
"""What the whole source takes on the wire: there is half as much text, which becomes little."""
SIZE = 300 * MiB + 5 * 512
RATE = 24 * MiB
"""Bytes a second: a migration then takes some seconds."""
LATEST_S = 4.0
CHECKPOINT_S = CHECKPOINT_SECONDS + 2.0
"""What a crash may cost: what was sent since the last checkpoint began, which took a while too."""
STARTED_S = 0.5
"""A migration sends for so long before its id is seen."""
IN_FLIGHT = 8 * MiB
"""What lanes and sockets hold when a connection breaks."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk with noise, text, zeros that are stored, holes, and an odd end."""
    path = tmp_path_factory.mktemp("source") / "disk.img"
    random = Random(1)
    text = b"".join(random.randbytes(64) * 64 for _ in range(256))
    with path.open("wb") as disk:
        disk.truncate(SIZE)
        for piece in range(NOISE // (2 * MiB)):
            disk.seek(8 * piece * MiB)
            disk.write(random.randbytes(2 * MiB))
            disk.write(piece.to_bytes(4096, "little") + text[4096:])
            disk.write(bytes(MiB))
        disk.seek(SIZE - 512)
        disk.write(b"\x55\xaa" * 256)
    yield path
    path.unlink()


def check_wire(what: str, sent: int, breaks: list[float]) -> None:
    """Hold the bytes sent against what breaks may cost; `breaks` are the seconds sent before each.

    What is kept across a break is what a checkpoint has covered. The figures are printed.
    """
    cost = sum(int(min(before, CHECKPOINT_S) * RATE) + IN_FLIGHT for before in breaks)
    extra, allowed = (sent - WIRE) / MiB, cost / MiB
    print(f"\n{what}: sent {sent / MiB:.1f} MiB, {extra:.1f} MiB again, {allowed:.1f} allowed")
    assert extra <= allowed


def options_of(turn: int) -> list[str]:
    image, more = FORMATS[turn % len(FORMATS)]
    return ["--format", image, *more, "--all-blocks", "--codec", "zstd", "--bwlimit", str(RATE)]


def moments(count: int, what: str) -> list[tuple[int, float]]:
    random = Random(f"{what} {SEED}")
    return [(turn, random.uniform(0.1, LATEST_S)) for turn in range(count)]


def cases(what: str) -> list[object]:
    """Return (turn, seconds) for each moment: the first few by default, the others are slow."""
    return [
        pytest.param(
            turn,
            delay,
            id=f"{turn}-{FORMATS[turn % 4][0]}-{delay:.2f}s-seed{SEED}",
            marks=[pytest.mark.slow] if turn >= QUICK else [],
        )
        for turn, delay in moments(ALL, what)
    ]


def begin(
    agent: Agent, converter: Converter, source: Path, *options: str
) -> tuple[subprocess.Popen[str], str]:
    """Start a migration; return the process and the id once it exists."""
    process = agent.start(*agent.words(source, *options))
    found = wait_for(lambda: process.poll() is not None or converter.migrations(), 60, 0.02)
    assert isinstance(found, list), process.communicate()
    return process, found[0]["id"]


def end_of(process: subprocess.Popen[str], timeout_s: float = 100) -> dict[str, Any]:
    """Return the document of an agent that must end well."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, out + err
    assert "Traceback" not in err, err
    return json.loads(out)


def resume(agent: Agent, migration: str) -> dict[str, Any]:
    """Resume as soon as the converter has noticed that the killed agent is gone."""
    words = ("migrate", "--resume", migration, "--server", agent.address)
    words += ("--progress", "none", "--json")

    def done() -> Ended | None:
        ended = agent.run(*words)
        return None if ended.code == MigrationBusyError.exit_code else ended

    ended = wait_for(done, GRACE_S + 45, 0.5)
    assert ended.code == 0, ended.out + ended.err
    return ended.json


def received(converter: Converter, migration: str) -> int:
    """Return the bytes of payload that the converter was sent since it was started."""
    return int(converter.show(migration)["progress"].get("wire_bytes", 0))


def check_image(source: Path, done: dict[str, Any]) -> None:
    """The image holds the source's bytes: by our reader, by QEMU's, and by the strict check."""
    assert done["state"] == "finished"
    (image,) = done["images"]
    assert compare_images(source, Path(image)).same
    kind = Path(image).suffix[1:]
    tool("qemu-img", "compare", "-f", "raw", "-F", kind, source, image)
    assert run([*P2V, "image", "check", image]).code == 0
    Path(image).unlink()


@pytest.mark.parametrize(("turn", "delay"), cases("agent"))
def test_an_agent_that_is_killed_goes_on_where_it_was(converter, agent, source, turn, delay):
    process, migration = begin(agent, converter, source, *options_of(turn))
    time.sleep(delay)
    process.kill()
    process.wait()
    done = resume(agent, migration)
    check_image(source, done)
    check_wire("agent killed", received(converter, migration), [delay + STARTED_S])


@pytest.mark.parametrize(("turn", "delay"), cases("converter"))
def test_a_converter_that_is_killed_goes_on_where_it_was(converter, agent, source, turn, delay):
    process, _ = begin(agent, converter, source, *options_of(turn))
    time.sleep(delay)
    converter.kill()
    time.sleep(delay / 8)
    converter.start()
    done = end_of(process)
    check_image(source, done)
    check_wire("converter killed", done["counters"]["wire"], [delay + STARTED_S])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("turn", range(len(FORMATS)), ids=lambda turn: FORMATS[turn][0])
def test_a_migration_that_is_interrupted_all_the_time_ends_all_the_same(
    converter, agent, source, turn
):
    random = Random(f"both {turn} {SEED}")
    process, migration = begin(agent, converter, source, *options_of(turn)[:-1], str(RATE // 6))
    for _ in range(6):
        time.sleep(random.uniform(0.5, 9))
        if random.random() < 0.5:
            converter.kill()
            converter.start()
        elif process.poll() is None:
            process.kill()
            process.wait()
            words = ("migrate", "--resume", migration, "--server", agent.address)

            def again() -> bool:
                nonlocal process
                process = agent.start(*words, "--progress", "none", "--json")
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(3) != MigrationBusyError.exit_code
                return True

            wait_for(again, GRACE_S + 45)
    check_image(source, end_of(process, 300))


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(SEED).built() as network:
        yield network


@pytest.fixture
def far_away(network: Network, tmp_path: Path) -> Iterator[tuple[Converter, Agent]]:
    """A converter, and an agent at the other end of `network`."""
    converter = Converter(tmp_path / "data")
    converter.host = network.converter
    converter.start()
    try:
        secrets = {"P2V_TOKEN": converter.token(), "P2V_FINGERPRINT": converter.fingerprint}
        env = home(tmp_path / "home", **secrets)
        agent = Agent(env, converter.address, prefix=tuple(network.prefix))
        try:
            yield converter, agent
        finally:
            agent.end()
    finally:
        converter.stop()
        shutil.rmtree(converter.data)


@pytest.mark.root
@pytest.mark.parametrize("seconds", [3, pytest.param(45, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
def test_a_cable_that_is_pulled_and_put_in_again(network, far_away, source, seconds):
    converter, agent = far_away
    process, _ = begin(agent, converter, source, *options_of(seconds))
    time.sleep(1.5)
    network.link("down")
    time.sleep(seconds)
    network.link("up")
    done = end_of(process, 200)
    check_image(source, done)
    check_wire(f"{seconds} s without a cable", done["counters"]["wire"], [2.5 + STARTED_S])


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("loss", "silence"), [(0.01, 2), pytest.param(0.05, 50, marks=pytest.mark.slow)]
)
def test_a_network_that_loses_packets_and_falls_silent(network, far_away, source, loss, silence):
    converter, agent = far_away
    network.loss = loss
    process, _ = begin(agent, converter, source, *options_of(1))
    time.sleep(1.5)
    network.loss = 1.0
    time.sleep(silence)
    network.loss = loss
    done = end_of(process, 250)
    check_image(source, done)
    assert network.lost > 0
    check_wire(f"{loss:.0%} of packets lost", done["counters"]["wire"], [2.5 + STARTED_S])
