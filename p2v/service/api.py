# SPDX-License-Identifier: GPL-3.0-or-later
"""The control API of agents and administrators under `/api/v1`; documented in docs/api.md."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Response
from fastapi import Path as PathParameter

import p2v
from p2v.guest.report import load_report, report_path
from p2v.model.document import encode
from p2v.model.errors import MigrationStateError
from p2v.model.planfile import from_json
from p2v.service import metrics, views
from p2v.service.auth import Principal
from p2v.service.context import Asker, Context, NotReadyError, Shared
from p2v.service.migrations import Migrations

router = APIRouter()

Id = Annotated[str, PathParameter(max_length=63, description="The migration's id.")]
Index = Annotated[int, PathParameter(ge=0, lt=1 << 32)]


class OctetResponse(Response):
    """Bytes as they are."""

    media_type = "application/octet-stream"


class MetricsResponse(Response):
    """Prometheus's text format."""

    media_type = metrics.CONTENT_TYPE


def _view(migrations: Migrations, id: str) -> views.MigrationView:  # noqa: A002
    return views.MigrationView.of(migrations.get(id), migrations.progress(id))


def _owner(principal: Principal) -> str:
    return "" if principal.admin else principal.name


# --- anybody


@router.get("/healthz", tags=["health"])
def healthz() -> views.Health:
    """Say that the process answers."""
    return views.Health(version=p2v.__version__)


@router.get("/readyz", tags=["health"])
def readyz(context: Shared) -> views.Health:
    """Say that migrations can be taken: the database answers, recovery has begun."""
    if not context.ready:
        raise NotReadyError(problem="it is starting or stopping")
    context.migrations.store.ping()
    return views.Health(version=p2v.__version__)


@router.post("/pair/start", tags=["pairing"])
def pair_start(body: views.PairStart, context: Shared) -> views.PairStarted:
    """Open a pairing exchange; costs one of the code's three tries."""
    return views.PairStarted(**context.desk.start(body.code, body.message))


@router.post("/pair/finish", tags=["pairing"])
def pair_finish(body: views.PairFinish, context: Shared) -> views.PairFinished:
    """Prove the knowledge of the code; answers with the token and the converter's proof."""
    return views.PairFinished(**context.desk.finish(body.session, body.proof, body.name))


# --- holders of a token


@router.get("/metrics", tags=["health"], response_class=MetricsResponse)
def figures(context: Shared, asker: Asker) -> MetricsResponse:
    """Return the figures for Prometheus."""
    return MetricsResponse(context.metrics.render())


@router.post("/migrations", tags=["migrations"], status_code=201)
def create(body: views.NewMigration, context: Shared, asker: Asker) -> views.MigrationView:
    """Start a migration: its images are made, empty and unfinished."""
    _ready(context)
    created = context.migrations.create(from_json(body.plan), asker.name, body.id)
    return _view(context.migrations, created.id)


@router.get("/migrations", tags=["migrations"])
def list_(context: Shared, asker: Asker) -> list[views.MigrationView]:
    """List the asker's migrations, newest first; all of them to the administrator."""
    migrations = context.migrations
    found = migrations.list(owner=_owner(asker))
    return [views.MigrationView.of(each, migrations.progress(each.id)) for each in found]


@router.get("/migrations/{id}", tags=["migrations"])
def show(id: Id, context: Shared, asker: Asker) -> views.MigrationView:  # noqa: A002
    """Show a migration."""
    return _view(context.migrations, id)


@router.get("/migrations/{id}/events", tags=["migrations"])
def events(id: Id, context: Shared, asker: Asker) -> list[views.EventView]:  # noqa: A002
    """List what happened to a migration, oldest first."""
    found = context.migrations.events(id)
    return [views.EventView(at=each.at, kind=each.kind, text=each.text) for each in found]


@router.post("/migrations/{id}/lease", tags=["sending"])
def lease(
    id: Id,  # noqa: A002
    body: views.TakeLease,
    context: Shared,
    asker: Asker,
) -> views.HeldLease:
    """Take the right to send; one agent has it at a time."""
    _ready(context)
    return views.HeldLease(lease=context.migrations.lease(id, body.agent))


@router.post("/migrations/{id}/heartbeat", tags=["sending"])
def heartbeat(
    id: Id,  # noqa: A002
    body: views.HeldLease,
    context: Shared,
    asker: Asker,
) -> views.MigrationView:
    """Keep a lease for 15 seconds more; answers with the migration."""
    context.migrations.heartbeat(id, body.lease)
    return _view(context.migrations, id)


@router.post("/migrations/{id}/release", tags=["sending"], status_code=204)
def release(
    id: Id,  # noqa: A002
    body: views.HeldLease,
    context: Shared,
    asker: Asker,
) -> None:
    """Give a lease back at once."""
    context.migrations.release(id, body.lease)


@router.get(
    "/migrations/{id}/disks/{disk}/digests/{group}",
    tags=["sending"],
    response_class=OctetResponse,
)
def digests(
    id: Id,  # noqa: A002
    disk: Index,
    group: Index,
    context: Shared,
    asker: Asker,
) -> OctetResponse:
    """Return a group of a disk's digest map (docs/wire.md)."""
    return OctetResponse(context.migrations.digests(id, disk, group))


@router.get("/migrations/{id}/missing", tags=["sending"])
def missing(id: Id, context: Shared, asker: Asker) -> views.Missing:  # noqa: A002
    """Count the chunks that have not arrived durably."""
    return views.Missing(missing=list(context.migrations.missing(id)))


@router.post("/migrations/{id}/complete", tags=["sending"], status_code=202)
def complete(
    id: Id,  # noqa: A002
    body: views.Complete,
    context: Shared,
    asker: Asker,
) -> views.MigrationView:
    """Say that all was sent: the images are verified and committed in the background."""
    _ready(context)
    context.migrations.complete(id, body.lease, body.report)
    return _view(context.migrations, id)


@router.get("/migrations/{id}/conversion", tags=["migrations"])
def conversion(id: Id, context: Shared, asker: Asker) -> dict[str, Any]:  # noqa: A002
    """Return the report on the guest's conversion and rehearsal (docs/guest.md)."""
    migration = context.migrations.get(id)
    path = report_path(Path(migration.images[0])) if migration.images else None
    if path is None or not path.exists():
        raise MigrationStateError(
            id=id, state=migration.state.value, problem="its guest was not converted"
        )
    return cast("dict[str, Any]", encode(load_report(path)))


@router.put("/migrations/{id}/evidence", tags=["migrations"], status_code=204)
def keep_evidence(
    id: Id,  # noqa: A002
    bundle: Annotated[bytes, Body(media_type="application/gzip")],
    context: Shared,
    asker: Asker,
) -> None:
    """Keep an agent's evidence bundle beside the images, instead of an earlier one."""
    context.migrations.keep_evidence(id, bundle)


@router.post("/migrations/{id}/cancel", tags=["migrations"])
def cancel(id: Id, context: Shared, asker: Asker) -> views.MigrationView:  # noqa: A002
    """End a migration for good and delete its unfinished images."""
    context.migrations.cancel(id)
    return _view(context.migrations, id)


def _ready(context: Context) -> None:
    if not context.ready:
        raise NotReadyError(problem="it is starting or stopping")
