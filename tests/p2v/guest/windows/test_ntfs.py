# SPDX-License-Identifier: GPL-3.0-or-later
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2v.guest.windows.ntfs import marked_dirty
from tests.p2v.guest.windows.building import sh

MiB = 1 << 20


def reader(content: bytes):
    return lambda at, count: content[at : at + count]


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ntfs") / "volume"
    with path.open("wb") as out:
        out.truncate(8 * MiB)
    sh("mkntfs", "-F", "-Q", "-q", path)
    return path


def test_a_new_volume_is_not_marked(volume):
    assert not marked_dirty(reader(volume.read_bytes()))


@pytest.mark.parametrize("cluster", [512, 65536])
def test_clusters_may_have_any_size(tmp_path, cluster):
    path = tmp_path / "volume"
    with path.open("wb") as out:
        out.truncate(16 * MiB)
    sh("mkntfs", "-F", "-Q", "-q", "-c", cluster, path)
    assert not marked_dirty(reader(path.read_bytes()))


def test_a_volume_that_ntfs_3g_marks_for_chkdsk_is(volume, tmp_path):
    path = tmp_path / "volume"
    path.write_bytes(volume.read_bytes())
    sh("ntfsfix", path)  # sets the flag, so that Windows looks at what it did
    assert marked_dirty(reader(path.read_bytes()))
    sh("ntfsfix", "-d", path)
    assert not marked_dirty(reader(path.read_bytes()))


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=2000))
def test_what_is_no_ntfs_is_dirty(content):
    assert marked_dirty(reader(content))
