# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest

from p2v.model.errors import AlreadyServedError
from p2v.service.folderlock import FolderLock


def test_a_folder_has_one_owner_until_it_lets_go(tmp_path):
    lock = FolderLock(tmp_path)
    with pytest.raises(AlreadyServedError, match=str(tmp_path)):
        FolderLock(tmp_path)
    lock.close()
    FolderLock(tmp_path).close()
