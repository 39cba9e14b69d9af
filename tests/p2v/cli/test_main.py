# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from p2v.cli.main import VERBS, main


def test_help_lists_every_verb_and_imports_none(capsys):
    script = (
        "import sys\nfrom p2v.cli.main import VERBS, main\n"
        "try: main(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not any(f'p2v.cli.{verb}' in sys.modules for verb in VERBS)\n"
        "assert 'rich' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert all(f"    {verb}" in out.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"usage: p2v {verb}" in capsys.readouterr().out


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"p2v {version('p2v')}\n"


def test_an_unknown_verb_is_one_line(capsys):
    assert main(["imgae"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "invalid choice: 'imgae'" in err


def test_no_verb_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "VERB" in capsys.readouterr().err


def test_a_usage_error_is_json_where_json_was_asked_for(capsys):
    assert main(["image", "check", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"
