# SPDX-License-Identifier: GPL-3.0-or-later
"""The converter under its systemd unit, all of the unit's confinement included.

A container holds what this computer holds, with the unit installed as docs/api.md says, and a
systemd of its own; its disks are an overlay that is thrown away, its network is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v.guest.report import report_path
from p2v.model.units import MiB
from tests.e2e.guests import make_quick
from tests.e2e.running import Agent, home, run, tool, wait_for
from tests.e2e.sources import Spec, attached, digest_of

pytestmark = [pytest.mark.root, pytest.mark.qemu, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "p2v/service/p2v.service"
FOLDER = Path("/var/lib/p2v")
ADDRESS = "https://127.0.0.1:8443"
START_S = 120.0
CONVERT_S = 900.0


@dataclass(frozen=True, slots=True)
class Container:
    """A system that runs; `leader` is the process number of its systemd, `data` of its unit."""

    leader: int
    data: Path

    def run(self, *words: str | Path) -> str:
        """Run a command in it that must succeed; return what it prints."""
        return tool("nsenter", "-t", str(self.leader), "-a", *words)

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.run("systemctl", "show", "-P", name, "p2v").strip()

    @property
    def log(self) -> str:
        return self.run("journalctl", "-u", "p2v", "--no-pager")

    def agent(self, folder: Path) -> Agent:
        """Return an agent in the container's network that the converter admits."""
        said = json.loads(self.run("p2v", "pair", "--token", "e2e", "--json"))
        secrets = {"P2V_TOKEN": said["token"], "P2V_FINGERPRINT": said["fingerprint"]}
        return Agent(home(folder, **secrets), ADDRESS, prefix=self.network)

    @property
    def network(self) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.leader), "-n")


def install(root: Path) -> None:
    """Install the unit; it may see this tree, wherever that lies."""
    tool("chroot", root, "useradd", "--system", "--home-dir", FOLDER, "--no-create-home", "p2v")
    units = root / "etc/systemd/system"
    (units / "p2v.service").write_bytes(UNIT.read_bytes())
    (units / "p2v.service.d").mkdir()
    more = f"[Service]\nBindReadOnlyPaths={ROOT}\n"
    if ROOT.parts[1] in ("home", "root"):  # which are hidden, but need not be shut
        more += "ProtectHome=tmpfs\n"
    (units / "p2v.service.d/tree.conf").write_text(more)
    (root / "usr/bin/p2v").symlink_to(Path(sys.executable).parent / "p2v")


@pytest.fixture
def container(room: Path) -> Iterator[Container]:
    """A container whose unit has started."""
    root, layers, data = room / "root", room / "layers", room / "data"
    for folder in (root, layers, data):
        folder.mkdir()
    with ExitStack() as stack:
        tool("mount", "-t", "tmpfs", "-o", "mode=755", "layers", layers)
        stack.callback(tool, "umount", layers)
        for name in ("upper", "work"):
            (layers / name).mkdir()
        where = f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work"
        tool("mount", "-t", "overlay", "-o", where, "overlay", root)
        stack.callback(tool, "umount", root)
        install(root)
        words = ["--quiet", "--register=no", "--keep-unit", "--private-network", "--boot"]
        process = subprocess.Popen(
            ["systemd-nspawn", *words, f"--directory={root}", f"--bind={data}:{FOLDER}",
             f"--bind-ro={ROOT}",  # else what is below /tmp is not seen
             "systemd.unit=basic.target", "systemd.wants=p2v.service"],
            stdin=subprocess.DEVNULL,
            stdout=(room / "console.log").open("wb"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        stack.callback(process.wait)
        stack.callback(process.terminate)
        leader = wait_for(
            lambda: (
                tool("pgrep", "-x", "-P", str(process.pid), "systemd", codes=(0, 1)).strip()
                or (process.poll() is not None and "none")
            )
        )
        if leader == "none":  # where this computer lets nobody make one
            pytest.skip(f"no container here: {(room / 'console.log').read_text().strip()[-200:]}")
        enter = ("nsenter", "-t", leader, "-a", "systemctl")
        stack.callback(run, [*enter, "halt", "-ff"])
        for unit in ("basic.target", "p2v"):
            wait_for(lambda unit=unit: _active(enter, unit), START_S)
        yield Container(int(leader), data)


def _active(enter: tuple[str, ...], unit: str) -> bool:
    return run([*enter, "is-active", unit]).out.strip() == "active"


def received(container: Container) -> int:
    """Return the bytes of unfinished images."""
    unfinished = container.data.glob("migrations/*/*.partial")
    return sum(512 * path.stat().st_blocks for path in unfinished)


def test_a_server_is_migrated_and_converted_under_the_unit(container, room):
    agent = container.agent(room / "home")
    disk = make_quick(room / "server.img")
    with attached(disk, 512) as loop:
        words = agent.words(loop, "--format", "vhdx", "--name", "web01")
        words.remove("--no-convert")
        done = agent.run(*words, timeout_s=CONVERT_S)
    assert done.code == 0, done.out + done.err + container.log
    image = container.data / Path(done.json["images"][0]).relative_to(FOLDER)
    assert json.loads(report_path(image).read_text())["verdict"] == "converted"
    container.run("systemctl", "stop", "p2v")
    assert (container.show("Result"), container.show("ExecMainStatus")) == ("success", "0")
    assert "Traceback" not in container.log


def test_a_converter_that_was_killed_or_hangs_is_started_again_and_the_migration_goes_on(
    container, built, room
):
    source = built(Spec("unit", volumes=(("random", 64),))).path
    more = "/etc/systemd/system/p2v.service.d/watchdog.conf"
    container.run("sh", "-c", f"printf '[Service]\\nWatchdogSec=5\\n' > {more}")
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "p2v")
    agent = container.agent(room / "home")
    whole = ("--format", "raw", "--all-blocks", "--bwlimit", "4M", "--codec", "none")
    with attached(source, 512, ro=True) as loop:
        migrating = agent.start(*agent.words(loop, *whole))
        for count, signal in enumerate(("KILL", "STOP"), 1):
            enough = received(container) + 4 * MiB  # frames do arrive
            wait_for(lambda enough=enough: received(container) >= enough)
            container.run("systemctl", "kill", "--kill-who=main", f"--signal={signal}", "p2v")
            wait_for(lambda count=count: container.show("NRestarts") == str(count))
            wait_for(lambda: container.show("ActiveState") == "active")
        out, err = migrating.communicate(timeout=300)
    assert migrating.returncode == 0, out + err + container.log
    assert json.loads(out)["counters"]["reconnects"] >= 2
    image = container.data / Path(json.loads(out)["images"][0]).relative_to(FOLDER)
    assert digest_of(image) == digest_of(source)
