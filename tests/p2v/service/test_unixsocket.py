# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import stat

import pytest

from p2v.service.unixsocket import connect, listen


@pytest.mark.parametrize("depth", [0, 4])
def test_a_socket_is_found_however_deep_and_opens_to_its_owner_only(tmp_path, depth):
    folder = tmp_path.joinpath(*["long" * 20] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "s"
    assert depth == 0 or len(str(path)) > 108
    with listen(path) as listener, connect(path) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server, _ = listener.accept()
        with server:
            client.sendall(b"hello")
            assert server.recv(10) == b"hello"


def test_a_socket_left_by_a_crash_is_replaced(tmp_path):
    listen(tmp_path / "s").close()
    with listen(tmp_path / "s"), connect(tmp_path / "s"):
        pass


def test_nobody_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        connect(tmp_path / "s")
    listen(tmp_path / "s").close()
    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path / "s")
