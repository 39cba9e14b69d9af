# SPDX-License-Identifier: GPL-3.0-or-later
"""The real commands as processes: a converter, and agents with a home of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

P2V = (sys.executable, "-m", "p2v.cli.main")
P2V_AGENT = (sys.executable, "-m", "agent.cli.main")
START_S = 60.0
STOP_S = 30.0
RUN_S = 300.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


def run(
    argv: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    timeout_s: float = RUN_S,
    stdin: str = "",
) -> Ended:
    """Run a command to its end; a traceback in what it prints fails the test at once."""
    done = subprocess.run(
        [str(word) for word in argv],
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def tool(*argv: str | Path, codes: Sequence[int] = (0,)) -> str:
    """Run an external program that must succeed, and return what it prints."""
    done = run(argv, os.environ | {"LC_ALL": "C"})
    assert done.code in codes, f"{argv} ended with {done.code}: {done.out}{done.err}"
    return done.out


def wait_for(what: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.1) -> Any:
    """Call `what` until it returns something true, and return that."""
    deadline = monotonic() + timeout_s
    while not (found := what()):
        assert monotonic() < deadline, f"not within {timeout_s:g} s"
        sleep(every_s)
    return found


class Converter:
    """`p2v serve` as a process. Killed and started again, it keeps its port and its data."""

    def __init__(self, data: Path, log: Path | None = None, words: Sequence[str] = ()) -> None:
        self.words = words
        self.data = data
        self.log = log or data.with_name(data.name + ".log")
        self.host = "127.0.0.1"
        self.port = 0
        self.address = ""
        self.fingerprint = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        listen = ("--listen", f"{self.host}:{self.port}")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*P2V, "serve", "--data", str(self.data), *listen, *self.words, "--json"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        watchdog = threading.Timer(START_S, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        said = ""
        for line in self.process.stdout:
            said += line
            if line.rstrip() == "}":
                break
        watchdog.cancel()
        assert said, f"p2v serve did not start: {self.log.read_text()}"
        facts = json.loads(said)
        self.port, self.fingerprint = facts["port"], facts["fingerprint"]
        self.address = f"https://{self.host}:{self.port}"

    def kill(self) -> None:
        """End it as a loss of power would (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """End it as systemd would (SIGTERM), and return its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        assert self.process is not None
        process, self.process = self.process, None
        try:
            return process.wait(STOP_S)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def p2v(self, *words: str | Path) -> dict[str, Any]:
        """Run a verb of `p2v` on the converter's data; return its document."""
        done = run([*P2V, *words, "--data", self.data, "--json"])
        assert done.code == 0, f"p2v {words}: {done.out}{done.err}"
        return done.json

    def code(self) -> str:
        """Return a one-time pairing code."""
        return str(self.p2v("pair")["code"])

    def token(self) -> str:
        """Return a token for an unattended agent."""
        return str(self.p2v("pair", "--token", "e2e")["token"])

    def show(self, migration: str) -> dict[str, Any]:
        """Return a migration with its events."""
        return self.p2v("migrations", "show", migration)

    def migrations(self) -> list[dict[str, Any]]:
        """Return all migrations, newest first."""
        return list(self.p2v("migrations", "list")["migrations"])


@dataclass(frozen=True, slots=True)
class Agent:
    """`p2v-agent` with a home of its own, and what it needs to know of a converter."""

    env: Mapping[str, str]
    address: str = ""
    started: list[subprocess.Popen[str]] = field(default_factory=list)
    prefix: tuple[str, ...] = ()
    """What the command line begins with: where it runs."""

    def run(self, *words: str | Path, timeout_s: float = RUN_S) -> Ended:
        """Run it to its end."""
        return run([*self.prefix, *P2V_AGENT, *words], self.env, timeout_s)

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start it; the fixture ends it at the latest."""
        process = subprocess.Popen(
            [*self.prefix, *P2V_AGENT, *(str(word) for word in words)],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def words(self, disk: str | Path, *options: str | Path) -> list[str]:
        """Return the command line of a migration of `disk` to the converter, as it is."""
        given = [str(option) for option in options]
        if "--to" not in given and "--server" not in given:
            given = ["--server", self.address, *given]
        if "--name" not in given:
            given += ["--name", "e2e"]
        words = ["migrate", "--disk", str(disk), *given, "--no-convert"]
        return [*words, "--progress", "none", "--json"]

    def migrate(
        self, disk: str | Path, *options: str | Path, code: int = 0, timeout_s: float = RUN_S
    ) -> dict[str, Any]:
        """Migrate `disk` and return the result's document; it must end with `code`."""
        done = self.run(*self.words(disk, *options), timeout_s=timeout_s)
        assert done.code == code, f"exit code {done.code}: {done.out}{done.err}"
        return done.json

    def end(self) -> None:
        """Kill what is still running."""
        for process in self.started:
            process.kill()
            process.communicate()


def home(folder: Path, **variables: str) -> dict[str, str]:
    """Return an environment whose home is `folder`, and that knows of p2v what `variables` say."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("P2V_")}
    return kept | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")} | variables
