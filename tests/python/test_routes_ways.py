"""The ways to the API and into sandboxes, and what answers carry, each by a small real request."""

import ssl

import httpx
from e2b import Sandbox
from websockets.sync.client import connect

from domain import NAME, Domain
from gateway import KEY
from inside import serve
from probes import BASE, NotYet, Probes, expect

PORT = 8080

probes = Probes()
row, simple = probes.row, probes.simple

simple("The gateway itself", "GET", "/health", 200)
simple("The gateway itself", "GET", "/openapi.json", 200)


@row("The gateway itself", "keys: `X-API-Key`")
def keyed(at):
    guarded = at.new_gateway(env={"COPPICE_API_KEYS": KEY}).start()
    with guarded.http() as known, guarded.http(**{"X-API-Key": None}) as unknown:
        assert known.get("/v2/sandboxes").status_code == 200
        assert unknown.get("/v2/sandboxes").json()["code"] == 401


@row("The gateway itself", "`X-Next-Token`")
def paged(at):
    with Sandbox.create():
        first = expect(at.api.get("/v2/sandboxes", params={"limit": 1}), 200)
        token = {"limit": 1, "nextToken": first.headers["X-Next-Token"]}
        assert at.api.get("/v2/sandboxes", params=token).json() != first.json()


@row("The gateway itself", "`Retry-After` when it is full")
def full(at):
    small = at.new_gateway("--max-sandboxes", "1").start()
    with small.http() as http:
        assert http.post("/v2/sandboxes", json=BASE).status_code == 201
        refused = http.post("/v2/sandboxes", json=BASE)
        assert refused.status_code == refused.json()["code"] == 503
        if not refused.headers.get("Retry-After", "").isdecimal():
            raise NotYet


def preflight(client, path, method, origin="https://page.test"):
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    headers = "x-api-key,content-type,e2b-sandbox-id,x-access-token"
    return client.options(path, headers={**asked, "Access-Control-Request-Headers": headers})


@row(
    "The gateway itself",
    "CORS, with keys: for any page",
    "CORS, without keys: for pages of this machine",
)
def browsers(at):
    guarded = at.new_gateway(env={"COPPICE_API_KEYS": KEY}).start()
    for gateway, origin in ((guarded, "https://page.test"), (at.gateway, "http://localhost:5173")):
        with gateway.http() as http:
            answer = preflight(http, "/v2/sandboxes", "POST", origin)
            if "Access-Control-Allow-Origin" not in answer.headers:
                raise NotYet
            assert answer.status_code == 204
            assert "x-api-key" in answer.headers["Access-Control-Allow-Headers"].lower()
            listed = http.get("/v2/sandboxes", headers={"Origin": origin})
            assert listed.headers["Access-Control-Allow-Origin"] in ("*", origin)


@row("envd", "CORS")
def browsers_of_envd(at):
    url = at.sandbox.download_url("/etc/passwd")
    answer = preflight(httpx, url, "GET")
    assert answer.status_code in (200, 204) and answer.headers["Access-Control-Allow-Origin"]
    assert get(url).headers["Access-Control-Allow-Origin"]


def get(url, **options):
    return httpx.get(url, **options)


@row("Signed URLs", "download, without headers", "download, with routing headers")
def download(at):
    at.sandbox.files.write("s", "signed")
    url = at.sandbox.download_url("s")
    assert get(url).text == get(url, headers=at.routing).text == "signed"
    assert get(url.replace("path=s", "path=t")).status_code in (401, 404)


@row("Signed URLs", "upload, without headers", "upload, with routing headers")
def upload(at):
    url = at.sandbox.upload_url("up", user="user")
    for headers, text in ((None, b"one"), (at.routing, b"two")):
        form = {"file": ("up", text)}
        answer = httpx.post(url, files=form, headers=headers)
        assert answer.status_code == 200, answer.text
        assert at.sandbox.files.read("up", format="bytes") == text


@row("Signed URLs", "expiry")
def expiring(at):
    at.sandbox.files.write("s", "signed")
    late = get(at.sandbox.download_url("s", use_signature_expiration=-5))
    assert (late.status_code, late.json()["message"]) == (401, "signature is already expired")
    assert get(at.sandbox.download_url("s", use_signature_expiration=60)).text == "signed"


def in_sandbox(at):
    if "web" not in vars(at.sandbox):
        serve(at.sandbox, PORT)
        at.sandbox.web = True
    return {"E2b-Sandbox-Id": at.id, "E2b-Sandbox-Port": str(PORT)}


@row("Ports", "by `E2b-Sandbox-Id` and `E2b-Sandbox-Port`", "by host `<port>-<id>.<domain>`")
def ports(at):
    for headers in (in_sandbox(at), {"Host": at.sandbox.get_host(PORT)}):
        answer = at.anybody.get("/a?b", headers=headers)
        assert answer.json()["path"] == "/a?b"


@row("Ports", "WebSocket")
def websocket(at):
    headers = in_sandbox(at)
    with (
        at.gateway.dial() as connection,
        connect(
            f"{at.gateway.url}/ws".replace("http", "ws", 1),
            sock=connection,
            additional_headers=headers,
        ) as ws,
    ):
        ws.send("hello")
        assert ws.recv(timeout=10) == "hello"


@row("Ports", "HTTP/2 (h2c)")
def multiplexed(at):
    with httpx.Client(http1=False, http2=True) as http:
        answer = http.get(f"{at.gateway.url}/", headers=in_sandbox(at))
        assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)


@row("Ports", "502 while nothing listens")
def closed_port(at):
    headers = {"E2b-Sandbox-Id": at.id, "E2b-Sandbox-Port": "9"}
    answer = at.anybody.get("/", headers=headers)
    assert answer.status_code == 502 and "port is not open" in answer.json()["message"]


class ByName:
    """A gateway with a domain and a certificate, asked by names that no resolver knows."""

    def __init__(self, at, domain):
        at.new_gateway(domain=domain).start()
        self.port = domain.given.rpartition(":")[2]
        trust = ssl.create_default_context(cafile=domain.ca)
        self.http = httpx.Client(verify=trust, http2=True, trust_env=False)

    def ask(self, method, name, path, headers=None, **options):
        return self.http.request(
            method,
            f"https://127.0.0.1:{self.port}{path}",
            headers={"X-API-Key": KEY, **(headers or {}), "Host": f"{name}:{self.port}"},
            extensions={"sni_hostname": name},
            **options,
        )


@row(
    "By name, over TLS",
    "`api.<domain>`",
    "`sandbox.<domain>`, with routing headers",
    "`<port>-<id>.<domain>`",
    "HTTP/2",
    "a private authority (`coppice tls dev-ca`)",
    "`domain` in answers",
)
def by_name(at):
    domain = Domain()
    try:
        there = ByName(at, domain)
        made = there.ask("POST", f"api.{NAME}", "/v2/sandboxes", json=BASE)
        assert (made.http_version, made.status_code) == ("HTTP/2", 201)
        made = made.json()
        assert made["domain"] == domain.given
        token = {"X-Access-Token": made["envdAccessToken"]}
        shared = {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983", **token}
        own = f"49983-{made['sandboxID']}.{NAME}"
        for name, headers in ((f"sandbox.{NAME}", shared), (own, token)):
            answer = there.ask("GET", name, "/files?path=/etc/passwd", headers=headers)
            assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)
            assert "root:" in answer.text
    finally:
        domain.remove()


def test_it_is_there_or_said_not_to_be(attempt, probe):
    attempt(probe)
