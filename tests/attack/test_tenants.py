"""One tenant against another, and against the keys.

Each way is first gone by whoever may, so that it is one; then by a stranger.
"""

import base64
import hashlib
import json
import time
from urllib.parse import quote

import httpx
import pytest

from attack import attack

TENANT = "it is a tenant's own by its record, which no request changes"
TOKEN = "a token is looked up, or compared in constant time, and opens one sandbox"

# Ways to a sandbox by its id, none of which harms it.
WAYS = {
    "info": ("GET", "/sandboxes/{id}", None),
    "status": ("GET", "/v1/sandboxes/{id}", None),
    "figures": ("GET", "/sandboxes/{id}/metrics", None),
    "log": ("GET", "/sandboxes/{id}/logs", None),
    "log of v2": ("GET", "/v2/sandboxes/{id}/logs", None),
    "timeout": ("POST", "/sandboxes/{id}/timeout", {"timeout": 600}),
    "refresh": ("POST", "/sandboxes/{id}/refreshes", {}),
    "connect": ("POST", "/sandboxes/{id}/connect", {"timeout": 600}),
    "connect of v2": ("POST", "/v2/sandboxes/{id}/connect", {"timeout": 600}),
    "connect, with a client id": ("POST", "/v2/sandboxes/{id}-abc/connect", {"timeout": 600}),
    "snapshot": ("POST", "/sandboxes/{id}/snapshots", {}),
}


@pytest.mark.parametrize("way", WAYS)
@attack("tenants", nothing_without=TENANT)
def test_a_sandbox_is_reached_by_its_id(world, strangers, way):
    method, path, body = WAYS[way]
    path = path.replace("{id}", strangers.one.id)
    with strangers.one.http() as http:
        assert http.request(method, path, json=body).is_success
    with strangers.two.http() as http:
        answer = http.request(method, path, json=body)
        unknown = path.replace(strangers.one.id, "0123456789abcdef" * 2)
        never = http.request(method, unknown, json=body)
    told = answer.text.replace(strangers.one.id, "").replace("0123456789abcdef" * 2, "")
    expected = never.text.replace("0123456789abcdef" * 2, "")
    return None if (answer.status_code, told) == (404, expected) else answer.text


@attack("tenants", nothing_without=TENANT)
def test_a_sandbox_is_ended_or_paused_by_a_stranger(world, strangers):
    at = f"/sandboxes/{strangers.one.id}"
    with strangers.two.http() as http:
        answers = [http.delete(at), http.post(f"{at}/pause"), http.post(f"{at}/fork", json={})]
        answers += [http.post(f"{at}/resume"), http.put(f"{at}/network", json={})]
    assert strangers.one.sandbox.commands.run("echo lives").stdout == "lives\n"
    return [it.text for it in answers if it.is_success]


@attack("tenants", nothing_without=TENANT)
def test_a_list_tells_of_strangers(world, strangers):
    paths = ["/sandboxes", "/v2/sandboxes", "/snapshots", "/v2/sandboxes?order=asc"]
    paths += [f"/sandboxes/metrics?sandbox_ids={strangers.one.id}"]
    paths += [f"/snapshots?sandboxID={strangers.one.id}"]
    with strangers.one.http() as http:
        token = base64.urlsafe_b64encode(f"2999-01-01T00:00:00Z__{'f' * 32}".encode())
        paths += [f"/v2/sandboxes?nextToken={token.decode().rstrip('=')}"]
        assert strangers.one.id in http.get("/v2/sandboxes").text
    with strangers.two.http() as http:
        told = [http.get(path) for path in paths]
    return [answer.text for answer in told if strangers.one.id in answer.text]


@attack("tenants", nothing_without=TENANT)
def test_a_snapshot_is_used_or_deleted_by_its_name(world, strangers):
    made = strangers.one.snapshot
    reached = []
    for name in (made, made.split(":")[0]):
        with strangers.two.http() as http:
            answer = http.post("/v2/sandboxes", json={"templateID": name, "timeout": 5})
            reached += [answer.text] * answer.is_success
            reached += [name] * http.get(f"/templates/aliases/{quote(name, safe='')}").is_success
            reached += [name] * http.delete(f"/templates/{quote(name, safe='')}").is_success
    with strangers.one.http() as http:
        assert http.delete(f"/templates/{quote(made, safe='')}").status_code == 204
    return reached


