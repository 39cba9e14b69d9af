# SPDX-License-Identifier: GPL-3.0-or-later
"""The Hyper-V adapter over real WS-Management and PowerShell remoting; the scripts are not run."""

from __future__ import annotations

import json
import logging

import pytest

from p2v.hosts.base import connect
from p2v.hosts.connection import Connection, ConnectionKind
from p2v.hosts.undo import Undo, Undone
from p2v.model.errors import HostError, HostUnreachableError
from p2v.script import hyperv as scripts
from p2v.service.certificate import ensure_certificate
from tests.p2v.hosts.test_hyperv import ANSWER, FACTS
from tests.p2v.hosts.winrm_server import Said, serving


class Host:
    """What a host was told to run, and what it says."""

    def __init__(self):
        self.ran = []
        self.says = Said()

    def __call__(self, script):
        self.ran.append(script)
        return self.says


@pytest.fixture
def hyperv():
    return Host()


@pytest.fixture
def server(tmp_path, hyperv):
    certificate = ensure_certificate(tmp_path)
    with serving(certificate.path, hyperv) as server:
        server.fingerprint = certificate.digest.hex()
        yield server


def connection(server, **changes):
    fields = {
        "user": "EXAMPLE\\admin",
        "secret": "secret",
        "fingerprint": server.fingerprint,
        "options": {"port": str(server.server_address[1]), "auth": "basic"},
    } | changes
    return Connection("hv", ConnectionKind.HYPERV, "127.0.0.1", **fields)


def test_a_host_is_described_by_a_line_of_json_however_long(server, hyperv):
    switches = [f"Ünïcode switch {number} ‘;’" for number in range(500)]
    hyperv.says = Said([json.dumps(ANSWER | {"switches": switches}, ensure_ascii=False)])
    (facts,) = connect(connection(server)).facts()
    assert hyperv.ran == [FACTS]
    assert [network.name for network in facts.networks] == switches
    assert server.shells == {}, "each shell is closed"


def test_the_whole_script_arrives_and_its_words_come_back(server, hyperv, order):
    hyperv.says = Said(['{"name":"web 01","id":"11-22"}'], ["Else"])
    undo = Undo()
    assert connect(connection(server)).create("HV1", order, [], undo) == "11-22"
    assert hyperv.ran == [scripts.script(order)]


def test_a_script_of_many_fragments_arrives_whole(server, hyperv):
    text = "# " + "Größe’ " * 200_000
    hyperv.says = Said(["{}"])
    host = connect(connection(server))
    host._at("127.0.0.1")(text)
    assert hyperv.ran == [text]


def test_what_ends_a_script_is_its_error_and_what_it_undid_is_told(server, hyperv, order):
    hyperv.says = Said(
        warnings=["Undone: the virtual machine web01", "Not undone: the image D:\\x: in use"],
        error="There is no one switch named 'LAN'.",
    )
    undo = Undo()
    with pytest.raises(HostError, match="no one switch"):
        connect(connection(server)).create("HV1", order, [], undo)
    assert undo.run() == (
        Undone("the virtual machine web01"),
        Undone("the image D:\\x", "in use"),
    )


def test_a_wrong_password_is_said_without_it(server):
    with pytest.raises(HostUnreachableError, match="refuses the user") as error:
        connect(connection(server, secret="letmein")).facts()
    assert "letmein" not in str(error.value)


@pytest.mark.parametrize("fingerprint", ["00" * 32, ""])
def test_a_wrong_certificate_is_not_spoken_to(server, hyperv, fingerprint):
    with pytest.raises(HostUnreachableError, match="certificate"):
        connect(connection(server, fingerprint=fingerprint)).facts()
    assert hyperv.ran == []


def test_neither_password_nor_links_are_logged(server, hyperv, order, caplog):
    caplog.set_level(logging.INFO)
    hyperv.says = Said(['{"id":"1"}'])
    connect(connection(server)).create("HV1", order, [], Undo())
    assert "secret" not in caplog.text and "Receive-Image" not in caplog.text
