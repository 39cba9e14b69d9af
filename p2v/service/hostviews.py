# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents of the API that are about hosts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from p2v.hosts.connection import ConnectionKind
from p2v.model.host import HypervisorKind
from p2v.model.rating import Goal

Text = Annotated[str, Field(max_length=1024)]
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewReserve(_Request):
    """What a host keeps for itself."""

    cpu_percent: Annotated[float, Field(ge=0, le=100)] = 10.0
    memory: Annotated[int, Field(ge=0)] = 1 << 30
    disk: Annotated[int, Field(ge=0)] = 10 << 30
    iops: Positive = 0.0
    network_percent: Annotated[float, Field(ge=0, le=100)] = 0.0


class NewHost(_Request):
    """A connection to hosts (docs/hosts.md)."""

    name: Text
    kind: ConnectionKind
    address: Text
    user: Text = ""
    secret: Annotated[str, Field(max_length=4096, repr=False)] = ""
    fingerprint: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    options: dict[str, str] = {}
    group: list[Text] = []
    max_iops: Positive = 0.0
    network_rate: Positive = 0.0
    reserve: NewReserve = NewReserve()


class HostView(BaseModel):
    """A host as it was last seen; `facts` are those of docs/hosts.md."""

    connection: str
    name: str
    facts: dict[str, Any]
    age_s: float
    samples: int
    problem: str


class ConnectionView(BaseModel):
    """A connection; its secret is never shown."""

    name: str
    kind: ConnectionKind
    address: str
    user: str
    fingerprint: str
    options: dict[str, str]
    group: list[str]
    max_iops: float
    network_rate: float
    reserve: dict[str, Any]
    problem: str


class HostsView(BaseModel):
    """All connections and all hosts."""

    connections: list[ConnectionView]
    hosts: list[HostView]


class WantedWeights(_Request):
    """How much each term counts."""

    cpu: Positive = 1.0
    memory: Positive = 1.0
    disk: Positive = 1.0
    network: Positive = 1.0


class WantedPlacement(_Request):
    """A plan to be placed; nothing is done with it."""

    plan: dict[str, Any]
    goal: Goal = Goal.BALANCE
    weights: WantedWeights = WantedWeights()
    growth: Annotated[float, Field(ge=0, le=1)] = 0.2
    group: list[Text] = []


class PlacementView(BaseModel):
    """The ratings, the best first (docs/placement.md)."""

    goal: Goal
    ratings: list[dict[str, Any]]


class WantedMachine(_Request):
    """Where a migration's virtual machine is to be made; what is left out is as the plan has it."""

    host: Text | None = None
    storage: Text | None = None
    power_on: bool | None = None
    isolated: bool | None = None


class DeploymentView(BaseModel):
    """A virtual machine that is, was or could not be made."""

    migration: str
    state: str
    host: str
    machine: str
    problem: str
    undone: list[str]
    updated: float
    sent: int = 0
    """Bytes of the images that the host took so far, while it is being made."""
    total: int = 0


class WantedScript(_Request):
    """For which hypervisor and into which storage; a known host says both."""

    host: Text = ""
    kind: HypervisorKind | None = None
    storage: Text = ""


class PlanToScript(_Request):
    """A plan of which the script is to be read; nothing is done with it."""

    plan: dict[str, Any]


class ScriptView(BaseModel):
    """A script; while `text` is empty its images are read for their digests: ask again."""

    kind: HypervisorKind
    host: str
    text: str
    hashed: int
    total: int
