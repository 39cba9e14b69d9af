# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets as they are kept: encrypted with a key beside the database, for its owner only."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from p2v.images.durable import write_durably
from p2v.model.errors import StoreError

KEY_NAME = "hosts.key"


class SecretBox:
    """Encrypts and decrypts with the key in the folder `data`, which is drawn at first use."""

    def __init__(self, data: Path) -> None:
        path = data / KEY_NAME
        if not path.exists():
            write_durably(path, Fernet.generate_key(), mode=0o600)
        self._path = path
        self._fernet = Fernet(path.read_bytes())

    def seal(self, secret: str) -> str:
        """Return `secret` encrypted."""
        return self._fernet.encrypt(secret.encode()).decode("ascii")

    def open(self, sealed: str) -> str:
        """Return what `seal` was given.

        Raises:
            StoreError: it was sealed with another key, or changed since.
        """
        try:
            return self._fernet.decrypt(sealed.encode("ascii")).decode()
        except InvalidToken:
            problem = f"a host's password can't be decrypted with {self._path}; add the host anew"
            raise StoreError(problem=problem) from None
