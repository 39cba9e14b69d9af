# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import json
import subprocess

import pytest

from p2v.model.errors import UsageError
from p2v.service.addresses import local_addresses, parse_listen, server_url


def test_iproute_knows_the_same_addresses():
    output = subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True).stdout
    shown = {a["local"] for link in json.loads(output) for a in link["addr_info"] if "local" in a}
    found = {str(address) for address in local_addresses()}
    assert found <= shown and "127.0.0.1" in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.0.0.0:8443", ("0.0.0.0", 8443)),
        ("[::]:1", ("::", 1)),
        (":8443", ("0.0.0.0", 8443)),
        ("p2v.example:443", ("p2v.example", 443)),
    ],
)
def test_addresses_to_listen_on_are_read(text, expected):
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "8443", "host", "host:", "host:x", "host:65536", "host:-1"])
def test_what_is_no_address_is_a_usage_error(text):
    with pytest.raises(UsageError, match="listen"):
        parse_listen(text)


def test_the_url_for_agents_names_an_address_that_they_can_use():
    assert server_url("192.0.2.7", 8443) == "https://192.0.2.7:8443"
    assert server_url("::1", 8443) == "https://[::1]:8443"
    assert "0.0.0.0" not in server_url("0.0.0.0", 8443)
