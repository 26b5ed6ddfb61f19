"""The listener against those who speak HTTP as nobody should."""

import contextlib
import gzip
import json
import re
import socket
import struct
import threading
import time

import httpx
import pytest

from attack import REMOTE, Held, attack, to_envd

# Takes whatever comes on its port, keeps it, and answers as if it were one request.
SERVER = r"""
import socket, threading
listener = socket.create_server(("127.0.0.1", 8080))
def serve(connection):
    with connection:
        connection.settimeout(0.2)
        taken = b""
        try:
            while data := connection.recv(65536):
                taken += data
        except TimeoutError:
            pass
        with open("/tmp/taken", "ab") as file:
            file.write(taken + b"\n----\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntaken")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],)).start()
"""
NO_WALL = "what is not one request for certain is refused, by whoever reads HTTP"


def say(gateway, *pieces, patience=10):
    """What comes back until the connection ends."""
    with gateway.dial(patience) as connection:
        heard = b""
        # A peer that has hung up: reset, broken pipe, not connected.
        with contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
            # Whatever can be answered is, and then the connection ends.
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                heard += data
        return heard


class Raw:
    """A listener and, behind it, a server in a sandbox that tells what reaches it."""

    def __init__(self, world):
        self.gateway, self.sandbox = world.gateway, world.attacker
        self.routed = (
            f"E2b-Sandbox-Id: {self.sandbox.sandbox_id}\r\nE2b-Sandbox-Port: 8080\r\n".encode()
        )
        there = self.sandbox.commands.run("test -e /tmp/server.py && echo there || true").stdout
        if not there:
            self.sandbox.files.write("/tmp/server.py", SERVER)
            self.sandbox.commands.run("python3 /tmp/server.py", background=True, timeout=0)
        deadline = time.monotonic() + 20
        while b"taken" not in self.say(b"GET / HTTP/1.1\r\nHost: a\r\n" + self.routed + b"\r\n"):
            assert time.monotonic() < deadline, "its server never listens"
            time.sleep(0.1)
        self.sandbox.files.write("/tmp/taken", "")

    def say(self, *pieces):
        return say(self.gateway, *pieces)

    def taken(self):
        """What the server in the sandbox was sent, by connection."""
        text = self.sandbox.files.read("/tmp/taken", format="bytes")
        return [part for part in bytes(text).split(b"\n----\n") if part]


def answers(heard):
    return re.findall(rb"HTTP/1\.1 (\d{3})", heard)


@pytest.fixture
def raw(world):
    return Raw(world)


def request(line, *headers, body=b""):
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", body])


# --- where one request ends and the next begins

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
FRAMINGS = {
    "a length and chunks": [b"Content-Length: 4", b"Transfer-Encoding: chunked"],
    "chunks and a length": [b"Transfer-Encoding: chunked", b"Content-Length: 4"],
    "two lengths": [b"Content-Length: 5", b"Content-Length: 40"],
    "a list of lengths": [b"Content-Length: 5, 40"],
    "a length with a sign": [b"Content-Length: +5"],
    "a negative length": [b"Content-Length: -5"],
    "a length in hex": [b"Content-Length: 0x5"],
    "a length of many digits": [b"Content-Length: 18446744073709551617"],
    "a space before the colon": [b"Content-Length : 5"],
    "chunks twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "chunks not last": [b"Transfer-Encoding: chunked, identity"],
    "chunks misspelt": [b"Transfer-Encoding: xchunked"],
    "chunks with a tab": [b"Transfer-Encoding:\x0bchunked"],
    "chunks folded": [b"Transfer-Encoding:\r\n chunked"],
    "a name folded": [b"X: a", b" Content-Length: 5"],
    "a line without a name": [b": 5"],
    "a line without a colon": [b"Content-Length 5"],
    "a carriage return alone": [b"X: a\rContent-Length: 5"],
    "a zero byte": [b"X: a\0b"],
}


@pytest.mark.parametrize("framing", FRAMINGS)
@attack("one-request", nothing_without=NO_WALL)
def test_a_request_is_hidden_in_the_body_of_another(world, raw, framing):
    reached = []
    for routed in ([], [raw.routed.strip()]):
        head = [*FRAMINGS[framing], *routed]
        heard = raw.say(request(b"POST /x HTTP/1.1", *head, body=b"0\r\n\r\n" + HIDDEN))
        if len(answers(heard)) > 1:
            reached.append(heard)
    reached += [part for part in raw.taken() if b"/hidden" in part]
    return reached


