# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a command is said in one sentence that names it, without a traceback."""

import json
import os

import pytest

from p2v.cli.main import main
from tests.e2e.running import P2V, run

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
    """By a root without its rights: nobody else may see this tree where it lies in /root."""
    (here / "disk.img").chmod(0o600)
    os.chown(here / "disk.img", 65534, 65534)
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = run([*bare, *P2V, "convert", "disk.img", "--target", "kvm"])
    assert done.code == 50 and "Traceback" not in done.err
    assert "disk.img: cannot be opened: Permission denied" in done.err
