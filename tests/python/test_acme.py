"""A wildcard certificate from an authority that speaks ACME, proven by records in real DNS."""

import re
import signal
import socket
import ssl
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from authority import Authority
from domain import free_port
from gateway import coppice

pytestmark = [
    pytest.mark.local("has an authority and a name server of its own"),
    pytest.mark.plain("TLS of its own"),
]

NAME = "sbx.acme.test"
RECORD = f"_acme-challenge.{NAME}"
UNTIL = "coppice_tls_certificate_expiry_timestamp_seconds"
RENEWALS = "coppice_tls_renewals_total"
SECRET = "e2b_" + "5" * 40


@pytest.fixture
def authority(tmp_path, request):
    authority = Authority(tmp_path, **getattr(request, "param", {}))
    try:
        yield authority
    finally:
        authority.remove()


@pytest.fixture
def secure(new_gateway, authority):
    """A gateway, not yet started, that gets its certificate from the authority."""
    port = free_port()
    flags = ["--tls-listen", f"127.0.0.1:{port}", "--domain", f"{NAME}:{port}", *authority.flags]
    gateway = new_gateway(*flags, env={"COPPICE_API_KEYS": SECRET})
    gateway.secure = port
    return gateway


def handshake(gateway, name, root=None):
    """The certificate that is shown to whoever asks for `name`; whose it is matters to those only who
    trust `root` and nobody else."""
    trusting = ssl.create_default_context(cadata=root)
    if root is None:
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", gateway.secure), 10) as connection:
        with trusting.wrap_socket(connection, server_hostname=name) as tls:
            tls.sendall(f"GET /health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            assert tls.recv(100).startswith(b"HTTP/1.1 ")
            return tls.getpeercert(True), tls.getpeercert()


def served(gateway):
    try:
        return handshake(gateway, NAME)[0]
    except (ssl.SSLError, ConnectionError):
        return None


def figures(gateway):
    with gateway.http(**{"X-API-Key": SECRET}) as http:
        families = text_string_to_metric_families(http.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
    wanted = [sample for sample in samples if sample.name in (UNTIL, RENEWALS)]
    return {sample.labels.get("result", "until"): sample.value for sample in wanted}


def test_a_certificate_is_got_once_the_proof_is_and_outlives_gateway_and_authority(
    authority, secure, eventually
):
    root = authority.start()
    # Proof that is none, and a program that fails: there is a gateway all the same.
    authority.mood("value=wrong")
    secure.start()
    eventually(lambda: figures(secure)["failed"] == 1, timeout=60)
    assert served(secure) is None
    assert "does not believe that sbx.acme.test is ours" in secure.log_tail()
    assert "Correct value not found for DNS challenge" in secure.log_tail()
    authority.mood("echo no such zone >&2; exit 3")
    secure.process.send_signal(signal.SIGHUP)
    eventually(lambda: figures(secure)["failed"] == 2, timeout=60)
    assert "it said: no such zone" in secure.log_tail()
    doctor = ["doctor", "--data-dir", secure.data_dir, *secure.flags]
    said = coppice(*doctor)
    assert said.returncode != 0
    assert re.search(r"BAD   ACME, last time: .* no such zone", said.stdout), said.stdout
    assert "warn  TLS certificate: none yet" in said.stdout

    authority.mood("")
    secure.process.send_signal(signal.SIGHUP)
    first = eventually(lambda: served(secure), timeout=60)
    for name in (NAME, f"api.{NAME}", f"49983-{'a' * 20}.{NAME}"):
        shown, told = handshake(secure, name, root)
        assert shown == first
    assert {name for _, name in told["subjectAltName"]} == {NAME, f"*.{NAME}"}
    found = figures(secure)
    assert (found["done"], found["failed"]) == (1, 2)
    assert found["until"] == ssl.cert_time_to_seconds(told["notAfter"])

    # Both records were there at once, and both were taken away; of our secrets the program saw none.
    calls = [call for call in authority.calls() if call[1] == RECORD][-4:]
    assert [what for what, _, _ in calls] == ["present", "present", "cleanup", "cleanup"]
    assert {value for _, _, value in calls[:2]} == {value for _, _, value in calls[2:]}
    environment = (authority.base / "hook.env").read_text()
    assert "COPPICE_" not in environment and SECRET not in environment and "PATH=" in environment
    kept = list((secure.data_dir / "acme").rglob("*"))
    assert {path.name for path in kept if path.is_file()} == {f"{NAME}.pem", "account.json"}
    for path in kept:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert SECRET not in secure.log_tail() and "PRIVATE KEY" not in secure.log_tail(500)
    good = coppice(*doctor)
    assert good.returncode == 0, good.stdout
    for line in ("ok    ACME hook: ", "ok    ACME authority: ", f"ok    TLS names: api.{NAME}"):
        assert line in good.stdout, good.stdout

    # Its server is asked nothing where nobody vouches for it.
    at = doctor.index("--acme-ca")
    said = coppice(*doctor[:at], *doctor[at + 2 :])
    assert re.search(r"BAD   ACME authority: .*invalid peer certificate", said.stdout), said.stdout

    # Without the authority, and after a kill: what is there is served as soon as anything is.
    authority.stop()
    secure.end(signal.SIGKILL)
    secure.start()
    assert served(secure) == first
    assert figures(secure)["done"] == 0
    said = coppice(*doctor)
    assert re.search(r"BAD   ACME authority: .*localhost:\d+/dir", said.stdout), said.stdout
    assert "ok    TLS validity" in said.stdout


@pytest.mark.parametrize("authority", [{"lifetime": 6}], indirect=True)
def test_a_certificate_is_renewed_before_its_end_by_the_same_account(
    authority, secure, eventually
):
    authority.start()
    secure.start()
    first = eventually(lambda: served(secure), timeout=60)
    connection = socket.create_connection(("127.0.0.1", secure.secure), 10)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = f"GET /health HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode()
    with context.wrap_socket(connection, server_hostname=NAME) as before:
        before.sendall(request)
        assert before.recv(1000).startswith(b"HTTP/1.1 200 OK")
        eventually(lambda: served(secure) not in (None, first), timeout=60)
        assert figures(secure)["done"] >= 2 and figures(secure)["failed"] == 0
        # Who came with the old one is not sent away.
        before.sendall(request)
        assert before.recv(1000).startswith(b"HTTP/1.1 200 OK")
    assert secure.log_tail(500).count("a new account with the authority") == 1
