# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from p2v.model.errors import NoSuchTokenError
from p2v.model.planfile import to_json
from p2v.service.app import MAX_BODY, make_app

schemathesis.serializer.alias("application/gzip", "application/octet-stream")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
PROBLEM = "application/problem+json"


def one_disk(**changes):
    disk = {"name": "a", "path": "b", "size": 512} | changes
    return {"plan": {"version": 1, "name": "x", "disks": [disk]}}


def is_problem(answer, status, code):
    document = answer.json
    assert answer.status == status, document
    assert answer.headers["Content-Type"] == PROBLEM
    assert document["type"] == code and document["status"] == status
    assert document["title"] and document["detail"]
    assert {"hint", "fields"} <= document.keys()
    return document


def test_health_needs_no_token(running):
    stranger = running.client("")
    assert stranger.call("GET", "/healthz").json["status"] == "ok"
    assert stranger.call("GET", "/readyz").status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/migrations"),
        ("POST", "/migrations"),
        ("GET", "/migrations/x"),
        ("GET", "/migrations/x/events"),
        ("POST", "/migrations/x/lease"),
        ("POST", "/migrations/x/heartbeat"),
        ("POST", "/migrations/x/release"),
        ("POST", "/migrations/x/complete"),
        ("POST", "/migrations/x/cancel"),
        ("PUT", "/migrations/x/evidence"),
        ("GET", "/migrations/x/missing"),
        ("GET", "/migrations/x/disks/0/digests/0"),
        ("GET", "/metrics"),
        ("GET", "/hosts"),
        ("GET", "/placement?migration=x"),
        ("POST", "/placement"),
        ("GET", "/migrations/x/machine"),
        ("GET", "/migrations/x/conversion"),
        ("POST", "/script"),
    ],
)
@pytest.mark.parametrize("token", ["", "p2v_wrong"])
def test_everything_else_does(running, method, path, token):
    answer = running.client(token).call(method, path)
    is_problem(answer, 401, "not-authorised")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_every_route_but_pairing_health_links_and_the_agent_is_among_those(running):
    paths = running.client("").call("GET", "/openapi.json").json["paths"]
    free = {path for path, each in paths.items() if not any("security" in m for m in each.values())}
    names = ("healthz", "readyz", "pair/start", "pair/finish", "downloads/{token}", "agent")
    assert free == {f"/api/v1/{name}" for name in names} | {"/agent"}


def test_the_administration_is_not_on_the_network(running):
    for path in ("/admin/codes", "/admin/tokens"):
        assert running.client().call("POST", path, {}).status == 404
    assert running.admin.call("GET", "/admin/tokens")


def test_a_migration_is_made_shown_listed_and_cancelled(running, make_plan):
    client = running.client()
    plan = to_json(make_plan(name="db01"))
    made = client.call("POST", "/migrations", {"plan": plan})
    assert made.status == 201
    name = made.json["id"]
    assert name.startswith("db01-") and made.json["plan"] == plan
    assert client.call("GET", f"/migrations/{name}").json == made.json
    assert name in [each["id"] for each in client.call("GET", "/migrations").json]
    assert client.call("GET", f"/migrations/{name}/events").json[0]["kind"] == "receiving"
    assert client.call("POST", f"/migrations/{name}/cancel").json["state"] == "cancelled"
    answer = client.call("POST", f"/migrations/{name}/lease", {"agent": "a"})
    is_problem(answer, 409, "wrong-state")


def test_another_tokens_migrations_are_not_listed_but_can_be_resumed_by_id(running):
    name = running.create()
    other = running.admin.call("POST", "/admin/tokens", {"name": "other"})["token"]
    client = running.client(other)
    assert name not in [each["id"] for each in client.call("GET", "/migrations").json]
    assert client.call("GET", f"/migrations/{name}").status == 200
    assert name in [each["id"] for each in running.admin.call("GET", "/migrations")]


def test_the_lease_goes_around(running):
    client = running.client()
    name = running.create()
    held = client.call("POST", f"/migrations/{name}/lease", {"agent": "web01:1"})
    assert held.status == 200
    busy = client.call("POST", f"/migrations/{name}/lease", {"agent": "web01:2"})
    fields = is_problem(busy, 409, "migration-busy")["fields"]
    assert fields["agent"] == "web01:1" and 0 < fields["seconds"] <= 15
    beat = client.call("POST", f"/migrations/{name}/heartbeat", held.json)
    assert beat.json["state"] == "receiving"
    assert client.call("POST", f"/migrations/{name}/release", held.json).status == 204
    assert client.call("POST", f"/migrations/{name}/lease", {"agent": "web01:2"}).status == 200


def test_digests_and_missing_chunks_are_told(running):
    name = running.create()
    client = running.client()
    digests = client.call("GET", f"/migrations/{name}/disks/0/digests/0")
    assert digests.headers["Content-Type"] == "application/octet-stream"
    assert digests.body == b"\0"
    assert client.call("GET", f"/migrations/{name}/missing").json == {"missing": [3]}
    answer = client.call("GET", f"/migrations/{name}/disks/9/digests/0")
    is_problem(answer, 404, "no-such-disk")


