"""Servers in a sandbox, reached through `<port>-<id>` by headers and by Host."""

import hashlib
import json
import time
import uuid

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from inside import serve

pytestmark = pytest.mark.sdk

PORT = 8080


def by_headers(sandbox, port=PORT):
    return {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}


def by_host(sandbox, port=PORT):
    return {"Host": sandbox.get_host(port)}


both = pytest.mark.parametrize("route", [by_headers, by_host])


@pytest.fixture
def web(sandbox):
    serve(sandbox, PORT)
    return sandbox


def request(gateway, headers, method="GET", path="/", **options):
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        return http.request(method, path, headers=headers, **options)


@both
def test_a_server_on_the_loopback_is_reached(gateway, web, route):
    answer = request(gateway, {**route(web), "X-Mine": "kept"}, path="/a%2Fb/ü?q=1&q=%20")
    assert answer.status_code == 200
    told = answer.json()
    assert told["path"] == "/a%2Fb/%C3%BC?q=1&q=%20"
    assert told["headers"]["x-mine"] == "kept"
    assert told["headers"]["host"] == route(web).get("Host", gateway.host)
    assert request(gateway, route(web), path="/teapot").status_code == 418


@both
def test_bodies_go_through_whole(gateway, web, route):
    body = b"0123456789abcdef" * (1 << 20)
    expected = hashlib.sha256(body).hexdigest()
    assert request(gateway, route(web), "POST", content=body).text == expected
    pieces = (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    assert request(gateway, route(web), "PUT", content=pieces).text == expected


@both
def test_server_sent_events_come_one_by_one(gateway, web, route):
    seen = []
    with httpx.stream("GET", f"{gateway.url}/sse", headers=route(web)) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        for line in answer.iter_lines():
            if line:
                seen.append((line, time.monotonic()))
    assert [line for line, _ in seen] == ["data: 0", "data: 1", "data: 2"]
    assert seen[1][1] - seen[0][1] > 0.4 and seen[2][1] - seen[1][1] > 0.4


@both
def test_a_websocket_echoes(gateway, web, route):
    headers = route(web)
    # The name is only for the Host header; the connection is made here.
    host = headers.pop("Host", gateway.host)
    with connect(
        f"{gateway.url.partition(':')[0].replace('http', 'ws')}://{host}/ws",
        sock=gateway.dial(),
        additional_headers=headers,
        proxy=None,
        compression=None,
    ) as websocket:
        for message in ("hello", "grüße " * 20_000, b"\0\xff" * 500, ""):
            websocket.send(message)
            assert websocket.recv(timeout=10) == message


def test_many_requests_go_through_at_once(gateway, web):
    with httpx.Client(base_url=gateway.url, headers=by_headers(web)) as http:
        for n in range(200):
            assert http.get(f"/{n}").json()["path"] == f"/{n}"


def test_a_client_that_leaves_is_gone_for_the_server_at_once(gateway, web, eventually):
    with httpx.stream("GET", f"{gateway.url}/hold", headers=by_headers(web)) as answer:
        next(answer.iter_raw())
        assert not web.files.exists("/tmp/client-gone")
    eventually(lambda: web.files.exists("/tmp/client-gone"))


def test_a_stream_from_a_server_is_reset_when_the_sandbox_ends(gateway, web):
    with gateway.connect(timeout=5) as stream:
        routing = "".join(f"{name}: {value}\r\n" for name, value in by_headers(web).items())
        stream.sendall(f"GET /hold HTTP/1.1\r\nHost: x\r\n{routing}\r\n".encode())
        assert stream.recv(4096).startswith(b"HTTP/1.1 200")
        web.kill()
        with pytest.raises(ConnectionResetError):
            while stream.recv(4096):
                pass


def test_a_pause_resets_streams_of_a_port_and_the_port_answers_after_it(gateway, web):
    scheme = gateway.url.partition(":")[0].replace("http", "ws")
    websocket = connect(
        f"{scheme}://{gateway.host}/ws",
        sock=gateway.dial(),
        additional_headers=by_headers(web),
        proxy=None,
        compression=None,
    )
    with httpx.Client(base_url=gateway.url, headers=by_headers(web), timeout=20) as http:
        with http.stream("GET", "/hold") as held:
            pieces = held.iter_raw()
            next(pieces)
            assert web.pause() is True
            with pytest.raises(httpx.TransportError):
                list(pieces)
        with websocket, pytest.raises(ConnectionClosed):
            websocket.recv(timeout=10)
        refused = http.get("/")
        assert refused.status_code == 502 and "was not found" in refused.json()["message"]
        web.connect()
        assert http.get("/again").json()["path"] == "/again"


@both
def test_a_port_where_nothing_listens_is_502(gateway, sandbox, route):
    answer = request(gateway, route(sandbox, 9))
    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json() == {
        "sandboxId": sandbox.sandbox_id,
        "message": "The sandbox is running but port is not open",
        "port": 9,
        "code": 502,
    }


@both
def test_an_unknown_or_ended_sandbox_is_502(gateway, sandbox, route):
    headers = route(sandbox)
    unknown = uuid.uuid4().hex
    never = {name: value.replace(sandbox.sandbox_id, unknown) for name, value in headers.items()}
    sandbox.kill()
    for id, routing in ((sandbox.sandbox_id, headers), (unknown, never)):
        answer = request(gateway, routing)
        assert answer.status_code == 502
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.json() == {
            "sandboxId": id,
            "message": "The sandbox was not found",
            "code": 502,
        }


@both
@pytest.mark.parametrize(
    "path", ["/init", "/freeze", "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade"]
)
def test_what_is_internal_to_envd_is_closed_to_the_public(gateway, sandbox, route, path):
    headers = {**route(sandbox, 49983), "X-Access-Token": sandbox._envd_access_token}
    assert request(gateway, headers, "POST", path, json={}).status_code == 404
    assert sandbox.commands.run("echo unharmed").stdout == "unharmed\n"


def test_a_path_that_only_looks_internal_is_open_on_other_ports(gateway, web):
    assert request(gateway, by_headers(web), path="/init").status_code == 200


def test_ports_are_their_own_servers(gateway, web):
    serve(web, 9090)
    assert request(gateway, by_headers(web, 8080)).status_code == 200
    # The brackets keep the pattern from matching the shell that runs this.
    web.commands.run("pkill -f '[w]eb.py 8080'")
    assert request(gateway, by_headers(web, 9090)).status_code == 200
    assert request(gateway, by_headers(web, 8080)).status_code == 502


@pytest.mark.parametrize("missing", ["E2b-Sandbox-Id", "E2b-Sandbox-Port"])
def test_one_routing_header_alone_is_refused(gateway, sandbox, missing):
    headers = by_headers(sandbox)
    del headers[missing]
    refused(request(gateway, headers))


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "", "8080x"])
def test_a_bad_port_is_refused(gateway, sandbox, port):
    refused(request(gateway, {**by_headers(sandbox), "E2b-Sandbox-Port": port}))


@pytest.mark.parametrize("id", ["../x", "UPPER", "a b", "%2e", "", "x" * 5000])
def test_a_bad_id_is_refused(gateway, id):
    refused(request(gateway, {"E2b-Sandbox-Id": id, "E2b-Sandbox-Port": "8080"}))


@pytest.mark.parametrize("label", ["0-{id}", "65536-{id}", "99999999999999999999-{id}"])
def test_a_host_label_with_a_bad_port_is_refused(gateway, sandbox, label):
    host = f"{label.format(id=sandbox.sandbox_id)}.{sandbox.sandbox_domain}"
    refused(request(gateway, {"Host": host}))


@pytest.mark.parametrize("label", ["8080-", "-{id}", "x-{id}", "8080_{id}", "8080-{id}-", "{id}"])
def test_a_host_that_names_no_port_and_sandbox_reaches_neither(gateway, web, label):
    host = f"{label.format(id=web.sandbox_id)}.{web.sandbox_domain}"
    answer = request(gateway, {"Host": host}, path="/no/such/route")
    assert answer.status_code in (400, 401, 404)
    assert answer.json()["code"] == answer.status_code


def refused(answer):
    assert answer.status_code == 400
    assert answer.json()["code"] == 400 and json.loads(answer.text)["message"]
