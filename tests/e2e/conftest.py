# SPDX-License-Identifier: GPL-3.0-or-later
"""A real converter on a real port, agents that were admitted to it, and room that is freed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.network import SEED, Network
from tests.e2e.running import Agent, Converter, home, run
from tests.e2e.sources import Disk, Spec, build

ROOT = Path(__file__).parents[2]


@contextmanager
def converting(data: Path, log: Path | None = None) -> Iterator[Converter]:
    """Run a converter on `data`; it must end well, and its log must hold no traceback."""
    converter = Converter(data, log)
    converter.start()
    try:
        yield converter
        if converter.process is not None:
            assert converter.process.poll() is None, converter.log.read_text()
    finally:
        code = converter.stop() if converter.process is not None else 0
        said = converter.log.read_text()
        shutil.rmtree(data, ignore_errors=True)
    assert "Traceback" not in said, said
    assert code == 0, said


@contextmanager
def admitted(converter: Converter, folder: Path) -> Iterator[Agent]:
    """Give an agent that the converter admits unattended: by token and fingerprint."""
    secrets = {"P2V_TOKEN": converter.token(), "P2V_FINGERPRINT": converter.fingerprint}
    agent = Agent(home(folder, **secrets), converter.address)
    try:
        yield agent
    finally:
        agent.end()


@pytest.fixture
def converter(tmp_path: Path) -> Iterator[Converter]:
    """A converter of the test's own, that it may kill and start again."""
    with converting(tmp_path / "data") as running:
        yield running


@pytest.fixture
def paired_env(converter: Converter, tmp_path: Path) -> dict[str, str]:
    """The environment of an agent that `converter` admits."""
    token = converter.token()
    return home(tmp_path / "home", P2V_TOKEN=token, P2V_FINGERPRINT=converter.fingerprint)


@pytest.fixture
def agent(converter: Converter, paired_env: dict[str, str]) -> Iterator[Agent]:
    """An agent that `converter` admits."""
    made = Agent(paired_env, converter.address)
    yield made
    made.end()


@pytest.fixture
def migrate(agent: Agent) -> Callable[..., dict]:
    """``migrate(disk, *options, code=0) -> document``: a migration to `converter`, to its end."""
    return agent.migrate


@pytest.fixture(scope="module")
def shared_converter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Converter]:
    """A converter for all tests of a module: none of them may stop it."""
    with converting(tmp_path_factory.mktemp("shared") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def shared_agent(
    shared_converter: Converter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Agent]:
    """An agent that `shared_converter` admits."""
    with admitted(shared_converter, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder for disks and images that is emptied at the end: pytest keeps its own for long."""
    folder = tmp_path / "room"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Spec], Disk]]:
    """``built(spec) -> disk``: a source, built when a test first asks; nobody may write to it."""
    folder = tmp_path_factory.mktemp("sources")
    known: dict[str, Disk] = {}

    def get(spec: Spec) -> Disk:
        if spec.name not in known:
            known[spec.name] = build(spec, folder)
        return known[spec.name]

    yield get
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def iso() -> Path:
    """The live image of this tree."""
    if given := os.environ.get("P2V_ISO"):
        return Path(given)
    done = run(["make", "-s", "-C", ROOT, "iso"], timeout_s=1800)
    assert done.code == 0, done.out + done.err
    return next((ROOT / "dist").glob("p2v-*.iso"))


@pytest.fixture
def image_of(shared_agent: Agent) -> Iterator[Callable[..., tuple[Path, dict]]]:
    """``image_of(disk, *options)``: the image that a migration made, and the migration's end."""
    made: list[Path] = []

    def get(disk: str | Path, *options: str) -> tuple[Path, dict]:
        document = shared_agent.migrate(disk, *options)
        assert document["state"] == "finished"
        made.extend(Path(image) for image in document["images"])
        return made[-1], document

    yield get
    for image in made:
        image.unlink()


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
