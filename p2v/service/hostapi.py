# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: A002 - `id` is the word of the API
"""The API of hosts: ratings, scripts, machines; documented in docs/hosts.md."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from p2v.hosts.connection import Connection
from p2v.model.document import encode
from p2v.model.errors import (
    MigrationStateError,
    UsageError,
)
from p2v.model.host import HostReserve, HypervisorKind
from p2v.model.migration import Migration, MigrationState
from p2v.model.plan import Plan
from p2v.model.planfile import from_json
from p2v.model.rating import Goal, Weights
from p2v.model.vm import VmSettings
from p2v.placement.demand import settings
from p2v.placement.rate import Policy
from p2v.script import make_script
from p2v.script.make import make_plan_script, usual_kind
from p2v.service import hostviews as views
from p2v.service.context import Asker, Context, Shared
from p2v.service.hoststore import KnownHost

router = APIRouter(tags=["hosts"])
administration = APIRouter(prefix="/admin", tags=["administration"])

Id = Annotated[str, PathParameter(max_length=63, description="The migration's id.")]


# --- hosts ---------------------------------------------------------------------------------------


@router.get("/hosts")
def hosts(context: Shared, asker: Asker) -> views.HostsView:
    """Show all connections and hosts, as they were last seen."""
    registry = context.deployer.hosts
    problems = registry.problems()
    return views.HostsView(
        connections=[
            _connection(each, problems.get(each.name, "")) for each in registry.connections()
        ],
        hosts=[_host(each) for each in registry.known()],
    )


@administration.post("/hosts", status_code=201)
def add_host(body: views.NewHost, context: Shared) -> list[views.HostView]:
    """Add or replace a connection, if it answers; answers with its hosts."""
    fields = body.model_dump() | {
        "group": tuple(body.group),
        "reserve": HostReserve(**body.reserve.model_dump()),
    }
    return [_host(each) for each in context.deployer.hosts.add(Connection(**fields))]


@administration.post("/hosts/refresh")
def refresh_hosts(context: Shared) -> views.HostsView:
    """Measure all hosts now; the request takes as long as the slowest."""
    context.deployer.hosts.sample()
    return hosts(context, cast(Any, None))


@administration.delete("/hosts/{name}", status_code=204)
def remove_host(name: Annotated[str, PathParameter(max_length=64)], context: Shared) -> None:
    """Forget a connection and its hosts; machines on them stay."""
    context.deployer.hosts.remove(name)


# --- placement -----------------------------------------------------------------------------------


@router.get("/placement")
def placement(
    context: Shared,
    asker: Asker,
    migration: Annotated[str, Query(max_length=63)],
    goal: Goal = Goal.BALANCE,
    weights: Annotated[str, Query(max_length=128, description="Like `cpu=2,disk=0`.")] = "",
    growth: Annotated[float, Query(ge=0, le=1)] = 0.2,
    group: Annotated[str, Query(max_length=1024, description="Of hosts: `A/B`.")] = "",
) -> views.PlacementView:
    """Rate the hosts of a group, or all, for a migration's virtual machine."""
    plan = context.migrations.get(migration).plan
    return _placement(context, plan, Policy(goal, Weights.parse(weights), growth), _parts(group))


@router.post("/placement")
def placement_of_plan(
    body: views.WantedPlacement, context: Shared, asker: Asker
) -> views.PlacementView:
    """Rate all hosts for a plan; nothing is kept of it."""
    weights = Weights(**body.weights.model_dump())
    policy = Policy(body.goal, weights, body.growth)
    return _placement(context, from_json(body.plan), policy, body.group)


def _placement(
    context: Context, plan: Plan, policy: Policy, group: Sequence[str]
) -> views.PlacementView:
    found = context.deployer.hosts.rate(plan, policy, group)
    return views.PlacementView(goal=policy.goal, ratings=[each.to_json() for each in found])


@router.post("/script")
def script_of_plan(body: views.PlanToScript, context: Shared, asker: Asker) -> views.ScriptView:
    """Return the script for a plan's machine, to be read before there are images."""
    plan = from_json(body.plan)
    host = settings(plan).host
    known = next((h for h in context.deployer.hosts.known() if h.facts.name == host), None)
    kind = known.facts.hypervisor if known is not None else usual_kind(plan.format)
    rated = context.deployer.hosts.rate(plan) if known is not None else ()
    storage = next((rating.storage for rating in rated if rating.host == host), "")
    text = make_plan_script(kind, plan, settings(plan).storage or storage)
    return views.ScriptView(kind=kind, host=host, text=text, hashed=0, total=0)


def _parts(group: str) -> list[str]:
    return [part for part in group.split("/") if part]


# --- machines ------------------------------------------------------------------------------------


