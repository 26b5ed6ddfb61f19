"""E2B_DOMAIN mode: everything by name, over TLS, with a private certificate authority.

The main list runs this way too; here is what there is only this way.
"""

import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest
from websockets.sync.client import connect

from domain import NAME
from gateway import coppice
from inside import serve

pytestmark = pytest.mark.tls

PORT = 8080
# What the gateway takes at once, those shaking hands included (`Limits::connections`), and how long
# a handshake may take (`Limits::handshake`, s).
ROOM, HANDSHAKE = 16 * 1024, 10
# The beginning of a client's first message.
HELLO = b"\x16\x03\x01\x02\x00\x01"

# What a user's first program does; prints nothing when all of it works.
FIRST_PROGRAM = """
from e2b import Sandbox
with Sandbox.create(timeout=60) as sandbox:
    assert sandbox.commands.run("echo over TLS").stdout == "over TLS\\n"
    sandbox.files.write("a", "text")
    assert sandbox.files.read("a") == "text"
    handle = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "typed")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "typed"
    assert sandbox.sandbox_id in [info.sandbox_id for info in Sandbox.list().next_items()]
"""


@pytest.fixture
def web(sandbox):
    serve(sandbox, PORT)
    return sandbox


def certificate(gateway):
    with gateway.connect() as connection:
        return connection.certificate()


def test_only_the_domain_points_to_the_gateway(gateway, sandbox):
    given = {name for name in os.environ if name.startswith("E2B_")}
    assert given == {"E2B_DOMAIN", "E2B_API_KEY"}
    assert os.environ["E2B_DOMAIN"] == sandbox.sandbox_domain == gateway.domain.given


def test_the_address_of_tls_is_announced_after_the_plain_one(gateway):
    port = gateway.domain.given.partition(":")[2]
    expected = f"listening on http://{gateway.listen}\nlistening on https://127.0.0.1:{port}\n"
    assert (gateway.base / "out").read_text() == expected
    assert httpx.get(f"http://{gateway.listen}/health").status_code == 200


def test_get_host_is_fetched_by_a_plain_client(web):
    host = web.get_host(PORT)
    answer = httpx.get(f"https://{host}/a?b=c")
    assert (answer.status_code, answer.json()["path"]) == (200, "/a?b=c")
    headers = answer.json()["headers"]
    assert (headers["host"], headers["x-forwarded-proto"]) == (host, "https")
    # SDKs of other makers send an id of a client behind the sandbox's.
    legacy = host.replace(web.sandbox_id, f"{web.sandbox_id}-coppice")
    assert httpx.get(f"https://{legacy}/").status_code == 200


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_both_versions_of_http_reach_a_port(web, version):
    curl = ["curl", "--silent", "--show-error", "--fail", f"--http{version}", "--max-time", "20"]
    url = f"https://{web.get_host(PORT)}/over"
    done = subprocess.run(
        [*curl, "--cacert", os.environ["SSL_CERT_FILE"], "--write-out", " %{http_version}", url],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '"/over"' in done.stdout and done.stdout.endswith(f" {version}")


def test_a_websocket_to_get_host_echoes(web):
    with connect(f"wss://{web.get_host(PORT)}/ws", proxy=None) as websocket:
        websocket.send("grüße")
        assert websocket.recv(timeout=10) == "grüße"


def test_the_shared_host_goes_by_the_two_headers(gateway, web):
    port = gateway.domain.given.partition(":")[2]
    routing = {"E2b-Sandbox-Id": web.sandbox_id, "E2b-Sandbox-Port": str(PORT)}
    shared = f"https://sandbox.{NAME}:{port}"
    assert httpx.get(f"{shared}/x", headers=routing).json()["path"] == "/x"
    assert httpx.get(f"{shared}/x", headers={"E2b-Sandbox-Port": "80"}).status_code == 400


def test_signed_links_lead_here_and_need_no_header(gateway, sandbox):
    upload = sandbox.upload_url("up.txt", user="user", use_signature_expiration=60)
    download = sandbox.download_url("up.txt", use_signature_expiration=60)
    for url in (upload, download):
        assert url.startswith(f"https://49983-{sandbox.sandbox_id}.{gateway.domain.given}/files?")
    assert httpx.post(upload, files={"file": ("up.txt", b"signed")}).status_code == 200
    assert httpx.get(download).text == sandbox.files.read("up.txt") == "signed"
    assert httpx.get(download.replace("up.txt", "x")).status_code == 401


@pytest.mark.parametrize(
    ("version", "spoken"), [("1.1", {"http/1.1"}), ("2", {"h2", "http/1.1"}), (None, None)]
)
def test_the_sdk_speaks_the_version_it_is_told_to(gateway, version, spoken):
    log = gateway.base / "log"
    before = log.stat().st_size
    env = {**os.environ, **({"E2B_HTTP_VERSION": version} if version else {})}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST_PROGRAM], env=env, capture_output=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with open(log) as text:
        text.seek(before)
        # One line for every handshake; downloads are HTTP/1.1 in any case.
        found = set(re.findall(r" TLS .*protocol=(\S+)", text.read()))
    assert found == (spoken or {"h2", "http/1.1"})