CHUNKS = {
    "a size ended by a line feed": b"5\nhello\r\n0\r\n\r\n",
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a size in 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size of many digits": b"fffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
    "a line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "an extension without an end": b"5;" + b"a" * 200_000,
    "a chunk that is longer": b"3\r\nhello\r\n0\r\n\r\n",
    "trailers without an end": b"0\r\n" + b"X: a\r\n" * 200_000,
}


@pytest.mark.parametrize("chunks", CHUNKS)
@attack("one-request", nothing_without=NO_WALL)
def test_chunks_are_read_in_two_ways(world, raw, chunks):
    body = CHUNKS[chunks] + HIDDEN
    head = [b"Transfer-Encoding: chunked", raw.routed.strip()]
    heard = raw.say(request(b"POST /x HTTP/1.1", *head, body=body))
    hidden = [part for part in raw.taken() if b"GET /hidden" in part]
    return hidden or (heard if len(answers(heard)) > 1 else None)


@pytest.mark.parametrize("framing", ["chunks twice", "a coding before chunks"])
@attack("one-request", without="framing")
def test_a_request_that_others_may_end_elsewhere_is_passed_on(world, raw, framing):
    """Whoever was before the gateway may have thought that it ends at another place."""
    codings = {
        "chunks twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
        "a coding before chunks": [b"Transfer-Encoding: gzip, chunked"],
    }
    head = [*codings[framing], raw.routed.strip()]
    raw.say(request(b"POST /doubtful HTTP/1.1", *head, body=b"5\r\nhello\r\n0\r\n\r\n"))
    return [part for part in raw.taken() if b"/doubtful" in part]


@attack("one-request", nothing_without=NO_WALL)
def test_line_feeds_alone_reach_a_server_inside(world, raw):
    text = b"GET /x HTTP/1.1\nHost: a\nX: b\n" + raw.routed.replace(b"\r\n", b"\n") + b"\n"
    raw.say(text)
    return [part for part in raw.taken() if re.search(rb"(?<!\r)\n", part)]


@attack("one-request", nothing_without=NO_WALL)
def test_a_header_is_smuggled_through_a_path_or_a_value(world, raw):
    for line in (
        b"GET /a%0d%0aX-Made:%201 HTTP/1.1",
        b"GET /a?b=%0aX-Made:%201 HTTP/1.1",
        b"GET /a\tX-Made: 1 HTTP/1.1",
        b"GET /a HTTP/1.1 X-Made: 1",
        b"GET /a\x00 HTTP/1.1",
    ):
        raw.say(request(line, raw.routed.strip()))
    raw.say(request(b"GET /b HTTP/1.1", b"X-A: 1\x0b\x0cX-Made: 1", raw.routed.strip()))
    return [part for part in raw.taken() if re.search(rb"^X-Made:", part, re.MULTILINE)]


@attack("one-request", nothing_without=NO_WALL)
def test_a_hop_by_hop_header_takes_away_what_the_gateway_says(world, raw):
    named = b"Connection: close, X-Forwarded-For, Host, Content-Length, Transfer-Encoding"
    raw.say(
        request(b"POST /x HTTP/1.1", named, b"Content-Length: 2", raw.routed.strip(), body=b"ab")
    )
    (part,) = raw.taken()
    head = part.lower()
    lacking = [name for name in (b"x-forwarded-for:", b"host:") if name not in head]
    framed = b"content-length: 2" in head or b"transfer-encoding: chunked" in head
    return lacking or (None if framed else part)


@attack("tokens", without="inner-headers")
def test_a_header_of_the_gateways_own_opens_the_interpreter_without_a_token(world):
    """What envd takes for code's port it lets in without the sandbox's token."""
    routed = {name: value for name, value in to_envd(world.attacker).items() if "Token" not in name}
    assert world.attacker._envd_access_token
    with world.gateway.http(**routed, **{"Coppice-Code": "1"}) as http:
        answer = http.get("/contexts")
    return answer.status_code != 401 and answer.status_code != 404 and f"{answer} {answer.text}"


