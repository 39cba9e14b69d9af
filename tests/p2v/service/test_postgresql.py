# SPDX-License-Identifier: GPL-3.0-or-later
"""Several converters share a PostgreSQL database; each ends its own migrations."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from p2v.model.errors import NoSuchMigrationError, StoreError
from p2v.service.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.root]


def as_postgres(*command):
    done = subprocess.run(
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *map(str, command)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def database(tmp_path_factory):
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not versions:
        pytest.skip("PostgreSQL's server is not installed")
    tools = versions[-1].parent
    folder = Path(
        subprocess.check_output(["mktemp", "-d", "/tmp/p2v-pg-XXXXXX"], text=True).strip()
    )
    shutil.chown(folder, "postgres", "postgres")
    as_postgres(tools / "initdb", "-D", folder / "db", "-A", "trust", "-N")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    as_postgres(
        tools / "pg_ctl", "-D", folder / "db", "-w", "-l", folder / "log", "-o", options, "start"
    )
    yield f"postgresql://postgres@/postgres?host={folder}"
    as_postgres(tools / "pg_ctl", "-D", folder / "db", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.mark.timeout(240)
def test_each_converter_recovers_its_own_and_only_its_own(database, serve, send):
    one = serve("--database", database)
    two = serve("--database", database, folder="two")
    die = (
        "import os, signal\nfrom p2v.service import receiver\n"
        "receiver.Receiver.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    one.start(die)
    two.start()
    name, lease, disk = send(one)
    other, other_lease, other_disk = send(two)
    one.complete(name, lease)
    assert one.process.wait(30) == -signal.SIGKILL
    two.complete(other, other_lease)
    two.finishes_whole(other, other_disk)
    with pytest.raises(NoSuchMigrationError):
        two.call("GET", f"/migrations/{name}")
    two.kill()
    two.again()
    one.again()
    assert one.finishes_whole(name, disk) == ["receiving", "verifying", "committing", "finished"]
    assert [each["id"] for each in one.call("GET", "/migrations")] == [name]
    assert [each["id"] for each in two.call("GET", "/migrations")] == [other]


def test_a_database_that_went_away_is_one_error(database):
    store = Store(database, "one")
    store.ping()
    with pytest.raises(StoreError, match="does not exist"):
        Store(database.replace("/postgres?", "/nowhere?"), "one")
    store.close()
