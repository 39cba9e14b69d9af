# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a command is said in one sentence that names it, without a traceback."""

import json
import os
import subprocess
import sys

import pytest

from p2v.cli.main import main

PLAN = """
version = 1
name = "web01"
foo = 1
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    (tmp_path / "text.toml").write_text("hello world")
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "noise").write_bytes(b"\xe1\xff" * 99)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("image info ''", 2, "FILE: it is empty"),
        ("rehearse ''", 2, "IMAGE: it is empty"),
        ("serve --data ''", 2, "--data: it is empty"),
        ("hosts add x --kind static --address ''", 2, "--address: it is empty"),
        ("convert nope --target kvm", 23, "'nope' is no disk or image file"),
        ("convert folder --target kvm", 23, "'folder' is no disk or image file"),
        ("convert disk.img disk.img --target kvm", 2, "given twice"),
        ("convert disk.img --target xen", 2, "choose from 'hyperv', 'kvm'"),
        ("rehearse disk.img --bus floppy", 2, "choose from 'ide'"),
        ("script text.toml --kind hyperv", 2, "text.toml: the plan is not TOML"),
        ("script plan.toml --kind hyperv", 2, "plan.toml: plan has the unknown key 'foo'"),
        ("script noise --kind hyperv", 2, "noise can't be read: it is no text in UTF-8"),
        ("hosts rate plan.toml --hosts nope", 2, "plan.toml: plan has the unknown key"),
        ("migrations --data folder", 12, "no converter runs on this data folder"),
        ("migrations --data disk.img", 12, "disk.img: Not a directory."),
    ],
)
def test_it_is_said_in_a_sentence_that_names_it(words, code, said, capsys):
    argv = [word if word != "''" else "" for word in words.split()]
    assert main(argv) == code
    err = capsys.readouterr().err
    assert said in err and "Errno" not in err
    assert main([*argv, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert said in error["message"] and error["exit_code"] == code


@pytest.mark.root
def test_an_image_that_may_not_be_read_is_named(here):
    (here / "disk.img").chmod(0o600)
    here.chmod(0o755)
    code = (
        "import os, sys; from p2v.cli.main import main; os.setgid(65534); os.setuid(65534); "
        "sys.exit(main(['convert', 'disk.img', '--target', 'kvm']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 50 and "Traceback" not in done.stderr
    assert "disk.img: cannot be opened: Permission denied" in done.stderr
