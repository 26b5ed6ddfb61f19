"""The routes and fields of the control plane, each by a small real request."""

import time
import uuid

import pytest
from e2b import Sandbox

from probes import BASE, Probes, expect

probes = Probes()
row, simple = probes.row, probes.simple


@row("Sandboxes", "`POST /v2/sandboxes`", "`POST /sandboxes`")
def creating(at):
    for path in ("/v2/sandboxes", "/sandboxes"):
        made, described = at.created(path)
        assert made["domain"] and made["envdAccessToken"] and made["envdVersion"]
        assert described["state"] == "running"


@row("Sandboxes", "`GET /v2/sandboxes`", "`GET /sandboxes`")
def listing(at):
    page = expect(at.api.get("/v2/sandboxes", params={"limit": 100, "state": "running"}), 200)
    assert at.id in [one["sandboxID"] for one in page.json()]
    assert int(page.headers["X-Total-Running"]) >= 1
    assert at.id in [one["sandboxID"] for one in expect(at.api.get("/sandboxes"), 200).json()]


@row("Sandboxes", "`GET /sandboxes/{id}`")
def describing(at):
    described = expect(at.api.get(f"/sandboxes/{at.id}"), 200).json()
    assert (described["sandboxID"], described["alias"]) == (at.id, "base")


@row("Sandboxes", "`DELETE /sandboxes/{id}`")
def ending(at):
    made = at.api.post("/v2/sandboxes", json=BASE).json()["sandboxID"]
    expect(at.api.delete(f"/sandboxes/{made}"), 204)
    assert at.api.delete(f"/sandboxes/{made}").json()["code"] == 404


@row("Sandboxes", "`POST /sandboxes/{id}/timeout`", "`POST /sandboxes/{id}/refreshes`")
def keeping(at):
    expect(at.api.post(f"/sandboxes/{at.id}/timeout", json={"timeout": 300}), 204)
    expect(at.api.post(f"/sandboxes/{at.id}/refreshes", json={"duration": 60}), 204)


@row("Sandboxes", "`POST /v2/sandboxes/{id}/connect`", "`POST /sandboxes/{id}/connect`")
def connecting(at):
    expect(at.api.post(f"/v2/sandboxes/{at.id}/connect", json={}), 200)
    again = expect(at.api.post(f"/sandboxes/{at.id}/connect", json={"timeout": 60}), 200)
    assert again.json()["envdAccessToken"] == at.token


@row("Sandboxes", "`POST /sandboxes/{id}/pause`", "`POST /sandboxes/{id}/resume`")
def resuming(at):
    expect(at.api.post(f"/sandboxes/{at.id}/resume", json={}), 409)
    expect(at.api.post(f"/sandboxes/{at.id}/pause", json={}), 204)
    expect(at.api.post(f"/sandboxes/{at.id}/pause", json={}), 409)
    resumed = expect(at.api.post(f"/sandboxes/{at.id}/resume", json={"timeout": 120}), 201)
    assert resumed.json()["envdAccessToken"] == at.token


@row("Sandboxes", "`POST /sandboxes/{id}/fork`")
def forking(at):
    (fork,) = expect(at.api.post(f"/sandboxes/{at.id}/fork", json={}), 201).json()
    expect(at.api.delete(f"/sandboxes/{fork['sandbox']['sandboxID']}"), 204)


simple("Sandboxes", "POST", "/sandboxes/{id}/snapshots", 201, {})
simple("Sandboxes", "GET", "/snapshots", 200)
simple("Sandboxes", "PUT", "/sandboxes/{id}/network", 204, {})
simple("Sandboxes", "GET", "/sandboxes/{id}/metrics", 200)
simple("Sandboxes", "GET", "/sandboxes/metrics?sandbox_ids={id}", 200)
simple("Sandboxes", "GET", "/sandboxes/{id}/logs", 200)
simple("Sandboxes", "GET", "/v2/sandboxes/{id}/logs", 200)


@row("Creating", "`timeout`")
def for_so_long(at):
    _, described = at.created(timeout=77)
    assert described["endAt"] > described["startedAt"]


@row("Creating", "`metadata`")
def with_metadata(at):
    _, described = at.created(metadata={"a b": "ü=&"})
    assert described["metadata"] == {"a b": "ü=&"}


@row("Creating", "`envVars`")
def with_environment(at):
    with Sandbox.create(envs={"MINE": "yes"}) as sandbox:
        assert sandbox.commands.run("echo $MINE").stdout == "yes\n"


@row("Creating", "`allow_internet_access: false`")
def without_network(at):
    with Sandbox.create(allow_internet_access=False) as sandbox:
        assert sandbox.commands.run("ip route").stdout == ""


@row("Creating", "`secure: true`")
def secured(at):
    made, _ = at.created("/sandboxes", secure=True)
    assert made["envdAccessToken"]


@row("Creating", "`secure: false` (secured in any case)")
def unsecured(at):
    made, _ = at.created("/sandboxes", secure=False)
    assert made["envdAccessToken"]


