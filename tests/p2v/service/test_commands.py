# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs that talk to a running converter: pair, migrations, and a second serve."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from p2v.cli.main import main
from p2v.model.pairing import Code
from p2v.service.notify import notify, watchdog_interval


@pytest.fixture
def p2v(running, capsys):
    """Run a verb on the running converter; return its exit code, output and errors."""

    def run(*words, data=running.data):
        code = main([*words, "--data", str(data)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_pair_prints_a_code_and_the_agents_command(p2v, running):
    code, out, _ = p2v("pair")
    assert code == 0
    shown = next(line.split()[1] for line in out.splitlines() if line.strip().startswith("code"))
    assert str(Code.parse(shown)) == shown
    assert running.converter.fingerprint in out
    command = out.splitlines()[-1]
    assert f"migrate --server {running.converter.address} " in command
    assert shown not in command, "a command line is there for every user to see"


def test_pair_json_is_one_document(p2v, running):
    code, out, _ = p2v("pair", "--json")
    document = json.loads(out)
    assert code == 0 and document.keys() == {
        "code",
        "expires",
        "address",
        "fingerprint",
        "command",
        "fetch",
    }


def test_a_token_is_made_listed_and_revoked(p2v, running):
    _, out, _ = p2v("pair", "--token", "nightly", "--json")
    made = json.loads(out)
    assert running.client(made["token"]).call("GET", "/migrations").status == 200
    _, out, _ = p2v("pair", "--list")
    assert f"{made['id']}  " in out and "nightly" in out and made["token"] not in out
    assert p2v("pair", "--revoke", made["id"])[0] == 0
    assert running.client(made["token"]).call("GET", "/migrations").status == 401
    code, _, err = p2v("pair", "--revoke", made["id"])
    assert code == 14 and "no token" in err


def test_a_token_file_is_private_and_the_token_shown_nowhere_else(p2v, running, tmp_path):
    path = tmp_path / "token"
    code, out, _ = p2v("pair", "--token", "--out", str(path), "--json")
    token = path.read_text().strip()
    assert code == 0 and token not in out and json.loads(out)["file"] == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert running.client(token).call("GET", "/migrations").status == 200


def test_a_token_that_cannot_be_written_is_not_made(p2v, running, tmp_path):
    before = running.admin.call("GET", "/admin/tokens")
    path = tmp_path / "token"
    path.write_text("precious")
    code, _, err = p2v("pair", "--token", "--out", str(path))
    assert code == 2 and str(path) in err and path.read_text() == "precious"
    assert running.admin.call("GET", "/admin/tokens") == before


def test_out_without_token_is_a_usage_error(p2v, tmp_path):
    assert p2v("pair", "--out", str(tmp_path / "x"))[0] == 2


@pytest.mark.parametrize("words", [("pair",), ("migrations",), ("migrations", "show", "x")])
def test_without_a_converter_the_verbs_say_so(p2v, tmp_path, words):
    code, out, err = p2v(*words, data=tmp_path)
    assert code == 12 and out == ""
    assert "no converter runs" in err and "p2v serve" in err and "Traceback" not in err


def test_no_migration_is_no_silence(p2v, monkeypatch):
    monkeypatch.setattr("p2v.service.adminclient.AdminClient.call", lambda *_: [])
    assert "no migration yet" in p2v("migrations")[1]


def test_migrations_are_listed_shown_and_cancelled(p2v, running):
    name = running.create(name="mail01")
    _, out, _ = p2v("migrations")
    assert name in out and "receiving" in out
    code, out, _ = p2v("migrations", "show", name)
    assert code == 0 and "mail01-sda.raw" in out and "receiving  created" in out
    assert "mail01-sda.raw (not there before it is finished)" in out
    _, out, _ = p2v("migrations", "show", name, "--json")
    assert json.loads(out)["events"][0]["kind"] == "receiving"
    assert p2v("migrations", "cancel", name)[0] == 0
    assert "mail01-sda.raw (deleted)" in p2v("migrations", "show", name)[1]
    _, out, _ = p2v("migrations", "list", "--json")
    assert (name, "cancelled") in [(m["id"], m["state"]) for m in json.loads(out)["migrations"]]


@pytest.mark.parametrize("name", ["nobody", "../../admin/tokens", "a b", ""])
def test_a_migration_that_is_none_is_named(p2v, name):
    code, _, err = p2v("migrations", "show", name)
    assert code == 14 and "no migration" in err


def test_an_error_is_a_document_with_json(p2v):
    code, out, _ = p2v("migrations", "show", "nobody", "--json")
    assert code == 14 and json.loads(out)["error"]["code"] == "no-such-migration"


def serve(*options):
    command = [sys.executable, "-m", "p2v.cli.main", "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_second_serve_of_the_same_folder_is_refused(running):
    ended = serve("--data", str(running.data), "--listen", "127.0.0.1:0")
    assert ended.returncode == 42 and "already" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert running.client("").call("GET", "/healthz").status == 200
    assert running.admin.call("GET", "/admin/tokens")


def test_serve_on_a_port_in_use_is_refused(running, tmp_path):
    ended = serve("--data", str(tmp_path), "--listen", f"127.0.0.1:{running.port}")
    assert ended.returncode == 43 and f"127.0.0.1:{running.port}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--listen", "nowhere"), 2, "listen"),
        (("--data", "/proc/nowhere"), 2, "data folder"),
        (("--database", "mysql://x"), 44, "database"),
        (("--log-level", "loud"), 2, "log-level"),
    ],
)
def test_serve_says_what_is_wrong_with_its_options(tmp_path, options, code, word):
    words = ["--data", str(tmp_path), "--listen", "127.0.0.1:0", *options]
    ended = serve(*words)
    assert ended.returncode == code, ended.stderr
    assert word in ended.stderr and "Traceback" not in ended.stderr


def test_systemd_is_told(tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    notify("WATCHDOG=1")  # nobody listens any more


def test_without_systemd_nobody_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_the_watchdog_is_fed_at_half_its_time_and_only_by_whom_it_watches(monkeypatch):
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    assert watchdog_interval() == 30
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert watchdog_interval() is None
    monkeypatch.delenv("WATCHDOG_USEC")
    assert watchdog_interval() is None