@attack("keys", without="credentials")
def test_a_server_inside_is_told_what_opens_the_gateway(world, raw):
    shown = [b"X-API-Key: e2b_" + b"a" * 40, b"Authorization: Bearer e2b_" + b"b" * 40]
    shown.append(b"X-Access-Token: " + world.attacker._envd_access_token.encode())
    raw.say(request(b"GET /shown HTTP/1.1", *shown, raw.routed.strip()))
    (part,) = raw.taken()
    secrets = [value.split(b": ", 1)[1] for value in shown]
    return [value for value in secrets if value in part]


# --- where a request belongs

HOSTS = {
    "two hosts": [b"Host: localhost", b"Host: evil.example"],
    "none": [],
    "with a user": [b"Host: localhost@evil.example"],
    "with a path": [b"Host: evil.example/localhost"],
    "of a name that ends as ours": [b"Host: evillocalhost"],
    "of a name below another": [b"Host: localhost.evil.example"],
    "in X-Forwarded-Host": [b"Host: evil.example", b"X-Forwarded-Host: localhost"],
    "in Forwarded": [b"Host: evil.example", b"Forwarded: host=localhost"],
    "in X-Original-URL": [b"Host: evil.example", b"X-Original-URL: http://localhost/"],
    "with a zero byte": [b"Host: evil.example\0localhost"],
    "with a comma": [b"Host: localhost, evil.example"],
}


@pytest.mark.local("a gateway with keys is asked by any name")
@pytest.mark.parametrize("host", HOSTS)
@attack("one-place", nothing_without="without keys, only hosts that are this machine's are served")
def test_a_host_is_taken_for_this_machine(world, raw, host):
    head = b"\r\n".join([b"GET /v2/sandboxes HTTP/1.1", *HOSTS[host], b"X-API-Key: k", b"", b""])
    heard = raw.say(head)
    # HTTP/1.1 wants one; who sends none has no name that a browser was led by.
    if host == "none":
        raise Held("no browser sends none")
    return heard if answers(heard)[:1] == [b"200"] else None


@pytest.mark.local("a gateway with keys is asked by any name")
@attack("one-place", without="hosts")
def test_a_page_comes_in_by_a_name_of_its_own(world):
    """One that its owner has made lead to this machine, once a browser had the page."""
    head = b"GET /v2/sandboxes HTTP/1.1\r\nHost: evil.example\r\nX-API-Key: k\r\n\r\n"
    heard = say(world.gateway, head)
    return heard if answers(heard)[:1] == [b"200"] else None


@attack("one-place", nothing_without="the target, and then the host, say which sandbox is meant")
def test_a_target_and_a_host_name_two_places(world, raw):
    evil = (
        b"GET http://evil.example/v2/sandboxes HTTP/1.1\r\nHost: localhost\r\nX-API-Key: k\r\n\r\n"
    )
    if answers(raw.say(evil))[:1] == [b"200"]:
        return "the host was believed"
    other = world.neighbour.sandbox_id.encode()
    ours = b"http://8080-" + raw.sandbox.sandbox_id.encode() + b".localhost/x"
    raw.say(b"GET " + ours + b" HTTP/1.1\r\nHost: 8080-" + other + b".localhost\r\n\r\n")
    assert len(raw.taken()) == 1, "the target counts"
    twice = b"E2b-Sandbox-Id: " + other
    heard = raw.say(request(b"GET /x HTTP/1.1", twice, raw.routed.strip()))
    return heard if b"taken" in heard else None


PATHS = ["//metrics", "/./sandboxes", "/x/../sandboxes", "/%2e%2e/sandboxes", "/sandboxes%2f"]
PATHS += ["/SANDBOXES", "/sandboxes;x", "/sandboxes/", "/v2//sandboxes", "/sandboxes%00", "*"]
PATHS += ["/health/../sandboxes", "/openapi.json/../v2/sandboxes", "/health%2f..%2fsandboxes"]
PATHS += ["/sandboxes?x#/health", "/health;/../sandboxes", "\\sandboxes", "/sandboxes\\"]


@attack("one-place", nothing_without="a path is what its bytes say, and nothing else")
def test_a_path_leads_past_the_keys(world, strangers):
    reached = []
    for path in PATHS:
        heard = say(strangers.gateway, request(f"GET {path} HTTP/1.1".encode()))
        if b"sandboxID" in heard or (answers(heard)[:1] == [b"200"] and b"healthy" not in heard):
            reached.append(path)
    return reached


