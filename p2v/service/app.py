# SPDX-License-Identifier: GPL-3.0-or-later
"""The API as an ASGI application: routes, problem documents, bounded bodies."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import p2v
from p2v.model.errors import AuthError, P2VError, TooLargeError, UsageError
from p2v.model.problem import problem_document
from p2v.service import admin, agentfile, api, hostapi, views
from p2v.service.context import Context

PREFIX = "/api/v1"
MAX_BODY = 8 << 20
"""A report may list a hundred thousand unreadable ranges; more than this is a mistake."""

UNREADABLE = 400
"""What FastAPI answers to a body that is no JSON in UTF-8, or nested without end."""

_MEDIA_TYPE = "application/problem+json"


class _ProblemResponse(JSONResponse):
    media_type = _MEDIA_TYPE


def make_app(context: Context, administrator: bool = False) -> FastAPI:
    """Return the application; with `administrator` for the socket that is proof enough itself."""
    app = FastAPI(
        title="p2v",
        version=p2v.__version__,
        description="The converter's control API; docs/api.md tells the whole story.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # the pages that FastAPI makes load scripts from a public network
        redoc_url=None,
        responses={
            "default": {
                "description": "A problem document (RFC 9457).",
                "content": {_MEDIA_TYPE: {"schema": views.Problem.model_json_schema()}},
            }
        },
    )
    app.state.context = context
    app.state.administrator = administrator
    app.include_router(api.router, prefix=PREFIX)
    app.include_router(agentfile.router, prefix=PREFIX)
    app.include_router(agentfile.files)
    app.include_router(hostapi.router, prefix=PREFIX)
    if administrator:
        app.include_router(admin.router, prefix=PREFIX)
        app.include_router(hostapi.administration, prefix=PREFIX)
    app.add_exception_handler(P2VError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(_BoundedBody)
    return app


def _answer(document: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    return _ProblemResponse(document, document["status"], headers)


def _known(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, P2VError)  # noqa: S101 - what it is registered for
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, AuthError) else None
    return _answer(problem_document(error), headers)


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    return _answer(problem_document(UsageError(problem=f"{place}: {first['msg']}")))


def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == UNREADABLE:
        return _answer(problem_document(UsageError(problem="the request's body can't be read")))
    if error.status_code == TooLargeError.status:
        return _answer(problem_document(TooLargeError(limit=MAX_BODY)))
    document = {
        "type": "about:blank",
        "title": str(error.detail),
        "status": error.status_code,
        "detail": str(error.detail),
        "hint": "",
        "fields": {},
    }
    return _answer(document, dict(error.headers or {}))


def _bug(_request: Request, _error: Exception) -> JSONResponse:
    """Answer; the server logs the traceback."""
    return _answer(
        {
            "type": "bug",
            "title": "A mistake in p2v itself.",
            "status": 500,
            "detail": "The converter made a mistake; its log has the details.",
            "hint": "Please report it with the log.",
            "fields": {},
        }
    )


class _BoundedBody:
    """Refuses requests whose body is larger than `MAX_BODY`, declared or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > MAX_BODY:
            refusal = _answer(problem_document(TooLargeError(limit=MAX_BODY)))
            await refusal(scope, receive, send)
            return
        taken = 0

        async def bounded() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:
                # FastAPI lets only its own exceptions through while it reads a body.
                raise HTTPException(TooLargeError.status)
            return message

        await self._app(scope, bounded, send)
