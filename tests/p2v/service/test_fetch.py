# SPDX-License-Identifier: GPL-3.0-or-later
"""The program with which a Hyper-V host fetches images, compiled as C# 5 and run by Mono.

Windows compiles it with the same version of the language; its .NET Framework is another.
"""

from __future__ import annotations

import subprocess
from importlib.resources import files

import pytest

from p2v.service.certificate import ensure_certificate

CONTENT = bytes(range(256)) * 20_000
PROGRAM = """
public static class Program {
    public static int Main(string[] words) {
        try { P2VFetch.Get(words[0], words[1], words[2]); return 0; }
        catch (System.Exception error) { System.Console.Error.WriteLine(error.Message); return 1; }
    }
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "Program.cs").write_text(PROGRAM)
    (folder / "fetch.cs").write_text((files("p2v.script") / "fetch.cs").read_text())
    command = ["mcs", "-langversion:5", "-warnaserror", "-r:System.dll", "-out:fetch.exe"]
    subprocess.run([*command, "Program.cs", "fetch.cs"], cwd=folder, check=True)
    return folder / "fetch.exe"


@pytest.fixture
def fetch(program, running, tmp_path):
    """``fetch(fingerprint=...) -> the process``: what is fetched goes to ``fetch.target``."""
    image = tmp_path / "image"
    image.write_bytes(CONTENT)
    deployer = running.converter.migrations.deployer
    links = deployer.downloads
    token = links.add(image)
    known = ensure_certificate(running.data).digest.hex()

    def run(fingerprint=known):
        url = f"https://127.0.0.1:{running.port}/api/v1/downloads/{token}"
        command = ["mono", program, url, fingerprint.upper(), run.target]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    run.target = tmp_path / "image.part"
    run.links, run.token = links, token
    return run


def test_an_image_is_fetched_by_a_link_that_is_good_once(fetch):
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert fetch.target.read_bytes() == CONTENT
    fetch.target.unlink()
    assert fetch().returncode == 1 and fetch.target.read_bytes() == b""


def test_what_was_cut_off_goes_on_where_it_was(fetch):
    fetch.target.write_bytes(CONTENT[:1_000_000])
    done = fetch()
    assert done.returncode == 0, done.stderr
    assert fetch.target.read_bytes() == CONTENT


def test_another_certificate_gets_no_question(fetch):
    assert fetch("00" * 32).returncode == 1
    assert fetch.target.read_bytes() == b""
    assert fetch.links.find(fetch.token)


def test_a_part_that_is_no_part_is_thrown_away_for_the_next_attempt(fetch):
    fetch.target.write_bytes(b"x" * (len(CONTENT) + 1))
    assert fetch().returncode == 1
    assert fetch().returncode == 0
    assert fetch.target.read_bytes() == CONTENT