# Four files are brought to a disk that others may keep busy.
@pytest.mark.timeout(180)
def test_a_new_certificate_is_taken_up_while_commands_run(gateway, sandbox, eventually):
    first = certificate(gateway)
    handle = sandbox.commands.run("cat", background=True, stdin=True, timeout=0)
    gateway.domain.renew()
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: certificate(gateway) != first, timeout=30)
    sandbox.commands.send_stdin(handle.pid, "still here")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "still here"

    second = certificate(gateway)
    gateway.domain.renew()
    eventually(lambda: certificate(gateway) != second, timeout=30)
    # Of those that other tests leave to their deadlines nothing is said.
    assert sandbox.sandbox_id in gateway.ids()
    assert sandbox.commands.run("echo served").stdout == "served\n"


def test_a_client_that_does_not_know_the_authority_gets_nowhere(gateway):
    with pytest.raises(httpx.ConnectError, match="(?i)certificate"):
        httpx.get(f"{gateway.url}/health", trust_env=False)


class Stuck:
    """Connections that never shake hands: every other one begins to. Ended with the test."""

    def __init__(self, gateway):
        self.port = int(gateway.domain.given.partition(":")[2])
        self.open, self.poll = {}, select.poll()

    def grow(self, count):
        for number in range(count):
            connection = socket.socket()
            # From several addresses, as ports are few.
            connection.bind((f"127.0.0.{2 + number % 4}", 0))
            connection.connect(("127.0.0.1", self.port))
            if number % 2:
                connection.sendall(HELLO)
            self.open[connection.fileno()] = connection
            self.poll.register(connection, select.POLLIN)

    def left(self):
        """How many the gateway has not ended yet; those that it has take no descriptor any more."""
        for descriptor, _ in self.poll.poll(0):
            self.poll.unregister(descriptor)
            self.open.pop(descriptor).close()
        return len(self.open)

    def close(self):
        for connection in self.open.values():
            connection.close()


@pytest.fixture
def stuck(gateway):
    """With descriptors for all of them, here and in the gateway."""
    here = resource.getrlimit(resource.RLIMIT_NOFILE)
    for pid in (0, gateway.process.pid):
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        soft = max(soft, ROOM + 2000)
        if hard != resource.RLIM_INFINITY:
            hard = max(hard, soft)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    stuck = Stuck(gateway)
    yield stuck
    stuck.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, here)


@pytest.mark.timeout(120)
def test_those_that_never_shake_hands_hold_up_nobody_and_are_ended(
    gateway, sandbox, stuck, eventually
):
    began, some = time.monotonic(), ROOM // 8
    stuck.grow(some)
    assert httpx.get(f"{gateway.url}/health").status_code == 200
    assert sandbox.commands.run("echo served").stdout == "served\n"
    assert stuck.left() == some, "all this was beside them"

    # With room for nobody else the next is served as soon as the first of them have had their time.
    stuck.grow(ROOM - some)
    # On a slow machine some had theirs before the last were there.
    stuck.grow(ROOM - stuck.left())
    print(f"{stuck.left()} of {ROOM} are there at once, after {time.monotonic() - began:.1f} s")
    assert httpx.get(f"{gateway.url}/health", timeout=3 * HANDSHAKE).status_code == 200
    assert sandbox.commands.run("echo served").stdout == "served\n"
    eventually(lambda: stuck.left() == 0, timeout=3 * HANDSHAKE)


def test_the_doctor_looks_at_the_certificate(gateway):
    good = coppice("doctor", *gateway.domain.flags)
    assert good.returncode == 0, good.stdout
    assert f"TLS names: api.{NAME} and *.{NAME}" in good.stdout and "TLS validity" in good.stdout
    flags = [flag.replace(NAME, "other.test") for flag in gateway.domain.flags]
    bad = coppice("doctor", *flags)
    assert bad.returncode != 0
    assert "BAD   TLS names: the certificate is not for api.other.test" in bad.stdout
    assert "mend: get a certificate for other.test and *.other.test" in bad.stdout


def test_a_pair_that_is_none_is_refused_at_the_start(gateway, short_dir):
    serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", short_dir]
    serve += ["--tls-listen", "127.0.0.1:0"]
    for flags, said in (
        (["--tls-cert", "c"], "tls-key is not given"),
        (["--tls-cert", "no/c", "--tls-key", "no/k"], "cannot read no/c"),
        (["--tls-cert", gateway.domain.ca, "--tls-key", "no/k"], "cannot read no/k"),
    ):
        done = coppice(*serve, *flags)
        assert done.returncode != 0 and said in done.stderr, done.stderr
