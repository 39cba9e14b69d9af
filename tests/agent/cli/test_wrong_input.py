# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a command is said in one sentence that names it, without a traceback."""

import json

import pytest

from agent.cli.main import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("P2V_JOBS", str(tmp_path / "jobs"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    (tmp_path / "empty.img").touch()
    (tmp_path / "text.toml").write_text("hello world")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("plan --disk empty.img", 2, "'empty.img' is empty: 0 bytes"),
        ("plan --disk disk.img --cpus -1", 2, "a number from 1 to 240"),
        ("plan --disk disk.img --cpus 99999999999999999999", 2, "a number from 1 to 240"),
        ("plan --disk disk.img --memory 1", 2, "from 32M to 12T, not '1'"),
        ("plan --disk disk.img --memory 99999999T", 2, "from 32M to 12T, not '99999999T'"),
        ("plan --disk disk.img --name a/b", 2, "name: 1 to 64 signs"),
        ("migrate --disk disk.img --to ''", 2, "--to: it is empty"),
        ("migrate --disk disk.img --to /proc", 2, "/proc can't be written"),
        ("migrate --disk disk.img --to-stream /proc", 2, "/proc can't be written"),
        ("migrate --disk disk.img --to folder --job text.toml", 2, "folder text.toml cannot be"),
        ("migrate --disk disk.img --to folder --connections 65", 2, "number from 0 to 64"),
        ("migrate --plan nope --to folder", 2, "the plan nope can't be read: No such file"),
        ("migrate --plan text.toml --to folder", 2, "text.toml: the plan is not TOML"),
        ("migrate --resume '' --to folder", 2, "--resume: it is empty"),
        ("sync '' --to folder", 2, "ID: it is empty"),
        ("cutover ''", 2, "ID: it is empty"),
        ("cutover nobody", 14, "There is no migration 'nobody'"),
    ],
)
def test_it_is_said_in_a_sentence_that_names_it(words, code, said, capsys):
    argv = [word if word != "''" else "" for word in words.split()]
    assert main(argv) == code
    err = capsys.readouterr().err
    assert said in err and "Errno" not in err and "Traceback" not in err
    assert main([*argv, "--json"]) == code
    error = json.loads(capsys.readouterr().out)["error"]
    assert said in error["message"] and error["exit_code"] == code


def test_a_file_too_small_for_a_table_has_none(here, capsys):
    (here / "tiny.img").write_text("hello world\n")
    assert main(["plan", "--disk", "tiny.img"]) == 0
    assert "Traceback" not in "".join(capsys.readouterr())
