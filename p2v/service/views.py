# SPDX-License-Identifier: GPL-3.0-or-later
"""The documents of the API, as requests bring them and answers show them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from p2v.model.migration import Migration, MigrationState
from p2v.model.planfile import to_json

Name = Annotated[str, Field(min_length=1, max_length=256)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]+$", max_length=256)]
Secret = Annotated[str, Field(min_length=1, max_length=256)]


class _Request(BaseModel):
    """A request: unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """A problem document (RFC 9457); `type` is the error's code, a relative reference."""

    type: str
    title: str
    status: int
    detail: str
    hint: str = ""
    fields: dict[str, Any] = {}


class PairStart(_Request):
    """The agent's opening: the code's first three characters, and its SPAKE2 message."""

    code: Name
    message: Hex


class PairStarted(BaseModel):
    """The converter's SPAKE2 message, and what names the exchange."""

    session: str
    message: str


class PairFinish(_Request):
    """The agent's proof, and the name under which its token is listed."""

    session: Secret
    proof: Hex
    name: Annotated[str, Field(max_length=256)] = ""


class PairFinished(BaseModel):
    """The token, and the converter's proof."""

    token: str
    proof: str


class NewMigration(_Request):
    """A plan as `p2v-agent plan --json` prints it; with an `id` the request can be repeated."""

    plan: dict[str, Any]
    id: str | None = None


class TakeLease(_Request):
    """The name that an agent gives itself."""

    agent: Name


class HeldLease(BaseModel):
    """A lease: to be shown with each data connection."""

    lease: Secret


class Complete(_Request):
    """The agent's word that all was sent, and its report."""

    lease: Secret
    report: dict[str, Any] = {}


class EventView(BaseModel):
    """Something that happened to a migration; `at` is seconds since the epoch."""

    at: float
    kind: str
    text: str


class MigrationView(BaseModel):
    """A migration; times are seconds since the epoch."""

    id: str
    plan: dict[str, Any]
    state: MigrationState
    created: float
    updated: float
    owner: str
    problem: str
    problem_code: str
    images: list[str]
    report: dict[str, Any]
    progress: dict[str, int] = {}
    """Counters of the running converter: bytes received, connections, bytes verified."""

    @classmethod
    def of(cls, migration: Migration, progress: dict[str, int]) -> MigrationView:
        """Show `migration`."""
        return cls(
            id=migration.id,
            plan=to_json(migration.plan),
            state=migration.state,
            created=migration.created,
            updated=migration.updated,
            owner=migration.owner,
            problem=migration.problem,
            problem_code=migration.problem_code,
            images=list(migration.images),
            report=migration.report,
            progress=progress,
        )


class Missing(BaseModel):
    """For each disk, how many chunks have not arrived durably."""

    missing: list[int]


class Health(BaseModel):
    """The converter answers."""

    status: str = "ok"
    version: str


class AgentFile(BaseModel):
    """The agent as one file; `command` fetches it, sure of the converter and of the file."""

    sha256: str
    size: int
    command: str


class NewCode(BaseModel):
    """A fresh pairing code and all that an agent needs with it."""

    code: str
    expires: float
    address: str
    fingerprint: str


class NewImport(_Request):
    """A stream's folder on the converter's machine."""

    folder: Annotated[str, Field(min_length=1, max_length=4096)]


class NewToken(_Request):
    """The name of a token to be made."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = "unattended"


class TokenView(BaseModel):
    """A token as it is listed."""

    id: str
    name: str
    created: float


class IssuedToken(TokenView):
    """A token that was just made: `token` is shown this once."""

    token: str
    address: str
    fingerprint: str