def test_completing_early_says_what_is_missing(running):
    name = running.create()
    client = running.client()
    lease = client.call("POST", f"/migrations/{name}/lease", {"agent": "a"}).json["lease"]
    answer = client.call("POST", f"/migrations/{name}/complete", {"lease": lease})
    assert "3 chunks" in is_problem(answer, 409, "wrong-state")["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"plan": []},
        {"plan": {}},
        {"plan": {"version": 1, "name": "x", "disks": []}},
        {"plan": {"version": 2}},
        {"plan": {"version": 1, "name": "x", "disks": [{"name": "a", "path": "b", "size": -1}]}},
        {
            "plan": {
                "version": 1,
                "name": "x",
                "disks": [{"name": "a", "path": "b", "size": 1 << 70}],
            }
        },
        {"plan": {"version": 1}, "surprise": 1},
    ],
)
def test_a_plan_that_makes_no_sense_is_a_usage_problem(running, body):
    is_problem(running.client().call("POST", "/migrations", body), 422, "usage")


def test_a_report_that_is_no_json_elsewhere_is_refused(running):
    name = running.create()
    client = running.client()
    lease = client.call("POST", f"/migrations/{name}/lease", {"agent": "a"}).json["lease"]
    body = {"lease": lease, "report": {"rate": float("nan")}}
    is_problem(client.call("POST", f"/migrations/{name}/complete", body), 422, "usage")


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'"x"'])
def test_a_body_that_is_no_object_is_a_usage_problem(running, raw):
    answer = running.client().call(
        "POST", "/migrations", raw=raw, headers={"Content-Type": "application/json"}
    )
    is_problem(answer, 422, "usage")


def test_a_body_that_is_too_large_is_refused_by_its_header(running):
    headers = {"Content-Length": str(MAX_BODY + 1)}
    answer = running.client().call("POST", "/pair/start", raw=b"", headers=headers)
    is_problem(answer, 413, "too-large")


def test_a_body_that_grows_too_large_is_refused(running):
    chunks = (b"x" * (1 << 20) for _ in range(MAX_BODY // (1 << 20) + 1))
    answer = running.client().call(
        "POST", "/pair/start", raw=chunks, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 413 and answer.headers["Content-Type"] == PROBLEM


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("DELETE", "/healthz")])
def test_what_is_not_there_is_a_problem_document_too(running, method, path):
    answer = running.client().call(method, path)
    assert answer.status in (404, 405) and answer.headers["Content-Type"] == PROBLEM


def test_figures_are_read_by_prometheus(running):
    running.create()
    text = running.client().call("GET", "/metrics").body.decode()
    found = {s.name: s for f in text_string_to_metric_families(text) for s in f.samples}
    assert {"p2v_wire_bytes_total", "p2v_frames_total", "p2v_sessions"} <= found.keys()
    assert 'p2v_migrations{state="receiving"}' in text
    assert found["p2v_uptime_seconds"].value > 0


def test_a_revoked_token_opens_nothing(running):
    made = running.admin.call("POST", "/admin/tokens", {"name": "short-lived"})
    client = running.client(made["token"])
    assert client.call("GET", "/migrations").status == 200
    running.admin.call("DELETE", f"/admin/tokens/{made['id']}")
    is_problem(client.call("GET", "/migrations"), 401, "not-authorised")
    with pytest.raises(NoSuchTokenError):
        running.admin.call("DELETE", f"/admin/tokens/{made['id']}")


def test_a_converter_that_is_stopping_takes_no_work(running, make_plan):
    running.converter._context.ready = False
    try:
        answer = running.client().call("POST", "/migrations", {"plan": to_json(make_plan())})
        is_problem(answer, 503, "not-ready")
        assert running.client("").call("GET", "/readyz").status == 503
        assert running.client("").call("GET", "/healthz").status == 200
    finally:
        running.converter._context.ready = True


def test_requests_of_any_shape_get_the_documented_answers(running):
    app = make_app(running.converter._context, administrator=True)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", app)
    names = st.sampled_from([running.create(), "x", "../x"])
    seen = set()
    for operation in schema.get_all_operations():
        _explore(operation.ok(), names, seen)
    assert {200, 404, 422} <= seen


def _explore(operation, names, seen):
    @settings(
        max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(), name=names)
    def explore(case, name):
        if "id" in (case.path_parameters or {}):
            case.path_parameters["id"] = name
        answer = case.call()
        # 502 says that a hypervisor does not answer, and is no failure of this server.
        spared = {not_a_server_error} if answer.status_code == 502 else set()
        case.validate_response(answer, checks=[each for each in CHECKS if each not in spared])
        seen.add(answer.status_code)

    explore()
