# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys

import pytest

from p2v.cli.main import main
from p2v.model.command import Parser, error_document, run_command
from p2v.model.errors import NoRoomError, NoSuchDiskError, UsageError


def run(func, json_output=False) -> int:
    return run_command("p2v", lambda _args: func(), argparse.Namespace(), json_output)


def fail(error: BaseException):
    def func() -> int:
        raise error

    return func


def test_the_verbs_own_code_is_returned():
    assert run(lambda: 7) == 7


def test_an_error_is_one_line_and_its_hint(capsys):
    assert run(fail(NoSuchDiskError(disk="sdx"))) == 23
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "p2v: error: 'sdx' is no disk or image file here.",
        "  Check the name; on the server, 'p2v-agent inventory' lists its disks.",
    ]


def test_an_error_without_a_way_out_has_no_second_line(capsys):
    assert run(fail(UsageError(problem="no"))) == 2
    assert capsys.readouterr().err == "p2v: error: no\n"


def test_an_error_is_a_json_document_on_request(capsys):
    assert run(fail(NoRoomError(path="/x", needed=5)), json_output=True) == 30
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["code"], error["exit_code"]) == ("no-room", 30)
    assert (error["path"], error["needed"]) == ("/x", 5)
    assert error["message"].startswith("No room left in /x")
    assert "--resume" in error["hint"] and "give the command again" in error["hint"]
    assert err == ""


def test_facts_do_not_hide_the_fixed_fields():
    document = error_document(UsageError(problem="no", code="mine"))
    assert document["code"] == "usage"


def test_a_hostile_name_cannot_steer_the_terminal(capsys):
    run(fail(NoSuchDiskError(disk="a\x1b[2J\nb")))
    assert "'a\\x1b[2J\\nb' is no disk" in capsys.readouterr().err


def test_ctrl_c_ends_quietly(capsys):
    assert run(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr() == ("", "")


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_sigterm_runs_the_finally_clauses_and_restores_the_handler():
    before = signal.getsignal(signal.SIGTERM)
    cleaned = []

    def func() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            cleaned.append(True)
        return 0

    assert run(func) == 143
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away_is_no_bug():
    script = (
        "import sys, argparse; from p2v.model.command import run_command\n"
        "def verb(args):\n"
        "    while True: print('line')\n"
        "sys.exit(run_command('p2v', verb, argparse.Namespace(), False))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == b""


def test_a_broken_pipe_of_something_else_is_a_bug():
    with pytest.raises(BrokenPipeError):
        run(fail(BrokenPipeError()))


def test_a_parsers_mistakes_are_usage_errors_that_name_the_help():
    parser = Parser(prog="p2v image")
    parser.add_argument("--size", type=int)
    with pytest.raises(UsageError, match=r"invalid int value: 'x' \(see 'p2v image --help'\)"):
        parser.parse_args(["--size", "x"])


def test_an_unknown_option_is_named_with_the_verb_that_does_not_know_it(capsys):
    assert main(["pair", "--sever", "x\x1b"]) == 2
    said = capsys.readouterr().err
    assert "unknown: --sever x\\x1b (see 'p2v pair --help')" in said
