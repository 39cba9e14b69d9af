# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent as one file: it runs where there is nothing, and leaves nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.e2e.live_guest import tree
from tests.e2e.sources import attached

REPOSITORY = Path(__file__).parents[3]
FOLDER = Path("/run/p2v-agent")
MiB = 1 << 20
pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
# They enter the agent's mounts, which can't be done from within a chroot.
unrooted = pytest.mark.slow


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    built = tmp_path_factory.mktemp("onefile") / "p2v-agent"
    build = [sys.executable, REPOSITORY / "agent/onefile/build.py", built, "--level", "1"]
    subprocess.run(build, check=True)
    return built


BARE = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
root=$1; shift
exec chroot "$root" "$@"
"""


class Root:
    """A root of its own for the agent, at `path`."""

    def __init__(self, path, program):
        self.path = path
        for name in ("proc", "dev", "sys", "run", "out"):
            (path / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(program, path)

    def __call__(self, *words):
        argv = ["unshare", "-m", "sh", "-c", BARE, "sh", self.path, "/p2v-agent", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def migrate(self, folder):
        """Migrate an ext4 disk, and let its own tool find nothing wrong with the copy."""
        image = folder / "disk.img"
        with image.open("wb") as file:
            file.truncate(64 * MiB)
        subprocess.run(["mkfs.ext4", "-q", "-d", REPOSITORY / "docs", image], check=True)
        with attached(image, 512) as device:
            words = ("migrate", "--disk", device, "--to", "/out", "--format", "raw", "--json")
            done = json.loads(self(*words))
        assert done["counters"]["read"] < 32 * MiB, "the map of used blocks was not to be had"
        copy = self.path / done["images"][0].lstrip("/")
        subprocess.run(["e2fsck", "-fn", copy], check=True, capture_output=True)


@pytest.fixture
def bare(tmp_path, program):
    """A root that holds the agent, and no library, Python or tool.

    Debian's libparted dies of the lack of a shell; one that can do nothing is enough.
    """
    root = Root(tmp_path / "root", program)
    (root.path / "bin").mkdir()
    argv = ["gcc", "-static", "-x", "c", "-o", root.path / "bin/sh", "-"]
    subprocess.run(argv, input=b"int main(void) { return 127; }", check=True)
    return root


def wait_for(condition, timeout_s=60):
    deadline = monotonic() + timeout_s
    while not (found := condition()):
        assert monotonic() < deadline, "it did not happen in time"
        sleep(0.02)
    return found


def test_it_needs_no_library_and_no_interpreter(program):
    headers = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True).stdout
    assert "LOAD" in headers
    assert "INTERP" not in headers


def test_in_a_root_without_anything_it_finds_the_machine(bare):
    found = json.loads(bare("inventory", "--json"))
    assert found["cpus"]["model"]
    assert not list((bare.path / "run").glob("*/*"))


def test_in_a_root_without_anything_it_migrates_a_disk(bare, tmp_path):
    bare.migrate(tmp_path)


@pytest.mark.slow
def test_among_debian_11s_files_it_migrates_a_disk(program, tmp_path):
    """With another C library, Python and tools, and with none of the packages that it needs."""
    (tmp_path / "root").mkdir()
    unpack = ["tar", "-xf", tree(), "-C", tmp_path / "root", "--exclude=./dev/*"]
    subprocess.run(unpack, check=True)
    root = Root(tmp_path / "root", program)
    assert json.loads(root("inventory", "--json"))["os"]["name"].startswith("Debian GNU/Linux 11")
    root.migrate(tmp_path)


def interpreter_of(process):
    """Wait until the agent's Python runs, and stop it there."""
    wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text().strip() == "python3")
    process.send_signal(signal.SIGSTOP)


IMPORTS = """
import importlib, pkgutil, agent
for found in pkgutil.walk_packages(agent.__path__, "agent."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from agent.capture.marks import core_program
assert core_program()[:4] == bytes([127]) + b"ELF"
"""


@pytest.fixture
def stopped(program):
    """The agent as a process that is stopped, unpacked."""
    with subprocess.Popen([program, "inventory"], stdout=subprocess.DEVNULL) as process:
        try:
            interpreter_of(process)
            yield process
        finally:
            process.kill()


@unrooted
def test_every_module_of_the_agent_is_in_it(stopped):
    python = FOLDER / "python/bin/python3"
    argv = ["nsenter", "-t", str(stopped.pid), "-m", python, "-I", "-c", IMPORTS]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@unrooted
def test_nothing_of_the_server_is_mapped_into_it(stopped):
    maps = Path(f"/proc/{stopped.pid}/maps").read_text().splitlines()
    files = {line.split(maxsplit=5)[5] for line in maps if "/" in line}
    assert files
    assert {name for name in files if not name.startswith(str(FOLDER))} == set()


def test_nobody_else_sees_it_and_a_killed_one_leaves_nothing(stopped):
    assert (Path(f"/proc/{stopped.pid}/root{FOLDER}") / "bin").is_dir()
    assert not list(FOLDER.iterdir())
    assert str(FOLDER) not in Path("/proc/self/mountinfo").read_text()
    stopped.kill()
    stopped.wait()
    assert not list(FOLDER.iterdir())


LATER = """
set -e
mount --make-rshared /
"$1" inventory > "$2/out" &
until test "$(cat /proc/$!/comm)" = python3; do sleep 0.02; done
kill -STOP $!
mount -t tmpfs later "$2"
grep -q " $2 " /proc/$!/mountinfo
! grep -q /run/p2v-agent /proc/self/mountinfo
kill -KILL $!
"""


def test_it_sees_what_the_server_mounts_later_and_not_the_other_way_round(program, tmp_path):
    subprocess.run(["unshare", "-m", "sh", "-c", LATER, "sh", program, tmp_path], check=True)


def test_libraries_of_the_server_do_not_get_between(program, tmp_path):
    (tmp_path / "libc.so.6").write_bytes(b"nonsense")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([program, "--version"], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("p2v-agent ")


def said(argv, code=1, **options):
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == code
    return done.stderr


@pytest.mark.parametrize("cut", [1, 1000, 30 * MiB])
def test_a_damaged_file_says_so(program, tmp_path, cut):
    damaged = tmp_path / "p2v-agent"
    data = bytearray(program.read_bytes())
    damaged.write_bytes(data[:-cut])
    damaged.chmod(0o755)
    assert "damaged" in said([damaged, "--version"])
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert "damaged" in said([damaged, "--version"])


def test_without_rights_it_says_what_it_needs(program, tmp_path):
    here = tmp_path / "p2v-agent"
    shutil.copy(program, here)
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    assert "Run it as root" in said([*bare, here, "--version"])


def test_in_a_chroot_that_is_no_mount_point_it_says_the_way_out(program, tmp_path):
    (tmp_path / "proc").mkdir()
    shutil.copy(program, tmp_path)
    script = f'mount -t proc proc {tmp_path}/proc; exec chroot {tmp_path} /p2v-agent "$@"'
    assert "mount --bind" in said(["unshare", "-m", "sh", "-c", script, "sh", "--version"])
