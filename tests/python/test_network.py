"""What clients say of a sandbox's network, and how its ports are reached then."""

import json
import subprocess

import pytest
from e2b import AsyncSandbox, InvalidArgumentException, Sandbox, SandboxException

from inside import serve

pytestmark = pytest.mark.sdk
PORT = 8080
TOKEN = "e2b-traffic-access-token"


def ask(gateway, sandbox, headers=(), port=PORT, path="/"):
    routing = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(port)}
    with gateway.http(**{"X-API-Key": None}, **routing, **dict(headers)) as http:
        return http.get(path)


def create(http, **network):
    """Of a client that names what an older SDK does not know."""
    body = {"templateID": "base", "timeout": 120, "network": network}
    made = http.post("/v2/sandboxes", json=body)
    assert made.status_code == 201, made.text
    return made.json()


@pytest.fixture
def http(gateway):
    with gateway.http() as http:
        yield http


def test_a_network_is_changed_by_its_sandbox_and_by_its_id(sandbox, http):
    def network():
        return http.get(f"/sandboxes/{sandbox.sandbox_id}").json().get("network")

    assert network() is None
    sandbox.update_network({"deny_out": ["9.9.9.0/24"], "allow_out": ["9.9.9.9"]})
    assert network() == {"denyOut": ["9.9.9.0/24"], "allowOut": ["9.9.9.9"]}
    Sandbox.update_network(sandbox.sandbox_id, {"deny_out": ["1.1.1.1"]})
    assert network() == {"denyOut": ["1.1.1.1"]}
    sandbox.update_network({"allow_internet_access": False})
    assert network() is None
    assert http.get(f"/sandboxes/{sandbox.sandbox_id}").json()["allowInternetAccess"] is False


async def test_an_async_client_changes_it_too(sandbox, http):
    other = await AsyncSandbox.connect(sandbox.sandbox_id)
    await other.update_network({"deny_out": ["9.9.9.9"]})
    assert (await other.get_info()).network == {"deny_out": ["9.9.9.9"]}
    await AsyncSandbox.update_network(sandbox.sandbox_id, {})
    assert http.get(f"/sandboxes/{sandbox.sandbox_id}").json().get("network") is None


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ({"deny_out": ["example.com"]}, "invalid denied CIDR example.com"),
        ({"deny_out": ["::/0"]}, "invalid denied CIDR ::/0"),
        ({"allow_out": ["example.com"]}, "you must include 'ALL_TRAFFIC' in deny out"),
        ({"allow_out": ["8.8.8.8:53"]}, "port-specific rules are not supported for egress"),
        ({"deny_out": ["1.1.1.1"] * 1001}, "denyOut has more than 1000 entries"),
        ({"allow_out": ["a.test"], "rules": {"a.test": []}}, "network.rules is not supported yet"),
    ],
)
def test_what_cannot_be_had_is_refused_and_changes_nothing(sandbox, http, network, text):
    with pytest.raises(SandboxException, match="400") as refused:
        sandbox.update_network(network)
    assert text in str(refused.value)
    assert "network" not in http.get(f"/sandboxes/{sandbox.sandbox_id}").json()
    with pytest.raises((SandboxException, InvalidArgumentException), match="400") as refused:
        Sandbox.create(network=network)
    assert text in str(refused.value)


