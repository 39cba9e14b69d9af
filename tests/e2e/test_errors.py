# SPDX-License-Identifier: GPL-3.0-or-later
"""What bad input gets: a sentence that names the thing, a way out, an exit code, no half image."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

import pytest

from p2v.model.units import KiB, MiB
from tests.e2e import images
from tests.e2e.conftest import admitted, converting
from tests.e2e.running import P2V, Agent, Converter, home, run, tool, wait_for
from tests.e2e.sources import STALE, attached, mounted
from tests.e2e.stores import small_store, take_room

pytestmark = pytest.mark.timeout(300)


def random_disk(room: Path, size: int = 8 * MiB) -> Path:
    disk = room / "disk.img"
    disk.write_bytes(os.urandom(size))
    return disk


def fails(agent: Agent, *words: str | Path, code: int, names: str | Path) -> str:
    """Run the command as a person would; return what it says."""
    done = agent.run(*words)
    assert done.code == code, done.err
    assert done.out == ""
    said = [line for line in done.err.splitlines() if line.startswith("p2v-agent: error: ")]
    assert len(said) == 1
    assert str(names) in said[0]
    return done.err


def migrating(agent: Agent, disk: str | Path, *options: str | Path) -> list[str]:
    words = agent.words(disk, *options)
    words.remove("--json")
    return words


def whole_images(folder: Path) -> list[Path]:
    """All files that somebody may take for a finished image."""
    return [path for path in folder.rglob("*") if path.suffix in (".vhdx", ".qcow2", ".raw")]


def assert_nothing_looks_whole(converter: Converter) -> None:
    assert whole_images(converter.data) == []
    for partial in converter.data.rglob("*.partial"):
        assert run([*P2V, "image", "check", partial]).code == 50
        assert run(("qemu-img", "convert", "-O", "raw", partial, "/dev/null")).code != 0


# --- names, addresses, secrets -------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Path]:
    path = random_disk(tmp_path_factory.mktemp("errors"))
    yield path
    path.unlink()


@pytest.fixture
def stranger(shared_converter, room) -> Agent:
    """An agent that was not admitted."""
    return Agent(home(room / "home"), shared_converter.address)


def known_as(agent: Agent, **variables: str) -> Agent:
    return Agent({**agent.env, **variables}, agent.address)


@pytest.mark.parametrize("name", ["sdzz", "/dev/sdzz", "/dev/null", "/tmp", "no/such.img", ""])
def test_an_unknown_disk_is_named(shared_agent, name):
    said = fails(shared_agent, *migrating(shared_agent, name), code=23, names=f"'{name}'")
    assert "p2v-agent inventory" in said


def test_an_unknown_partition_to_exclude_is_named(shared_agent, disk):
    words = migrating(shared_agent, disk, "--exclude", "disk.img:7")
    fails(shared_agent, *words, code=2, names="disk.img:7")


@pytest.mark.root
def test_a_disk_that_is_mounted_read_write_is_refused(shared_agent, shared_converter, room):
    image = room / "mounted.img"
    image.write_bytes(b"")
    os.truncate(image, 64 * MiB)
    tool("mkfs.ext4", "-q", image)
    before = shared_converter.migrations()
    with attached(image, 512) as loop, mounted(loop, "ext4", room / "mnt", ro=False) as point:
        for name in (loop, image):
            said = fails(shared_agent, *migrating(shared_agent, name), code=22, names=name)
            assert str(point) in said
            assert "nmount" in said
    assert shared_converter.migrations() == before


def test_an_unreachable_converter_is_named(stranger, disk):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    agent = known_as(stranger, P2V_TOKEN="p2v_x", P2V_FINGERPRINT="ab" * 32)
    address = f"https://127.0.0.1:{port}"
    words = migrating(agent, disk, "--server", address)
    assert "p2v serve" in fails(agent, *words, code=12, names=address)
    agent = known_as(stranger, P2V_CODE="8-abcd-efgh")
    fails(agent, *migrating(agent, disk, "--server", address), code=12, names=address)


def test_something_else_that_listens_there_is_no_converter(stranger, disk):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"https://127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        agent = known_as(stranger, P2V_TOKEN="p2v_x", P2V_FINGERPRINT="ab" * 32)
        fails(agent, *migrating(agent, disk, "--server", address), code=12, names=address)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_wrong_code_admits_nobody(stranger, shared_converter, disk):
    right = shared_converter.code()
    wrong = right[:-1] + ("A" if right[-1] != "A" else "B")
    agent = known_as(stranger, P2V_CODE=wrong)
    said = fails(agent, *migrating(agent, disk), code=10, names=agent.address)
    assert "p2v pair" in said
    assert right not in said
    assert not (Path(stranger.env["HOME"]) / "config" / "p2v" / "converters.toml").exists()


def test_no_code_at_all_says_how_to_get_one(stranger, disk):
    assert "P2V_CODE" in fails(stranger, *migrating(stranger, disk), code=2, names="p2v pair")


def test_a_wrong_fingerprint_stops_before_the_token_is_shown(stranger, shared_converter, disk):
    agent = known_as(stranger, P2V_TOKEN=shared_converter.token(), P2V_FINGERPRINT="ab" * 32)
    said = fails(agent, *migrating(agent, disk), code=10, names=agent.address)
    assert shared_converter.fingerprint in said
    assert "AB:AB" in said.upper()


def test_a_wrong_token_is_refused(stranger, shared_converter, disk):
    facts = {"P2V_TOKEN": "p2v_" + "x" * 43, "P2V_FINGERPRINT": shared_converter.fingerprint}
    agent = known_as(stranger, **facts)
    said = fails(agent, *migrating(agent, disk), code=11, names="token")
    assert facts["P2V_TOKEN"] not in said


@pytest.mark.parametrize(
    "text",
    [b"", b"\x00\xff garbage", b"disks = 3", b"version = 99\n", b"version = 1\nname = 'x'\n"],
    ids=["empty", "binary", "wrong type", "future", "incomplete"],
)
def test_a_garbage_plan_is_named_and_carried_out_by_nobody(shared_agent, room, text):
    plan = room / "plan.toml"
    plan.write_bytes(text)
    words = ("migrate", "--plan", plan, "--server", shared_agent.address)
    fails(shared_agent, *words, code=2, names="plan")


def test_a_plan_with_options_beside_it_is_a_contradiction(shared_agent, disk, room):
    plan = room / "plan.toml"
    plan.write_text(shared_agent.run("plan", "--disk", disk).out)
    words = ("migrate", "--plan", plan, "--all-blocks", "--server", shared_agent.address)
    fails(shared_agent, *words, code=2, names="plan")


def test_a_plan_for_a_disk_that_was_replaced_is_refused(shared_agent, room):
    disk = random_disk(room)
    plan = room / "plan.toml"
    plan.write_text(shared_agent.run("plan", "--disk", disk).out)
    os.truncate(disk, 4 * MiB)
    words = ("migrate", "--plan", plan, "--server", shared_agent.address)
    said = fails(shared_agent, *words, code=21, names=disk)
    assert "new plan" in said


def test_an_unknown_migration_is_named(shared_agent):
    words = ("migrate", "--resume", "web01-00000000", "--server", shared_agent.address)
    fails(shared_agent, *words, code=14, names="web01-00000000")


# --- --to ----------------------------------------------------------------------------------------


def test_a_folder_that_is_none_is_named(shared_agent, disk, room):
    for target in (room / "missing", disk):
        words = migrating(shared_agent, disk, "--to", target)
        fails(shared_agent, *words, code=2, names=target)


@pytest.mark.root
def test_a_folder_that_cannot_be_written_is_named(shared_agent, disk, room):
    image = room / "store.img"
    image.write_bytes(b"")
    os.truncate(image, 64 * MiB)
    tool("mkfs.ext4", "-q", image)
    with attached(image, 512) as loop, mounted(loop, "ext4", room / "store") as store:
        done = shared_agent.run(*migrating(shared_agent, disk, "--to", store))
        assert done.code not in (0, 1)
        assert str(store) in done.err
        assert "read-only" in done.err.lower()
        assert sorted(path.name for path in store.iterdir()) == ["lost+found"]


# --- in the middle -------------------------------------------------------------------------------


@pytest.mark.root
def test_a_full_store_pauses_the_migration_until_there_is_room(tmp_path, room):
    disk = random_disk(room, 48 * MiB)
    with (
        small_store(room, 256 * MiB) as store,
        converting(store / "data", room / "converter.log") as converter,
        admitted(converter, tmp_path / "home") as agent,
    ):
        ballast, filler = store / "ballast", store / "filler"
        take_room(ballast, but=40 * MiB)
        running = agent.start(*agent.words(disk, "--all-blocks", "--codec", "none"))
        (paused,) = wait_for(
            lambda: [each for each in converter.migrations() if each["state"] == "paused"]
        )
        assert paused["problem_code"] == "no-room"
        assert str(store) in paused["problem"]
        with filler.open("wb", buffering=0) as file, suppress(OSError):  # others need room too
            while file.write(bytes(64 * KiB)):
                pass
        sleep(3)
        shown = run([*P2V, "migrations", "show", paused["id"], "--data", converter.data])
        assert "paused" in shown.out
        assert "No room left" in shown.out
        assert_nothing_looks_whole(converter)
        assert running.poll() is None
        ballast.unlink()
        _, err = running.communicate(timeout=120)
        assert running.returncode == 0, err
        assert "Traceback" not in err
        migration = converter.show(paused["id"])
        assert migration["state"] == "finished"
        images.check(Path(migration["images"][0]), 512)
        images.compare(Path(migration["images"][0]), disk, 512)


def receiving(converter: Converter) -> str:
    """Return the id of the migration that is under way, once some of it has arrived."""

    def look() -> str:
        found = [each for each in converter.migrations() if each["state"] == "receiving"]
        progress = converter.show(found[0]["id"])["progress"] if found else {}
        return found[0]["id"] if progress.get("wire_bytes") else ""

    return str(wait_for(look))


def test_a_source_that_shrinks_is_no_image(converter, agent, room):
    disk = random_disk(room, 48 * MiB)
    running = agent.start(*migrating(agent, disk, "--bwlimit", "4M"))
    migration = receiving(converter)
    os.truncate(disk, 10 * MiB)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 21, err
    assert str(disk) in err
    assert "Traceback" not in err
    assert converter.show(migration)["state"] in ("receiving", "paused")
    assert_nothing_looks_whole(converter)


def test_a_second_agent_is_told_who_sends(converter, agent, room):
    disk = random_disk(room, 24 * MiB)
    first = agent.start(*agent.words(disk, "--bwlimit", "3M", "--all-blocks"))
    migration = receiving(converter)
    words = ("migrate", "--resume", migration, "--server", agent.address)
    said = fails(agent, *words, code=13, names=migration)
    assert socket.gethostname() in said
    _, err = first.communicate(timeout=100)
    assert first.returncode == 0, err
    images.compare(Path(converter.show(migration)["images"][0]), disk, 512)


# --- the medium ----------------------------------------------------------------------------------


@pytest.mark.root
def test_unreadable_sectors_are_zeros_and_listed(shared_agent, shared_converter, room):
    """btrfs gives EIO for a block whose checksum is wrong; the kernel passes it on as any other."""
    with damaged_disk(room) as (disk, offset), attached(disk, 512) as loop:
        document = shared_agent.migrate(loop, code=20)
        (unreadable,) = document["unreadable"]
        assert unreadable["bytes"] == 4096
        assert unreadable["ranges"] == [[offset, 4096]]
        image = Path(document["images"][0])
        images.check(image, 512)
        raw = images.unpack(image, 512, room)
        expected = bytearray(STALE * (8 * MiB // len(STALE) + 1))[: 8 * MiB]
        expected[offset : offset + 4096] = bytes(4096)
        assert raw.read_bytes() == expected
        shown = shared_converter.show(document["migration"])
        assert shown["report"]["unreadable"] == [unreadable]
        said = shared_agent.run(*migrating(shared_agent, loop, "--format", "raw"))
        assert said.code == 20
        assert f"4096 bytes in 1 places of {loop}" in said.err
        image.unlink()


@contextmanager
def damaged_disk(room: Path) -> Iterator[tuple[Path, int]]:
    """Give a disk of which 4 KiB cannot be read, and where."""
    store = room / "btrfs.img"
    store.write_bytes(b"")
    os.truncate(store, 256 * MiB)
    tool("mkfs.btrfs", "-q", "-d", "single", store)
    mark = os.urandom(16).hex().encode()
    offset = 5 * MiB + 8192
    with attached(store, 512) as loop, mounted(loop, "btrfs", room / "btrfs", ro=False) as point:
        content = bytearray(STALE * (8 * MiB // len(STALE) + 1))[: 8 * MiB]
        content[offset : offset + len(mark)] = mark
        (point / "disk.img").write_bytes(content)
    whole = store.read_bytes()
    at = whole.index(mark)
    assert whole.count(mark) == 1
    with store.open("r+b") as file:
        file.seek(at)
        file.write(b"rotten")
    with attached(store, 512) as loop, mounted(loop, "btrfs", room / "btrfs", ro=False) as point:
        yield point / "disk.img", offset
