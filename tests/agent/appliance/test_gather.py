# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings from a command line, an answer file on the medium, and a real web server."""

from __future__ import annotations

import pytest

from agent.appliance import gather
from agent.appliance.settings import Settings
from p2v.model.errors import UnreachableError, UsageError
from tests.e2e.webserver import web_server


@pytest.fixture
def said(tmp_path, monkeypatch):
    """``said(command line, answers) -> settings``, the answers being a file on the medium."""
    monkeypatch.setattr(gather, "COMMAND_LINE", tmp_path / "cmdline")
    monkeypatch.setattr(gather, "LIVE_MEDIUM", tmp_path)

    def settings(line, answers=""):
        (tmp_path / "cmdline").write_text(line + "\n")
        (tmp_path / gather.ANSWERS).write_text(answers)
        return gather.from_here()

    return settings


@pytest.fixture
def served(tmp_path):
    """``served(name, text) -> URL`` of a file on a web server."""
    folder = tmp_path / "web"
    folder.mkdir()
    with web_server(folder) as port:

        def serve(name, text):
            (folder / name).write_text(text)
            return f"http://127.0.0.1:{port}/{name}"

        yield serve


@pytest.mark.root
def test_the_command_line_counts_before_the_answers_on_the_medium(said):
    found = said("boot=live p2v.name=here p2v.confirm=yes", 'name = "there"\nvlan = 5\n')
    assert (found.name, found.vlan, found.confirm) == ("here", 5, True)


@pytest.mark.root
def test_an_answer_file_that_makes_no_sense_is_named(said):
    with pytest.raises(UsageError, match=r"'sever' on the answer file p2v.toml .*'server' meant"):
        said("boot=live", 'sever = "x"\n')


def test_answers_at_an_address_fill_in_what_was_not_said(served):
    url = served("web01.toml", 'name = "web01"\nvcpu = 4\n')
    found = gather.with_config(Settings(config=url, name="mine"))
    assert (found.name, found.vcpu) == ("mine", 4)
    assert gather.with_config(Settings(name="mine")) == Settings(name="mine")


def test_answers_that_are_not_there_are_said_with_their_address(served):
    url = served("web01.toml", "")
    with pytest.raises(UnreachableError, match=url.replace("web01", "web02")):
        gather.with_config(Settings(config=url.replace("web01", "web02")))
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        gather.with_config(Settings(config="http://127.0.0.1:9/p2v.toml"))


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ("name = [", "is no TOML"),
        ('sever = "x"\n', "'sever'"),
        ("# " + "x" * (1 << 20), "web01.toml is longer than 1048576 bytes"),
    ],
    ids=["no TOML", "an unknown key", "too long"],
)
def test_answers_at_an_address_that_make_no_sense_are_refused(served, answers, named):
    with pytest.raises(UsageError, match=named):
        gather.with_config(Settings(config=served("web01.toml", answers)))