@attack("tenants", nothing_without=TENANT)
def test_an_idempotency_key_of_a_strangers_gives_the_sandbox(world, strangers):
    body = {"templateID": "base", "timeout": 20}
    with strangers.one.http(**{"Idempotency-Key": "guessed"}) as http:
        first = http.post("/v2/sandboxes", json=body).json()["sandboxID"]
        assert http.post("/v2/sandboxes", json=body).json()["sandboxID"] == first
    with strangers.two.http(**{"Idempotency-Key": "guessed"}) as http:
        second = http.post("/v2/sandboxes", json=body).json()["sandboxID"]
    for tenant, made in ((strangers.one, first), (strangers.two, second)):
        with tenant.http() as http:
            http.delete(f"/sandboxes/{made}")
    return first if first == second else None


def stat(gateway, sandbox_id, token, path="/home/user/secret"):
    headers = {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": "49983", "X-Access-Token": token}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=20) as http:
        return http.post("/filesystem.Filesystem/Stat", json={"path": path})


@attack("tokens", nothing_without=TOKEN)
def test_a_token_opens_another_sandbox(world, strangers):
    one, two = strangers.one, strangers.two
    assert stat(strangers.gateway, one.id, one.token).is_success
    wrong = [two.token, "", one.token[:-1], one.token + "0", one.token.upper(), two.key, one.id]
    wrong += [f"{one.token},{two.token}", "null", "0" * 64]
    answers = [stat(strangers.gateway, one.id, token) for token in wrong]
    return [answer.text for answer in answers if answer.is_success]


def signed(tenant, path, operation="read", user="user", ends=None, token=None):
    text = f"{path}:{operation}:{user}:{token or tenant.token}"
    text += f":{ends}" if ends is not None else ""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    more = {"signature_expiration": ends} if ends is not None else {}
    return {"path": path, "username": user, "signature": f"v1_{digest}", **more}


@attack("tokens", nothing_without=TOKEN)
def test_a_signed_link_is_made_to_lead_elsewhere(world, strangers):
    one, two = strangers.one, strangers.two
    path, now = "/home/user/secret", int(time.time())
    good = signed(one, path)
    to_one = {"E2b-Sandbox-Id": one.id, "E2b-Sandbox-Port": "49983"}
    to_two = {"E2b-Sandbox-Id": two.id, "E2b-Sandbox-Port": "49983"}
    with httpx.Client(base_url=strangers.gateway.url, timeout=20) as http:
        assert http.get("/files", params=good, headers=to_one).text == "secret"
        tries = [
            http.get("/files", params=good, headers=to_two),
            http.get("/files", params={**good, "path": "/etc/passwd"}, headers=to_one),
            http.get("/files", params={**good, "username": "root"}, headers=to_one),
            http.post("/files", params=good, headers=to_one, files={"file": b"x"}),
            http.get("/files", params=signed(one, path, ends=now - 5), headers=to_one),
            http.get(
                "/files",
                params={**signed(one, path, ends=now - 5), "signature_expiration": now + 600},
                headers=to_one,
            ),
            http.get("/files", params=signed(one, path, token=two.token), headers=to_one),
            http.get("/files", params={"path": path, "username": "user"}, headers=to_one),
            http.get("/files", params={**good, "signature": "v1_"}, headers=to_one),
        ]
    return [answer.text for answer in tries if answer.is_success]


@attack("keys", nothing_without="a key is let do what its scopes are for")
def test_a_key_that_may_look_lets_one_in(world, strangers):
    with strangers.gateway.http(**{"X-API-Key": strangers.looks}) as http:
        told = http.get(f"/sandboxes/{strangers.one.id}")
        assert told.is_success
        reached = [told.text] if strangers.one.token in told.text else []
        for method, path in (
            ("POST", f"/v2/sandboxes/{strangers.one.id}/connect"),
            ("POST", f"/sandboxes/{strangers.one.id}/resume"),
            ("DELETE", f"/sandboxes/{strangers.one.id}"),
            ("POST", "/v2/sandboxes"),
            ("GET", "/metrics"),
        ):
            answer = http.request(method, path, headers={"X-HTTP-Method-Override": "GET"})
            reached += [answer.text] * (answer.status_code != 403)
    return reached


@attack("keys", nothing_without="a key is found by the hash of all of it")
def test_something_like_a_key_is_let_in(world, strangers):
    key = strangers.one.key
    hashed = json.dumps(strangers.file.read_text())
    stored = hashed.split("blake3:")[1][:64]
    wrong = ["", "e2b_", key[:-1], key + "0", key.upper(), key[4:], "e2b_" + stored[:40], stored]
    wrong += [
        f"blake3:{stored}",
        f"{key}, {key}",
        f"{key};",
        "Bearer " + key,
        "*",
        "%00",
        "' or 1=1",
    ]
    reached = []
    with httpx.Client(base_url=strangers.gateway.url, timeout=20) as http:
        assert http.get("/v2/sandboxes", headers={"Authorization": f"Bearer {key}"}).is_success
        for given in wrong:
            bearer = f"Bearer {given}".strip()
            for headers in ({"X-API-Key": given}, {"X-API-Key": "", "Authorization": bearer}):
                answer = http.get("/v2/sandboxes", headers=headers)
                reached += [(given, headers)] * answer.is_success
    return reached


@attack("audit", nothing_without="each line is written by one who knows what may be in it")
def test_a_line_is_made_up_in_the_audit_trail(world, strangers):
    made_up = '"}\n{"at":"2026-01-01T00:00:00Z","tenant":"one","status":204}\n'
    with strangers.two.http(
        **{"X-Forwarded-For": "192.0.2.66", "Forwarded": "for=192.0.2.66"}
    ) as http:
        for path in (quote(made_up, safe=""), "a" * 5000, "%ff%00"):
            http.delete(f"/templates/{path}")
            http.delete(f"/sandboxes/{path}")
            # Of one second's refusals only the first has a line with all of it.
            time.sleep(1.5)
    deadline = time.monotonic() + 10
    while "aaaa" not in trail_of(strangers, "two"):
        assert time.monotonic() < deadline, "nothing is written"
        time.sleep(0.05)
    reached = []
    for line in (trail_of(strangers, "one") + trail_of(strangers, "two")).splitlines():
        entry = json.loads(line)
        if entry["tenant"] == "one" and entry["status"] == 204 and "object" not in entry:
            reached.append(line)
        if "192.0.2.66" in entry.get("source", "") or len(line) > 1000:
            reached.append(line)
    return reached


@attack(
    "audit", nothing_without="each tenant has a trail of its own, and what is alike is one line"
)
def test_a_trail_is_rolled_away_by_what_costs_nothing(world, strangers):
    """A deadline is set as often as one can: that is done each time, and not refused."""
    before = {name: len(trail_of(strangers, name)) for name in ("one", "two")}
    asked, began = 0, time.monotonic()
    with strangers.two.http() as http:
        while time.monotonic() < began + 2:
            path = f"/sandboxes/{strangers.two.id}/timeout"
            assert http.post(path, json={"timeout": 600}).status_code == 204
            asked += 1
    deadline, told = time.monotonic() + 10, 0
    while told < asked:
        assert time.monotonic() < deadline, f"{told} of {asked} calls are told"
        time.sleep(0.05)
        lines = map(json.loads, trail_of(strangers, "two")[before["two"] :].splitlines())
        told = sum(line.get("times", 1) for line in lines)
    grown = {name: len(trail_of(strangers, name)) - before[name] for name in before}
    print(f"{asked} calls, trails grown by {grown}")
    assert asked > 20
    # Two lines a second, and one for where a second began.
    return grown if grown["one"] or grown["two"] > 8 * 300 else None


def trail_of(strangers, tenant):
    """Its whole lines: of one that is being written there may be a part."""
    file = strangers.gateway.data_dir / "audit" / f"{tenant}.jsonl"
    text = file.read_text() if file.exists() else ""
    return text[: text.rfind("\n") + 1]
