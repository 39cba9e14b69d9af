# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is killed or cut, and whenever: the migration ends bit-identical and re-sends little."""

from __future__ import annotations

import json
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
from tests.e2e.network import SEED
from tests.e2e.running import P2V, Agent, Converter, run, tool, wait_for

FORMATS = (
    ("vhdx", ()),
    ("qcow2", ()),
    ("qcow2", ("--compress-image",)),
    ("raw", ()),
)
TOGETHER = 3
"""Migrations that run at once, each of another format, with a kill each."""
ROUNDS = 7
"""The first by default, the others are slow: 21 moments."""
NOISE = 72 * MiB
"""Bytes of the source that can't be compressed."""
WIRE = NOISE + 2 * MiB
"""What the whole source takes on the wire: there is half as much text, which becomes little."""
SIZE = 300 * MiB + 5 * 512
RATE = 8 * MiB
"""Bytes a second: a migration then takes some eight seconds."""
SLOW_RATE = 4 * MiB
"""Bytes a second at which a migration lasts several checkpoints."""
BURST_S = 1.0
"""What the limit allows beyond its rate."""
CHECKPOINT_S = CHECKPOINT_SECONDS + 2.0
"""What a crash may cost: what was sent since the last checkpoint began, which took a while too."""
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


def check_wire(what: str, sent: int, breaks: list[float], rate: int = RATE) -> None:
    """Hold the bytes sent against what breaks may cost; `breaks` are the seconds sent before each.

    What is kept across a break is what a checkpoint has covered. The figures are printed.
    """
    cost = sum(int((min(before, CHECKPOINT_S) + BURST_S) * rate) + IN_FLIGHT for before in breaks)
    extra, allowed = (sent - WIRE) / MiB, cost / MiB
    print(f"\n{what}: sent {sent / MiB:.1f} MiB, {extra:.1f} MiB again, {allowed:.1f} allowed")
    assert extra <= allowed


def options_of(turn: int, rate: int = RATE) -> list[str]:
    image, more = FORMATS[turn % len(FORMATS)]
    limit = ("--codec", "zstd", "--bwlimit", str(rate))
    return ["--format", image, *more, "--all-blocks", *limit]


def rounds(what: str, latest_s: float) -> list[Any]:
    """Return (number of the round, rate, seconds before each of its kills).

    The first round is quick; the others last until after several checkpoints. `latest_s` is
    the part of a quick migration within which a kill strikes, in seconds.
    """
    random = Random(f"{what} {SEED}")
    return [
        pytest.param(
            turn,
            SLOW_RATE if turn else RATE,
            [random.uniform(0.1, latest_s * (5 if turn else 1)) for _ in range(TOGETHER)],
            id=f"round-{turn}-of-seed-{SEED}",
            marks=[pytest.mark.slow, pytest.mark.timeout(600)] if turn else [],
        )
        for turn in range(ROUNDS)
    ]


class Migrating:
    """A migration under way, with the agent that sends it."""

    def __init__(self, agent: Agent, converter: Converter, source: Path, *options: str) -> None:
        """Start it and wait until it exists."""
        known = _migrations(converter)
        self._agent = agent
        self._converter = converter
        self.source = source
        self.process = agent.start(*agent.words(source, *options))
        wait_for(
            lambda: self.process.poll() is not None or _migrations(converter) - known, 60, 0.01
        )
        found = _migrations(converter) - known
        assert len(found) == 1, self.process.communicate()
        self.id = found.pop()
        self._since = time.monotonic()
        self.sent: list[float] = []
        """Seconds that were sent before each break."""

    def break_(self) -> None:
        """Note that it was interrupted, if it was not over before."""
        if self.process.poll() is not None:
            return
        self.sent.append(time.monotonic() - self._since)
        self._since = time.monotonic()

    def kill(self) -> None:
        """Kill its agent."""
        self.break_()
        self.process.kill()
        self.process.communicate()

    def resume(self) -> None:
        """Resume it, as soon as the converter has noticed that the killed agent is gone."""
        words = ("migrate", "--resume", self.id, "--server", self._agent.address)

        def goes_on() -> bool:
            self.process = self._agent.start(*words, "--progress", "none", "--json")
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(3) != MigrationBusyError.exit_code
            return True

        wait_for(goes_on, GRACE_S + 45, 0.5)

    def sends(self) -> None:
        """Wait until its agent has sent something to the converter as that runs now, or ended."""
        before = self.received()
        wait_for(lambda: self.process.poll() is not None or self.received() > before, 60, 0.2)

    def end(self, timeout_s: float = 100) -> dict[str, Any]:
        """Wait for the end, which must be a good one, and check the image: bit by bit."""
        out, err = self.process.communicate(timeout=timeout_s)
        assert self.process.returncode == 0, out + err
        assert "Traceback" not in err, err
        done: dict[str, Any] = json.loads(out)
        assert done["state"] == "finished"
        (image,) = done["images"]
        assert compare_images(self.source, Path(image)).same
        kind = Path(image).suffix[1:]
        tool("qemu-img", "compare", "-f", "raw", "-F", kind, self.source, image)
        assert run([*P2V, "image", "check", image]).code == 0
        Path(image).unlink()
        return done

    def received(self) -> int:
        """Return the bytes of payload that came in since the converter was started."""
        return int(self._converter.show(self.id)["progress"].get("wire_bytes", 0))


