# SPDX-License-Identifier: GPL-3.0-or-later
"""One-time links to finished images, and the digests that those who follow them check."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from p2v.model.errors import P2VError

LIFETIME_S = 24 * 3600.0
_PIECE = 4 << 20


class NoSuchDownloadError(P2VError):
    """The link was used, is too old, or never was one."""

    code = "no-such-download"
    exit_code = 14
    status = 404
    message = "This link is not good any more."
    hint = "Print the script anew: each has links of its own, good once and for a day."


@dataclass(frozen=True, slots=True)
class _Link:
    path: Path
    expires: float


class Downloads:
    """The links of one converter; kept in memory, for a script is soon printed anew."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._lock = threading.Lock()

    def add(self, path: Path) -> str:
        """Return the token of a new link to a file."""
        token = secrets.token_urlsafe(32)
        now = time.time()
        with self._lock:
            self._links = {key: link for key, link in self._links.items() if link.expires > now}
            self._links[token] = _Link(path, now + LIFETIME_S)
        return token

    def find(self, token: str) -> Path:
        """Return the file that a link is to; it can be found again until it is `used`.

        Raises:
            NoSuchDownloadError: the link is not good.
        """
        with self._lock:
            link = self._links.get(token)
        if link is None or link.expires <= time.time():
            raise NoSuchDownloadError
        return link.path

    def used(self, token: str) -> None:
        """Make a link useless: the file's last byte was sent, or nobody needs it any more."""
        with self._lock:
            self._links.pop(token, None)


class Digests:
    """SHA-256 of finished images, computed once in the background."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int, int], str] = {}
        self._work: dict[Path, _Digest] = {}
        self._lock = threading.Lock()

    def get(self, path: Path) -> str:
        """Return the digest in hex, however long that takes."""
        key = self._key(path)
        with self._lock:
            found = self._known.get(key)
        if found is None:
            found = _Digest(path).run()
            with self._lock:
                self._known[key] = found
        return found

    def ask(self, path: Path) -> tuple[str, int]:
        """Return the digest, empty while it is computed, and the bytes that were read for it.

        Raises:
            OSError: the image can't be read.
        """
        key = self._key(path)
        with self._lock:
            if key in self._known:
                return self._known[key], key[1]
            work = self._work.get(path)
            if work is None or work.error is not None:
                problem = work.error if work else None
                self._work.pop(path, None)
                if problem is not None:
                    raise problem
                work = self._work[path] = _Digest(path)
                threading.Thread(target=self._compute, args=(key, work), daemon=True).start()
            return "", work.done

    def _compute(self, key: tuple[Path, int, int], work: _Digest) -> None:
        try:
            digest = work.run()
        except OSError as error:
            work.error = error
            return
        with self._lock:
            self._known[key] = digest
            self._work.pop(key[0], None)

    @staticmethod
    def _key(path: Path) -> tuple[Path, int, int]:
        stat = path.stat()
        return path, stat.st_size, stat.st_mtime_ns


class _Digest:
    """A digest being computed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.done = 0
        self.error: OSError | None = None

    def run(self) -> str:
        """Read the file and return its SHA-256 in hex."""
        digest = hashlib.sha256()
        piece = memoryview(bytearray(_PIECE))
        with self._path.open("rb", buffering=0) as file:
            while count := file.readinto(piece):
                digest.update(piece[:count])
                self.done += count
        return digest.hexdigest()