@router.get("/migrations/{id}/machine")
def machine(id: Id, context: Shared, asker: Asker) -> views.DeploymentView:
    """Show what became of a migration's virtual machine."""
    context.migrations.get(id)
    found = context.deployer.store.find(id)
    if found is None:
        raise MigrationStateError(
            id=id, state="without a machine", problem="its plan asks for none, nobody else did"
        )
    document = asdict(found)
    del document["vm"]
    sent, total = context.deployer.sent(id)
    return views.DeploymentView(**document, sent=sent, total=total)


@administration.post("/migrations/{id}/machine", status_code=202)
def make_machine(id: Id, body: views.WantedMachine, context: Shared) -> views.DeploymentView:
    """Make a finished migration's virtual machine, in the background."""
    migration = context.migrations.get(id)
    vm = settings(migration.plan)
    chosen = {key: value for key, value in body.model_dump().items() if value is not None}
    context.deployer.want(migration, replace(vm, create=True, **chosen))
    return machine(id, context, cast(Any, None))


@administration.delete("/migrations/{id}/machine", status_code=200)
def remove_machine(id: Id, context: Shared) -> views.DeploymentView:
    """Delete a migration's machine with its disks from its host; the images stay."""
    context.deployer.remove(context.migrations.get(id))
    return machine(id, context, cast(Any, None))


@administration.post("/migrations/{id}/script")
def script(id: Id, body: views.WantedScript, context: Shared) -> views.ScriptView:
    """Return the script that makes a finished migration's machine, with one-time links."""
    deployer = context.deployer
    migration = context.migrations.get(id)
    if migration.state is not MigrationState.FINISHED:
        raise MigrationStateError(
            id=id, state=migration.state.value, problem="its images are not finished"
        )
    kind, host, storage = _target(context, migration.plan, body)
    files = [Path(image) for image in migration.images]
    digests = [deployer.digests.ask(file) for file in files]
    text = ""
    if all(digest for digest, _ in digests):
        vm: VmSettings = replace(settings(migration.plan), host=host)
        order = deployer.order(_with(migration, vm), storage, kind)
        if migration.plan.format.value == order.disks[0].file.rpartition(".")[2]:
            order = deployer.linked(order, files)
        text = make_script(kind, order)
    return views.ScriptView(
        kind=kind,
        host=host,
        text=text,
        hashed=sum(done for _, done in digests),
        total=sum(file.stat().st_size for file in files),
    )


def _with(migration: Migration, vm: VmSettings) -> Migration:
    return replace(migration, plan=replace(migration.plan, vm=vm))


def _target(
    context: Context, plan: Plan, body: views.WantedScript
) -> tuple[HypervisorKind, str, str]:
    """Return for which hypervisor, host and storage a script is wanted."""
    if body.kind is not None:
        storage = body.storage or settings(plan).storage
        if not storage:
            raise UsageError(problem="without a known host the storage must be given")
        return body.kind, body.host, storage
    wanted = body.host or settings(plan).host
    if not wanted:
        host, rating = context.deployer.hosts.choose(plan)
        return host.facts.hypervisor, host.facts.name, body.storage or rating.storage
    known = context.deployer.hosts.named(wanted)
    called = context.deployer.hosts.name_of(known)
    rating = next(each for each in context.deployer.hosts.rate(plan) if each.host == called)
    return known.facts.hypervisor, known.facts.name, body.storage or rating.storage


# --- images --------------------------------------------------------------------------------------


class _OneTimeFile(FileResponse):
    """A file, whole or in part; its link is used up when the last byte went out."""

    chunk_size = 1 << 20

    def __init__(self, path: Path, used: Callable[[], None]) -> None:
        super().__init__(path, media_type="application/octet-stream", stat_result=path.stat())
        self._used = used
        self._size = path.stat().st_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        to_the_end = True

        async def watched(message: Message) -> None:
            nonlocal to_the_end
            if message["type"] == "http.response.start":
                found = dict(message["headers"]).get(b"content-range", b"").decode()
                to_the_end = not found or found.endswith(f"-{self._size - 1}/{self._size}")
            await send(message)
            last = message["type"] == "http.response.body" and not message.get("more_body")
            if last and to_the_end:
                self._used()

        await super().__call__(scope, receive, watched)


@router.get("/downloads/{token}", response_class=FileResponse)
def download(token: Annotated[str, PathParameter(max_length=64)], context: Shared) -> FileResponse:
    """Fetch an image by its one-time link; the link is all that is needed."""
    downloads = context.deployer.downloads
    return _OneTimeFile(downloads.find(token), lambda: downloads.used(token))


# --- views ---------------------------------------------------------------------------------------


def _host(host: KnownHost) -> views.HostView:
    return views.HostView(
        connection=host.connection,
        name=host.facts.name,
        facts=encode(host.facts),
        age_s=max(time.time() - host.at, 0.0),
        samples=host.samples,
        problem=host.problem,
    )


def _connection(connection: Connection, problem: str) -> views.ConnectionView:
    document = encode(connection)
    del document["secret"]
    return views.ConnectionView(**document, problem=problem)
