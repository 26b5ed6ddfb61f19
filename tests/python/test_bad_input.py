"""What clients must not send: the right status, a JSON error, and nothing created."""

import contextlib
import json
import socket
import threading
import uuid

import pytest

from gateway import KEY

CREATE = ["/sandboxes", "/v2/sandboxes"]
both = pytest.mark.parametrize("path", CREATE)


@pytest.fixture(autouse=True)
def nothing_is_created(gateway):
    before = gateway.ids()
    yield
    assert gateway.ids() == before


def error(answer, status, *words):
    """Checks a JSON error that names `words`, and gives its message."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["code"] == status
    for word in words:
        assert word in body["message"]
    return body["message"]


@both
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"base"',
        b'{"templateID":',
        b'{"templateID":"base",}',
        b'{"templateID":"\xff"}',
        b"{}",
        b"[" * 100_000,
    ],
)
def test_what_is_not_a_request_is_refused(http, path, body):
    error(http.post(path, content=body, headers={"Content-Type": "application/json"}), 400)


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("templateID", 5),
        ("templateID", None),
        ("timeout", "60"),
        ("timeout", 1.5),
        ("timeout", []),
        ("metadata", "x"),
        ("metadata", {"a": 1}),
        ("envVars", {"A": None}),
        ("envVars", {"A": {"B": "C"}}),
        ("envVars", ["A=1"]),
        ("autoPause", "no"),
        ("autoResume", True),
        ("allow_internet_access", "yes"),
    ],
)
def test_wrong_types_are_refused(http, path, field, value):
    error(http.post(path, json={"templateID": "base", field: value}), 400)


@both
@pytest.mark.parametrize("name", ["A=B", "", "NUL\0"])
def test_an_environment_no_process_can_have_is_refused(http, path, name):
    error(http.post(path, json={"templateID": "base", "envVars": {name: "x"}}), 400)


@both
@pytest.mark.parametrize("timeout", [0, -1, -(2**40), 2**31, 2**63, 10**30])
def test_timeouts_outside_reason_are_refused(http, path, timeout):
    error(http.post(path, json={"templateID": "base", "timeout": timeout}), 400)


def answer_to(gateway, head, *body):
    """What comes back while a request too big for the server is still being sent."""
    with socket.create_connection(gateway.address, timeout=20) as connection:

        def send():
            with contextlib.suppress(OSError):
                for part in ["\r\n".join([*head, "", ""]).encode(), *body]:
                    connection.sendall(part)

        sender = threading.Thread(target=send)
        sender.start()
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while b"\r\n\r\n" not in answer and (received := connection.recv(65536)):
                answer += received
        # The server may have done so first.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        sender.join()
    return answer.decode().partition("\r\n")[0]


@pytest.mark.plain("a socket that is written and read by hand at once")
@both
@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies_are_refused(gateway, path, chunked):
    body = json.dumps({"templateID": "base", "metadata": {"a": "x" * (20 << 20)}}).encode()
    head = [f"POST {path} HTTP/1.1", f"Host: {gateway.listen}", f"X-API-Key: {KEY}"]
    if chunked:
        head.append("Transfer-Encoding: chunked")
        parts = [b"%x\r\n" % len(body), body, b"\r\n0\r\n\r\n"]
    else:
        head.append(f"Content-Length: {len(body)}")
        parts = [body]
    assert answer_to(gateway, head, *parts).startswith("HTTP/1.1 413")


@pytest.mark.plain("a socket that is written and read by hand at once")
def test_oversized_headers_are_refused(gateway, http):
    head = ["GET /v2/sandboxes HTTP/1.1", f"Host: {gateway.listen}", "X-Long: " + "x" * (4 << 20)]
    assert answer_to(gateway, head).startswith(("HTTP/1.1 400", "HTTP/1.1 431"))
    assert http.get("/health").status_code == 200


@both
def test_an_unknown_template_is_404_with_its_name(http, path):
    error(http.post(path, json={"templateID": "no-such-template"}), 404, "no-such-template")
    error(http.post(path, json={"templateID": "base:no-such-tag"}), 404, "no-such-tag")


@both
@pytest.mark.parametrize("name", ["", "../base", "/etc", "a b", "ba\nse", "ü", "x" * 10_000])
def test_a_name_no_template_can_have_is_refused(http, path, name):
    answer = http.post(path, json={"templateID": name})
    error(answer, answer.status_code)
    assert answer.status_code in (400, 404)


@both
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", {"rules": {"a.test": [{"transform": {"headers": {"A": "1"}}}]}}),
        ("network", {"egressProxy": {"address": "192.0.2.1:1080"}}),
        ("volumeMounts", [{"name": "v", "path": "/v"}]),
        ("mcp", {"some": {}}),
        ("iam", {"tokens": {"t": {"audience": "a", "tokenType": "JWT-SVID"}}}),
    ],
)
def test_what_is_not_honoured_yet_is_refused_by_name(http, path, field, value):
    error(http.post(path, json={"templateID": "base", field: value}), 400, field)


@both
def test_empty_values_and_what_sdks_send_by_default_pass(http, path):
    body = {
        "templateID": "base",
        "timeout": 60,
        "secure": True,
        "allow_internet_access": True,
        "autoPause": False,
        "autoResume": {"enabled": False},
        "metadata": {},
        "envVars": {},
        "network": {},
        "volumeMounts": [],
        "iam": None,
        "mcp": None,
    }
    answer = http.post(path, json=body)
    assert answer.status_code == 201, answer.text
    assert http.delete(f"/sandboxes/{answer.json()['sandboxID']}").status_code == 204


def test_an_unknown_field_is_refused_by_name(http):
    answer = http.post("/v2/sandboxes", json={"templateID": "base", "somethingNew": 1})
    assert "somethingNew" in error(answer, 400)


def test_bodies_may_be_chunked(http):
    body = json.dumps({"templateID": "base"}).encode()
    answer = http.post("/v2/sandboxes", content=(part for part in [body[:9], body[9:]]))
    assert answer.status_code == 201, answer.text
    http.delete(f"/sandboxes/{answer.json()['sandboxID']}")


ON_A_SANDBOX = [
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/timeout"),
    ("POST", "/refreshes"),
    ("POST", "/connect"),
]


@pytest.mark.parametrize(("method", "path"), ON_A_SANDBOX)
@pytest.mark.parametrize("id", ["UPPER", "a.b", "a%20b", "%00", "..%2f..", "ü", "a" * 3000])
def test_a_bad_id_is_refused(http, method, path, id):
    answer = http.request(method, f"/sandboxes/{id}{path}", json={"timeout": 60, "duration": 60})
    error(answer, answer.status_code)
    assert answer.status_code in (400, 404)


@pytest.mark.parametrize(("method", "path"), ON_A_SANDBOX)
@pytest.mark.parametrize("id", [uuid.uuid4().hex, "i0123456789abcdefghij"])
def test_an_unknown_sandbox_is_404(http, method, path, id):
    body = {"timeout": 60, "duration": 60}
    error(http.request(method, f"/sandboxes/{id}{path}", json=body), 404)
    error(http.post(f"/v2/sandboxes/{id}/connect", json={}), 404)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{}", b'{"timeout":-1}', b'{"timeout":"60"}', b'{"timeout":1000000000000}'],
)
def test_a_bad_timeout_leaves_the_deadline_alone(http, sandbox_once, body):
    path = f"/sandboxes/{sandbox_once}"
    before = http.get(path).json()["endAt"]
    json_type = {"Content-Type": "application/json"}
    error(http.post(f"{path}/timeout", content=body, headers=json_type), 400)
    error(http.post(f"{path}/connect", content=body, headers=json_type), 400)
    assert http.get(path).json()["endAt"] == before


@pytest.mark.parametrize("body", [b"{", b'{"duration":-1}', b'{"duration":3601}'])
def test_a_bad_refresh_is_refused(http, sandbox_once, body):
    error(http.post(f"/sandboxes/{sandbox_once}/refreshes", content=body), 400)


@pytest.fixture(scope="module")
def sandbox_once(gateway):
    """The id of a sandbox that is there for the whole file."""
    with gateway.http() as http:
        id = http.post("/v2/sandboxes", json={"templateID": "base"}).json()["sandboxID"]
        yield id
        http.delete(f"/sandboxes/{id}")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=-1",
        "limit=x",
        "nextToken=garbage",
        "nextToken=%ff",
        "state=sleeping",
        "order=sideways",
        "startedAfter=yesterday",
        "metadata=novalue",
        "metadata=a%3Db%3Dc",
    ],
)
def test_a_bad_listing_is_refused(http, query):
    error(http.get(f"/v2/sandboxes?{query}"), 400)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v3/templates"),
        ("GET", "/volumes"),
        ("POST", "/volumes"),
    ],
)
def test_what_comes_later_says_so(http, sandbox_once, method, path):
    error(http.request(method, path.format(id=sandbox_once), json={"name": "x"}), 501)


@pytest.mark.parametrize(
    "path", ["/nothing", "/v2", "/v9/sandboxes", "/sandboxes/x/y/z", "/%2e%2e"]
)
def test_unknown_routes_are_404(http, path):
    error(http.get(path), 404)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/sandboxes"), ("DELETE", "/v2/sandboxes"), ("POST", "/health")]
)
def test_wrong_methods_are_405(http, method, path):
    error(http.request(method, path), 405)


@pytest.mark.parametrize("key", [None, ""])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/sandboxes"),
        ("POST", "/sandboxes"),
        ("GET", "/v2/sandboxes"),
        ("GET", "/sandboxes"),
        ("GET", f"/sandboxes/{uuid.uuid4().hex}"),
        ("DELETE", f"/sandboxes/{uuid.uuid4().hex}"),
    ],
)
def test_a_missing_key_is_401(gateway, method, path, key):
    with gateway.http(**{"X-API-Key": key}) as http:
        error(http.request(method, path, json={"templateID": "base"}), 401)


def test_a_header_name_in_any_case_is_the_same_header(gateway):
    with gateway.http(**{"X-API-Key": None, "x-api-KEY": KEY}) as http:
        assert http.get("/v2/sandboxes").status_code == 200