def test_a_port_that_is_not_public_is_reached_with_the_token_alone(gateway):
    with Sandbox.create(timeout=120, network={"allow_public_traffic": False}) as sandbox:
        token = sandbox.traffic_access_token
        serve(sandbox, PORT)
        refused = ask(gateway, sandbox)
        assert refused.status_code == 403
        assert refused.json() == {
            "sandboxId": sandbox.sandbox_id,
            "message": "Sandbox is secured with traffic access token. Token header "
            f"'{TOKEN}' is missing",
            "code": 403,
        }
        for wrong in ("x", token[:-1], f"{token}x", sandbox._envd_access_token):
            refused = ask(gateway, sandbox, {TOKEN: wrong})
            assert refused.status_code == 403
            assert refused.json()["message"].endswith(
                f"Provided token in header '{TOKEN}' is invalid"
            )
        told = ask(gateway, sandbox, {TOKEN.upper(): token})
        assert told.status_code == 200
        assert TOKEN not in told.json()["headers"], "the server inside need not know it"
        # Closed ports are nobody's business either.
        assert ask(gateway, sandbox, port=9).status_code == 403
        # Its own port asks for a token of its own, and gets it from the SDK.
        assert sandbox.commands.run("echo yes").stdout == "yes\n"
        again = Sandbox.connect(sandbox.sandbox_id)
        assert again.traffic_access_token == token


def test_one_that_is_asleep_is_not_woken_by_who_has_no_token(gateway, http):
    options = {"lifecycle": {"on_timeout": "pause", "auto_resume": True}}
    with Sandbox.create(timeout=120, network={"allow_public_traffic": False}, **options) as sandbox:
        sandbox.pause()
        assert ask(gateway, sandbox).status_code == 403
        assert http.get(f"/sandboxes/{sandbox.sandbox_id}").json()["state"] == "paused"
        answer = ask(gateway, sandbox, {TOKEN: sandbox.traffic_access_token})
        assert answer.json()["message"] == "The sandbox is running but port is not open"


def test_a_server_is_told_the_host_it_is_to_be_told(gateway):
    with Sandbox.create(timeout=120, network={"mask_request_host": "app.test:${PORT}"}) as sandbox:
        serve(sandbox, PORT)
        told = ask(gateway, sandbox).json()["headers"]
        assert told["host"] == f"app.test:{PORT}"
        assert told["x-forwarded-host"] == gateway.host


TLS_SERVER = """
import http.server, ssl
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.connection.version().encode())
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tmp/cert.pem", "/tmp/key.pem")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Nobody's, and long over."""
    key, cert = (tmp_path_factory.mktemp("tls") / name for name in ("key.pem", "cert.pem"))
    asked = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    asked += ["-nodes", "-keyout", key, "-out", cert, "-subj", "/CN=nobody", "-days", "1"]
    subprocess.run(asked, check=True, capture_output=True)
    return {"key.pem": key.read_text(), "cert.pem": cert.read_text()}


def test_a_server_that_speaks_tls_is_spoken_to_so(gateway, http, certificate):
    id = create(http, httpsPorts=[8443])["sandboxID"]
    sandbox = Sandbox.connect(id)
    try:
        for name, text in certificate.items():
            sandbox.files.write(f"/tmp/{name}", text)
        sandbox.files.write("/tmp/server.py", TLS_SERVER)
        sandbox.commands.run("python3 /tmp/server.py", background=True, timeout=0)
        listens = "until (exec 3<>/dev/tcp/127.0.0.1/8443) 2>/dev/null; do sleep 0.05; done"
        sandbox.commands.run(listens, timeout=10)
        assert ask(gateway, sandbox, port=8443).text == "TLSv1.3"
        # One that does not is none.
        serve(sandbox, PORT)
        assert ask(gateway, sandbox).status_code == 200
    finally:
        sandbox.kill()


def test_tls_is_not_spoken_to_the_sandbox_itself(http):
    for port, text in [(49983, "httpsPorts"), (0, "httpsPorts"), (65536, "httpsPorts")]:
        body = {"templateID": "base", "network": {"httpsPorts": [port]}}
        refused = http.post("/v2/sandboxes", json=body)
        assert refused.status_code == 400 and text in refused.json()["message"]


def test_a_change_of_one_that_is_not_there_is_404(http):
    refused = http.put(f"/sandboxes/{'0' * 32}/network", json={})
    assert refused.status_code == 404 and json.loads(refused.text)["code"] == 404