@attack("one-place", nothing_without="there are the methods that routes have")
def test_a_method_leads_past_the_keys(world, strangers):
    reached = []
    for method in ("CONNECT", "TRACE", "OPTIONS", "HEAD", "PROPFIND", "get", "X" * 50, "PRI"):
        for more in (
            [],
            [b"X-HTTP-Method-Override: GET"],
            [b"Upgrade: h2c", b"Connection: upgrade"],
        ):
            heard = say(
                strangers.gateway, request(f"{method} /v2/sandboxes HTTP/1.1".encode(), *more)
            )
            if answers(heard)[:1] in ([b"200"], [b"101"]):
                reached.append((method, heard))
    return reached


# --- how much of it there is


def rss(gateway):
    if REMOTE:
        return 0
    with open(f"/proc/{gateway.process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) << 10


@contextlib.contextmanager
def bounded(world, most=64 << 20):
    """Meanwhile others are answered, and afterwards the gateway is no larger by more."""
    before = rss(world.gateway)
    yield
    began = time.monotonic()
    with world.gateway.http() as http:
        assert http.get("/health").status_code == 200
    assert time.monotonic() - began < 10
    grown = rss(world.gateway) - before
    assert grown < most, f"it grew by {grown >> 20} MiB"


@attack("little", nothing_without="what is too long is refused when it has become so")
def test_a_head_has_no_end(world, raw):
    with bounded(world):
        for piece in (b"X: " + b"a" * 65536, b"X: a\r\n" * 10_000):
            heard = raw.say(b"GET / HTTP/1.1\r\nHost: a\r\n", *[piece] * 64)
            if answers(heard)[:1] not in ([], [b"431"], [b"400"]):
                return heard
        heard = raw.say(b"GET /" + b"a" * (1 << 20))
        return None if answers(heard)[:1] in ([], [b"414"], [b"431"], [b"400"]) else heard


@attack("little", nothing_without="a body is only as long as it is allowed, and unpacked by nobody")
def test_a_bomb_is_sent_as_a_body(world):
    bomb = gzip.compress(b'{"templateID": "' + b"a" * (32 << 20))
    with bounded(world), world.gateway.http() as http:
        packed = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        answer = http.post("/v2/sandboxes", content=bomb, headers=packed)
        if answer.status_code == 201:
            return answer.text
        nested = b'{"metadata":' + b"[" * 100_000
        if http.post("/v2/sandboxes", content=nested).status_code != 400:
            return "nesting"
        many = json.dumps({"templateID": "base", "metadata": {str(n): "x" for n in range(90_000)}})
        if http.post("/v2/sandboxes", content=many).status_code not in (400, 413):
            return "many"


@attack("little", nothing_without="envd unpacks only as much as a message may have")
def test_a_bomb_is_sent_to_envd(world):
    bomb = gzip.compress(b'{"path": "' + b"a" * (64 << 20))
    with bounded(world), world.gateway.http(**to_envd(world.attacker)) as http:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        answer = http.post("/filesystem.Filesystem/Stat", content=bomb, headers=headers)
        if answer.status_code == 200:
            return answer.text
    assert world.attacker.commands.run("echo lives").stdout == "lives\n"


@attack("little", without="message-size")
def test_a_message_has_no_end(world):
    with world.gateway.http(**to_envd(world.attacker)) as http:
        body = b'{"path": "' + b"a" * (24 << 20) + b'"}'
        headers = {"Content-Type": "application/json"}
        try:
            answer = http.post("/filesystem.Filesystem/Stat", content=body, headers=headers)
        except httpx.TransportError as error:
            raise Held(f"{error!r}") from error
    said = f"{answer} {answer.text[:200]}"
    if answer.status_code == 413 or "resource_exhausted" in said:
        raise Held(said)
    return said


# A head may take half a minute, and half as much more until that is seen.
HEAD = 46


@pytest.fixture(scope="module", autouse=True)
def slow(worlds):
    """Heads that are on their way for as long as the module's tests: in each world, one that
    nothing is said of any more, and one that goes on by a byte now and then."""
    opened = {}
    for walls in ((),) if REMOTE else ((), ("head-time",)):
        mute, drips = (worlds(walls).gateway.dial() for _ in range(2))
        for connection in (mute, drips):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        opened[walls] = mute, drips
    begun = time.monotonic()
    over = threading.Event()

    def drip():
        while not over.wait(2):
            for _, drips in opened.values():
                with contextlib.suppress(OSError):
                    drips.sendall(b"a")

    dripping = threading.Thread(target=drip, daemon=True)
    dripping.start()
    yield begun, opened
    over.set()
    dripping.join()
    for pair in opened.values():
        for connection in pair:
            connection.close()


def is_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@attack("little", nothing_without="a head has its time, and each connection its own task")
def test_many_are_slow_at_once(world):
    crowd = []
    try:
        with bounded(world):
            for _ in range(500):
                connection = world.gateway.dial()
                connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
                crowd.append(connection)
            for connection in crowd:
                connection.sendall(b"X: a\r\n")
            began = time.monotonic()
            assert world.neighbour.commands.run("echo lives").stdout == "lives\n"
            return time.monotonic() - began if time.monotonic() - began > 10 else None
    finally:
        for connection in crowd:
            connection.close()


# --- HTTP/2, by hand

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = b"\x82\x86\x84\x41\x01a"  # GET http / at host a


def frame(kind, flags, stream, payload=b""):
    length = struct.pack(">I", len(payload))[1:]
    return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def flood(world, pieces, patience=4):
    """Whether the gateway went along with all of it."""
    with world.gateway.dial(patience) as connection:
        connection.sendall(PREFACE + frame(4, 0, 0))
        connection.settimeout(patience)
        try:
            for piece in pieces:
                connection.sendall(piece)
                with contextlib.suppress(BlockingIOError):
                    while connection.recv(65536, socket.MSG_DONTWAIT):
                        pass
        except (ConnectionError, TimeoutError):
            return False
        ended = False
        connection.settimeout(3)
        with contextlib.suppress(TimeoutError):
            try:
                while connection.recv(65536):
                    pass
                ended = True
            except ConnectionError:
                ended = True
        return not ended


FLOODS = {
    "streams that are reset at once": lambda: (
        frame(1, 5, n, GET) + frame(3, 0, n, b"\0\0\0\x08") for n in range(1, 400_001, 2)
    ),
    "a head that goes on and on": lambda: [
        frame(1, 1, 1, GET),
        *[frame(9, 0, 1, b"\x00\x01x\x7f\x81\x7f" + b"a" * 256)] * 40_000,
    ],
    "a head of what was said before": lambda: (
        frame(1, 5, n, GET + b"\x40\x01x\x7f\xa1\x1e" + b"a" * 4000 + b"\xbe" * 60_000)
        for n in range(1, 401, 2)
    ),
    "frames that are too long": lambda: [frame(0, 0, 1, b"a" * (1 << 20))] * 4,
    "a window that is too large": lambda: [frame(8, 0, 0, b"\x7f\xff\xff\xff")] * 2,
    "data of no stream": lambda: [frame(0, 0, 99, b"a")] * 10,
}


@pytest.mark.parametrize("kind", FLOODS)
@attack("little", nothing_without="a connection that floods is ended, and holds little until then")
def test_a_connection_floods(world, kind):
    with bounded(world):
        return "it was let go on" if flood(world, FLOODS[kind]()) else None


@pytest.mark.parametrize("kind", ["settings", "pings", "empty data"])
@attack("little", nothing_without="what is answered waits until it is read")
def test_a_connection_floods_and_reads_nothing(world, kind):
    pieces = {
        "settings": frame(4, 0, 0, b"\0\x04\0\0\xff\xff") * 1000,
        "pings": frame(6, 0, 0, b"12345678") * 1000,
        "empty data": frame(1, 4, 1, GET) + frame(0, 0, 1) * 1000,
    }
    with bounded(world), world.gateway.dial() as connection:
        connection.sendall(PREFACE + frame(4, 0, 0))
        connection.settimeout(2)
        with contextlib.suppress(ConnectionError, TimeoutError):
            for _ in range(300):
                connection.sendall(pieces[kind])


@pytest.mark.timeout(120)
@attack("little", without="head-time")
def test_a_head_takes_for_ever(world, slow):
    """Last of all here: it has been on its way since the first."""
    begun, opened = slow
    time.sleep(max(0, begun + HEAD - time.monotonic()))
    kept = [connection for connection in opened[world.down] if is_open(connection)]
    return kept and f"{len(kept)} are open after {time.monotonic() - begun:.0f} s"
