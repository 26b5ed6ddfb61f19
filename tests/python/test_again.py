"""What a client may send again: when it is told to, when it is told not to, and creates that came
before. All of it as it stands on the wire, since SDKs act on it unseen."""

import concurrent.futures
import uuid

import httpx
import pytest
from e2b import Sandbox

ENVD = 49983
BASE = {"templateID": "base", "timeout": 60}
CREATES = ["/sandboxes", "/v2/sandboxes"]
# Answers anything with what is no HTTP.
NONSENSE = """
import socket
with socket.create_server(("127.0.0.1", 8080)) as server:
    while True:
        client, _ = server.accept()
        client.recv(65536)
        client.sendall(b"what?\\r\\n\\r\\n")
        client.close()
"""
LISTENS = "until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; do sleep 0.05; done"


def told(answer, status, after=None, again=None):
    """`Retry-After` is that many seconds, and `Should-Retry` that; those not given are absent."""
    assert answer.status_code == status, answer.text
    seconds = answer.headers.get("Retry-After")
    assert (seconds and int(seconds)) == after
    assert answer.headers.get("Should-Retry") == again
    return answer.json()


def routed(gateway, sandbox, port=ENVD):
    return gateway.http(
        **{
            "E2b-Sandbox-Id": sandbox.sandbox_id,
            "E2b-Sandbox-Port": str(port),
            "X-Access-Token": sandbox._envd_access_token,
        }
    )


def test_a_full_gateway_says_when_there_may_be_room(new_gateway):
    gateway = new_gateway("--max-sandboxes", "1").start()
    with gateway.http() as http:
        assert http.post("/v2/sandboxes", json=BASE).status_code == 201
        for path in CREATES:
            said = told(http.post(path, json=BASE), 503, after=1)
            assert said["error_code"] == "sandbox_capacity_unavailable"


def test_a_host_without_memory_to_spare_says_when_there_may_be_some(new_gateway):
    gateway = new_gateway("--memory-headroom", str(10**7)).start()
    with gateway.http() as http:
        for path in CREATES:
            told(http.post(path, json=BASE), 503, after=1)


def test_a_gateway_without_its_template_says_when_to_look_again(building, eventually):
    gateway, _ = building

    def health():
        try:
            return http.get("/health")
        except httpx.ConnectError:
            return None

    with gateway.http() as http:
        told(eventually(health, timeout=20), 503, after=5)
        told(http.get("/templates/aliases/base"), 503, after=5)
        for path in CREATES:
            told(http.post(path, json=BASE), 503, after=5)


def test_a_bound_inside_a_sandbox_says_when_there_may_be_room(gateway, sandbox):
    with routed(gateway, sandbox) as envd:

        def watch():
            return envd.post("/filesystem.Filesystem/CreateWatcher", json={"path": "/tmp"})

        made = []
        while (answer := watch()).status_code == 200:
            made.append(answer.json()["watcherId"])
            assert len(made) < 1000
        assert told(answer, 429, after=1)["code"] == "resource_exhausted"
        assert made


def test_only_what_may_have_had_its_effect_is_not_to_be_sent_again(gateway, sandbox):
    with routed(gateway, sandbox, 8080) as port:
        assert told(port.post("/"), 502)["message"].endswith("port is not open")
        sandbox.files.write("/tmp/nonsense.py", NONSENSE)
        sandbox.commands.run("python3 /tmp/nonsense.py", background=True, timeout=0)
        sandbox.commands.run(LISTENS, timeout=10)
        for method in ("GET", "POST"):
            said = told(port.request(method, "/"), 502, again="false")
            assert said["port"] == 8080 and said["sandboxId"] == sandbox.sandbox_id
        sandbox.kill()
        assert told(port.post("/"), 502)["message"].endswith("was not found")


@pytest.mark.parametrize("path", CREATES)
def test_a_create_that_comes_again_under_its_key_makes_no_other_sandbox(gateway, http, path):
    key = {"Idempotency-Key": uuid.uuid4().hex}
    before = gateway.ids()
    with concurrent.futures.ThreadPoolExecutor() as at_once:
        asked = [at_once.submit(http.post, path, json=BASE, headers=key) for _ in range(8)]
        answers = [one.result() for one in asked]
    answers.append(http.post(path, json=BASE, headers=key))
    made = answers[0].json()["sandboxID"]
    try:
        assert {(one.status_code, one.json()["sandboxID"]) for one in answers} == {(201, made)}
        assert gateway.ids() - before == {made}
        other = http.post(path, json={**BASE, "timeout": 61}, headers=key)
        assert told(other, 422)["error_code"] == "idempotency_request_mismatch"
    finally:
        http.delete(f"/sandboxes/{made}")
    # It stands for a sandbox, and there is none any more.
    again = http.post(path, json=BASE, headers=key).json()["sandboxID"]
    http.delete(f"/sandboxes/{again}")
    assert again != made


@pytest.mark.parametrize("path", CREATES)
@pytest.mark.parametrize("key", ["", "k" * 256, "\u00e9".encode()])
def test_a_key_that_is_none_makes_nothing(gateway, http, path, key):
    before = gateway.ids()
    told(http.post(path, json=BASE, headers={"Idempotency-Key": key}), 400)
    assert gateway.ids() == before


def test_a_key_is_known_for_as_long_as_the_gateway_runs(new_gateway):
    gateway = new_gateway().start()
    key = {"Idempotency-Key": uuid.uuid4().hex}
    made = []
    for _ in range(2):
        with gateway.http() as http:
            made += [http.post(path, json=BASE, headers=key) for path in CREATES[1:] * 2]
        gateway.end()
        gateway.start()
    first, second = made[:2], made[2:]
    for pair in (first, second):
        assert pair[0].json()["sandboxID"] == pair[1].json()["sandboxID"]
    assert first[0].json()["sandboxID"] != second[0].json()["sandboxID"]
    for sandbox in Sandbox.list(**gateway.opts).next_items():
        Sandbox.kill(sandbox.sandbox_id, **gateway.opts)
