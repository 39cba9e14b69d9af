# SPDX-License-Identifier: GPL-3.0-or-later
"""What only the administrator may ask, on the socket that only he can open."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path as Folder
from typing import Annotated

from fastapi import APIRouter, Path

from p2v.model.errors import NoSuchTokenError
from p2v.service import views
from p2v.service.auth import issue_token
from p2v.service.context import Shared
from p2v.service.importing import start_import

router = APIRouter(prefix="/admin", tags=["administration"])


@router.post("/codes", status_code=201)
def new_code(context: Shared) -> views.NewCode:
    """Make a pairing code."""
    code, expires = context.desk.new_code()
    return views.NewCode(
        code=str(code),
        expires=expires,
        address=context.address,
        fingerprint=context.certificate.fingerprint,
    )


@router.post("/tokens", status_code=201)
def new_token(body: views.NewToken, context: Shared) -> views.IssuedToken:
    """Make a token for unattended use."""
    token, text = issue_token(context.migrations.store, body.name)
    return views.IssuedToken(
        **asdict(token),
        token=text,
        address=context.address,
        fingerprint=context.certificate.fingerprint,
    )


@router.get("/tokens")
def list_tokens(context: Shared) -> list[views.TokenView]:
    """List the tokens that are good."""
    return [views.TokenView(**asdict(token)) for token in context.migrations.store.tokens()]


@router.delete("/tokens/{id}", status_code=204)
def remove_token(id: Annotated[str, Path(max_length=16)], context: Shared) -> None:  # noqa: A002
    """Revoke a token; connections that it opened before go on until they end."""
    if not context.migrations.store.remove_token(id):
        raise NoSuchTokenError(id=id)


@router.post("/imports", status_code=202)
def import_stream(body: views.NewImport, context: Shared) -> views.MigrationView:
    """Begin to import a stream (docs/wire.md) from a folder of this machine."""
    migration = start_import(context.migrations, Folder(body.folder))
    return views.MigrationView.of(migration, context.migrations.progress(migration.id))