def _migrations(converter: Converter) -> set[str]:
    folder = converter.data / "migrations"
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {name for name in names if not name.endswith(".new")}


@pytest.mark.parametrize(("turn", "rate", "delays"), rounds("agent", latest_s=3))
def test_agents_that_are_killed_go_on_where_they_were(converter, agent, source, turn, rate, delays):
    under_way = []
    for number, delay in enumerate(delays):
        options = options_of(TOGETHER * turn + number, rate)
        migration = Migrating(agent, converter, source, *options)
        time.sleep(delay)
        migration.kill()
        assert migration.sent, "it was over before it was killed"
        under_way.append(migration)
    for migration in under_way:
        migration.resume()
    for migration in under_way:
        migration.end()
        check_wire("agent killed", migration.received(), migration.sent, rate)


@pytest.mark.parametrize(("turn", "rate", "delays"), rounds("converter", latest_s=1))
def test_a_converter_that_is_killed_goes_on_where_it_was(
    converter, agent, source, turn, rate, delays
):
    under_way = [
        Migrating(agent, converter, source, *options_of(TOGETHER * turn + number, rate))
        for number in range(TOGETHER)
    ]
    for delay in delays:
        time.sleep(delay)
        converter.kill()
        for migration in under_way:
            migration.break_()
        converter.start()
    for migration in under_way:
        assert migration.sent, "it was over before the converter was killed"
        done = migration.end()
        check_wire("converter killed", done["counters"]["wire"], migration.sent, rate)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("turn", range(len(FORMATS)), ids=lambda turn: FORMATS[turn][0])
def test_a_migration_that_is_interrupted_all_the_time_ends_all_the_same(
    converter, agent, source, turn
):
    random = Random(f"both {turn} {SEED}")
    migration = Migrating(agent, converter, source, *options_of(turn, SLOW_RATE))
    for _ in range(6):
        time.sleep(random.uniform(0.5, 9))
        if random.random() < 0.5:
            converter.kill()
            converter.start()
        else:
            migration.kill()
            migration.resume()
        migration.sends()  # an agent that never reached its converter gives up
    migration.end(300)


@pytest.mark.root
@pytest.mark.parametrize("seconds", [3, pytest.param(45, marks=pytest.mark.slow)])
@pytest.mark.timeout(300)
def test_a_cable_that_is_pulled_and_put_in_again(network, far_away, source, seconds):
    converter, agent = far_away
    migration = Migrating(agent, converter, source, *options_of(seconds))
    time.sleep(1.5)
    migration.break_()
    network.link("down")
    time.sleep(seconds)
    network.link("up")
    done = migration.end(200)
    check_wire(f"{seconds} s without a cable", done["counters"]["wire"], migration.sent)


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("loss", "silence"), [(0.01, 2), pytest.param(0.05, 50, marks=pytest.mark.slow)]
)
def test_a_network_that_loses_packets_and_falls_silent(network, far_away, source, loss, silence):
    converter, agent = far_away
    network.loss = loss
    migration = Migrating(agent, converter, source, *options_of(1))
    time.sleep(1.5)
    migration.break_()
    network.loss = 1.0
    time.sleep(silence)
    network.loss = loss
    done = migration.end(250)
    assert network.lost > 0
    check_wire(f"{loss:.0%} of packets lost", done["counters"]["wire"], migration.sent)
