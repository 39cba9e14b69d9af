# SPDX-License-Identifier: GPL-3.0-or-later
"""What the requests of the API share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from p2v.model.errors import P2VError
from p2v.service.auth import ADMINISTRATOR, Principal
from p2v.service.certificate import Certificate
from p2v.service.deploy import Deployer
from p2v.service.metrics import Metrics
from p2v.service.migrations import Migrations
from p2v.service.pairing import PairingDesk


class NotReadyError(P2VError):
    """The converter is starting or stopping."""

    code = "not-ready"
    status = 503
    message = "The converter is not ready: {problem}."


@dataclass(slots=True)
class Context:
    """One converter, as the API uses it."""

    migrations: Migrations
    desk: PairingDesk
    certificate: Certificate
    address: str
    """The URL at which agents reach it."""
    deployer: Deployer
    metrics: Metrics = field(init=False)
    ready: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.migrations)


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


_bearer = HTTPBearer(auto_error=False, description="A token from pairing or `p2v pair --token`.")


def _principal(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    """Return who asks; on the administrator's socket that is the administrator."""
    if request.app.state.administrator:
        return ADMINISTRATOR
    token = credentials.credentials if credentials is not None else ""
    return _context(request).migrations.authorise(token)


Shared = Annotated[Context, Depends(_context)]
Asker = Annotated[Principal, Depends(_principal)]
