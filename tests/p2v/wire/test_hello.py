# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from p2v.model.errors import ProtocolError
from p2v.wire.hello import Hello, read_hello

GOOD = {"versions": [1], "token": "t", "migration": "m", "lease": "l", "agent": "a", "lane": "3"}


def test_a_hello_is_read_with_its_lane():
    assert read_hello(GOOD) == Hello([1], "t", "m", "l", "a", "3")


def test_an_agent_that_names_no_lane_is_understood():
    assert read_hello({key: GOOD[key] for key in GOOD if key != "lane"}).lane == ""


@pytest.mark.parametrize(
    "change", [{"versions": 1}, {"versions": ["1"]}, {"token": None}, {"lease": 7}, {"lane": 3}]
)
def test_a_field_of_the_wrong_type_is_refused(change):
    with pytest.raises(ProtocolError, match="a hello"):
        read_hello(GOOD | change)