@row("Creating", "`templateID` with a tag")
def tagged(at):
    _, described = at.created(templateID="base:default")
    assert described["templateID"] == "base"


@row("Creating", "`Idempotency-Key`")
def twice(at):
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = (at.api.post("/v2/sandboxes", json=BASE, headers=key) for _ in range(2))
    assert first.json()["sandboxID"] == second.json()["sandboxID"]
    assert at.api.delete(f"/sandboxes/{first.json()['sandboxID']}").status_code == 204


def field(name, shown=None, **fields):
    @row("Creating", shown or f"`{name}`")
    def probe(at):
        _, described = at.created(**fields)
        kept = described.get("network") or described.get("volumeMounts") or described["lifecycle"]
        assert kept == next(iter(fields.values()))


@row("Creating", "`autoPause`", "`autoResume`")
def lifecycle(at):
    _, described = at.created(autoPause=True, autoResume={"enabled": True})
    assert described["lifecycle"] == {"onTimeout": "pause", "autoResume": True}


@row("Creating", "`autoPauseMemory: false`")
def files_alone(at):
    fields = {**BASE, "timeout": 1, "autoPause": True, "autoPauseMemory": False}
    made = expect(at.api.post("/v2/sandboxes", json=fields), 201).json()
    path = f"/sandboxes/{made['sandboxID']}"
    described, deadline = {"state": "running"}, time.monotonic() + 30
    while described["state"] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
        described = at.api.get(path).json()
    assert described["pauseMode"] == "filesystem"
    expect(at.api.delete(path), 204)


field("network.allowOut", network={"allowOut": ["1.1.1.1/32"], "denyOut": ["0.0.0.0/0"]})
field("network.denyOut", network={"denyOut": ["10.0.0.0/8"]})
field("network", "`network.allowPublicTraffic: false`", network={"allowPublicTraffic": False})
field("network.maskRequestHost", network={"maskRequestHost": "localhost:${PORT}"})
field("network.httpsPorts", network={"httpsPorts": [8443]})
field("network.rules", network={"rules": {"a.test": [{"transform": {"headers": {"A": "1"}}}]}})
field("network.egressProxy", network={"egressProxy": {"address": "10.0.0.1:1080"}})
field("network.dnsServers", network={"dnsServers": ["9.9.9.9"]})
field("volumeMounts", volumeMounts=[{"name": "mine", "path": "/mine"}])
field("mcp", mcp={"time": {}})
field("iam", iam={"tokens": {"t": {"audience": "a", "tokenType": "JWT-SVID"}}})


simple("Templates", "GET", "/templates", 200)
simple("Templates", "GET", "/v2/templates", 200)
simple("Templates", "GET", "/templates/base", 200)
simple("Templates", "GET", "/templates/aliases/{alias}", 200)
simple("Templates", "GET", "/default-templates", 200)
simple("Templates", "POST", "/v3/templates", 202, {"name": "mine"})
simple("Templates", "POST", "/v2/templates/{id}/builds/{build}", 202, {"fromImage": "debian"})
simple("Templates", "GET", "/templates/{id}/builds/{build}/status", 200)
simple("Templates", "GET", "/templates/{id}/builds/{build}/logs", 200)
simple("Templates", "GET", "/templates/{id}/files/{hash}", 201)
simple("Templates", "PATCH", "/v2/templates/base", 200, {"public": False})
simple("Templates", "PATCH", "/templates/base", 200, {"public": False})


@row("Templates", "`DELETE /templates/{id}` of a snapshot")
def a_snapshot_deleted(at):
    made = at.api.post(f"/sandboxes/{at.id}/snapshots", json={"name": "to-be-deleted"}).json()
    assert at.api.delete(f"/templates/{made['snapshotID']}").status_code == 204


simple("Templates", "GET", "/templates/base/tags", 200)
simple("Templates", "POST", "/templates/tags", 201, {"target": "base", "tags": ["mine"]})
simple("Templates", "DELETE", "/templates/tags", 204, {"name": "base", "tags": ["mine"]})
simple("Volumes, secrets, accounts", "GET", "/volumes", 200)
simple("Volumes, secrets, accounts", "POST", "/volumes", 201, {"name": "mine"})
simple("Volumes, secrets, accounts", "GET", "/volumes/{id}", 200)
simple("Volumes, secrets, accounts", "DELETE", "/volumes/{id}", 204)
simple("Volumes, secrets, accounts", "GET", "/volumecontent/{id}/dir", 200)
simple("Volumes, secrets, accounts", "GET", "/secrets", 200)
simple("Volumes, secrets, accounts", "POST", "/secrets", 201, {"name": "mine", "value": "x"})
simple("Volumes, secrets, accounts", "GET", "/teams", 200)
simple("Volumes, secrets, accounts", "GET", "/api-keys", 200)
simple("Volumes, secrets, accounts", "POST", "/access-tokens", 201, {"name": "mine"})


def test_it_is_there_or_said_not_to_be(attempt, probe):
    attempt(probe)
