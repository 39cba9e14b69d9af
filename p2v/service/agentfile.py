# SPDX-License-Identifier: GPL-3.0-or-later
"""Gives out the agent as one file (docs/onefile.md), and the command that fetches it safely.

It is no secret, so that nobody has to be known who asks for it; what counts is that the server
gets this file and no other: the command pins the converter's key and compares the file's digest.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

import p2v
from p2v.model.errors import NoAgentFileError
from p2v.service import views
from p2v.service.context import Context, Shared

NAME = "p2v-agent"
PATH = "/agent"
BUILT = Path(p2v.__file__).resolve().parents[1] / "dist" / NAME
"""Where `make agent` leaves it."""

files = APIRouter()
router = APIRouter()


def agent_file(data: Path) -> Path:
    """Return the agent's file: that in the data folder, else what was built here.

    Raises:
        NoAgentFileError: there is none.
    """
    for path in (data / NAME, BUILT):
        if path.is_file():
            return path
    raise NoAgentFileError


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex; it is read again only when it has changed."""
    status = path.stat()
    return _digest(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _digest(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_command(address: str, public_key: str, digest: str) -> str:
    """Return the one line that fetches the agent, sure of the converter and of the file."""
    return (
        f"curl -fsSk --pinnedpubkey 'sha256//{public_key}' -o {NAME} {address}{PATH} && "
        f"echo '{digest}  {NAME}' | sha256sum -c && chmod +x {NAME}"
    )


def describe(context: Context) -> views.AgentFile:
    """Return what is to be known of the agent's file.

    Raises:
        NoAgentFileError: there is none.
    """
    path = agent_file(context.certificate.path.parent)
    digest = digest_of(path)
    return views.AgentFile(
        sha256=digest,
        size=path.stat().st_size,
        command=fetch_command(context.address, context.certificate.public_key, digest),
    )


@files.get(PATH, tags=["agent"], response_class=FileResponse)
def get_file(context: Shared) -> FileResponse:
    """Give out the agent as one executable for any x86-64 Linux; its digest is in a header."""
    path = agent_file(context.certificate.path.parent)
    headers = {"X-SHA256": digest_of(path)}
    return FileResponse(path, media_type="application/octet-stream", filename=NAME, headers=headers)


@router.get(PATH, tags=["agent"])
def get_description(context: Shared) -> views.AgentFile:
    """Say what `GET /agent` gives out, and the command that fetches it safely."""
    return describe(context)
