"""A gateway under test: the real binary, with a port and a data directory of its own, or one that
runs elsewhere and is only spoken to."""

import contextlib
import http.client
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

REPO = Path(__file__).resolve().parents[2]
BINARY = REPO / os.environ.get("COPPICE_BIN", "target/release/coppice")
# All gateways of a run, and later runs, share what is named by its content.
TEMPLATES = Path(os.environ.get("COPPICE_TEST_TEMPLATES", REPO / "target" / "e2e" / "templates"))
KEY = os.environ.get("COPPICE_TEST_API_KEY") or "e2b_" + "0" * 40
# Without the template that takes minutes: whoever needs it asks for it.
STARTED_WITH = {
    name: value for name, value in os.environ.items() if not name.startswith(("COPPICE_", "E2B_"))
} | {"COPPICE_TEMPLATES": "base"}
# Words that put a command where the host's own mounts are, when the tests have left that place.
OUTSIDE = []


def coppice(*argv, patience=60, env=None, prefix=(), binary=BINARY):
    """Runs one command of the binary to its end."""
    return subprocess.run(
        [*OUTSIDE, *prefix, binary, *argv],
        env={**STARTED_WITH, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
    )


def free_port():
    """Not one of those that clients get: it would be taken now and then before it is listened on, or
    while a gateway that had it is started again."""
    while True:
        port = random.randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def address_of(url):
    """Where a URL leads: name and port."""
    url = urlsplit(url)
    return url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]


class Reached:
    """What there is to say to a gateway, wherever it runs: who is one has `host`, `url`, `domain` and
    `sandbox_url`."""

    domain = None

    def dial(self, timeout=10):
        """A bare connection to where `url` leads."""
        return socket.create_connection(address_of(self.url), timeout)

    def connect(self, timeout=10):
        """A connection on which HTTP/1.1 can be spoken to `url` by hand."""
        url = urlsplit(self.url)
        connection = self.dial(timeout)
        return Tls(connection, url.hostname) if url.scheme == "https" else connection

    def by_hand(self, timeout=60):
        """A connection that sends the requests it is told to, as it is told to."""
        secure = urlsplit(self.url).scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(*address_of(self.url), timeout=timeout)

    @property
    def sandbox_url(self):
        return self.url

    @property
    def opts(self):
        """What points one call of the SDK at this gateway."""
        if self.domain:
            return {"domain": self.domain.given, "api_key": KEY}
        return {"api_url": self.url, "sandbox_url": self.sandbox_url, "api_key": KEY}

    @property
    def settings(self):
        """The environment of an SDK that uses this gateway."""
        if self.domain:
            return {**self.domain.settings, "E2B_API_KEY": KEY}
        return {
            "E2B_API_URL": self.url,
            "E2B_SANDBOX_URL": self.sandbox_url,
            "E2B_API_KEY": KEY,
        }

    def http(self, **headers):
        """A plain HTTP client with the API key; a header given as None is left out."""
        given = {"X-API-Key": KEY, **headers}
        return httpx.Client(
            base_url=self.url,
            headers={name: value for name, value in given.items() if value is not None},
            timeout=30,
        )

    def ids(self):
        """The sandboxes it lists."""
        with self.http() as http:
            return {listed["sandboxID"] for listed in http.get("/v2/sandboxes").json()}


class Remote(Reached):
    """A gateway that somebody else started, maybe on another machine and another system."""

    sandbox_url = None

    def __init__(self, url, sandbox_url=None):
        self.url = url.rstrip("/")
        self.sandbox_url = (sandbox_url or url).rstrip("/")

    @classmethod
    def of_environment(cls):
        """The one that the environment names; `None`: tests start their own."""
        url = os.environ.get("COPPICE_TEST_URL")
        return cls(url, os.environ.get("COPPICE_TEST_SANDBOX_URL")) if url else None

    @property
    def host(self):
        return urlsplit(self.url).netloc

    @property
    def listen(self):
        return self.host

    @property
    def address(self):
        return address_of(self.url)


class Gateway(Reached):
    """One data directory and, between `start` and an end, the process that serves it."""

    def __init__(
        self,
        *flags,
        env=None,
        prefix=(),
        data_dir=None,
        templates=TEMPLATES,
        domain=None,
        binary=BINARY,
    ):
        # Short: unix sockets below it have 104 bytes for their whole path.
        self.base = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
        self.data_dir = data_dir or self.base / "d"
        # Without a pool, whatever templates there are: what a test does not ask for is not there.
        self.env = {"COPPICE_POOL": "base=0", **(env or {})}
        self.flags, self.prefix, self.binary = flags, prefix, binary
        self.listen, self.process = f"127.0.0.1:{free_port()}", None
        # A `Domain`: clients then come by its names, over TLS, and know nothing else.
        self.domain = domain
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        templates.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.data_dir / "templates").symlink_to(templates)

    def spawn(self, *more_flags, stdin=subprocess.DEVNULL):
        """Starts the process, on the address it had before."""
        with open(self.base / "out", "wb") as out, open(self.base / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*OUTSIDE, *self.prefix, self.binary, "serve", "--listen", self.listen]
                + ["--data-dir", self.data_dir, *(self.domain.flags if self.domain else [])]
                + [*self.flags, *more_flags],
                env={**STARTED_WITH, **self.env},
                stdin=stdin,
                stdout=out,
                stderr=log,
            )

    def start(self, *more_flags, patience=60):
        """`spawn` and `wait`."""
        self.spawn(*more_flags)
        return self.wait(patience)

    def wait(self, patience=60):
        """Until it says that it can make a sandbox."""
        deadline = time.monotonic() + patience
        while not (address := self._announced()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                state = f"ended with {self.process.poll()}"
                raise AssertionError(f"no gateway: {state}; its log ends\n{self.log_tail()}")
            time.sleep(0.05)
        self.listen = address
        return self

    def _announced(self):
        for line in (self.base / "out").read_text().splitlines(keepends=True):
            if line.startswith("listening on http://") and line.endswith("\n"):
                return line.strip().removeprefix("listening on http://")
        return None

    def log_tail(self, lines=60):
        return "\n".join((self.base / "log").read_text(errors="replace").splitlines()[-lines:])

    @property
    def address(self):
        host, _, port = self.listen.rpartition(":")
        return host, int(port)

    @property
    def host(self):
        """What a client that is sent to `url` calls it."""
        return f"api.{self.domain.given}" if self.domain else self.listen

    @property
    def url(self):
        return f"https://{self.host}" if self.domain else f"http://{self.host}"

    def end(self, sig=signal.SIGTERM, patience=30):
        """Ends the process; returns how long that took."""
        if self.process is None:
            return 0
        asked = time.monotonic()
        self.process.send_signal(sig)
        self.process.wait(patience)
        self.process = None
        return time.monotonic() - asked

    def down(self):
        done = coppice("down", "--data-dir", self.data_dir, env=self.env, prefix=self.prefix)
        assert done.returncode == 0, done.stderr

    def remove(self):
        """Ends it with all its sandboxes and removes its directories."""
        try:
            self.end()
        finally:
            if self.process is not None:
                self.end(signal.SIGKILL)
            self.down()
            (self.data_dir / "templates").unlink()
            shutil.rmtree(self.base)


class Tls:
    """As much of a socket as tests need, with TLS on it. `ssl.SSLSocket` takes a reset for an
    orderly end before Python 3.11.9."""

    def __init__(self, connection, name):
        self.connection, self.received, self.to_send = connection, ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        self.tls = context.wrap_bio(self.received, self.to_send, server_hostname=name)
        self._do(self.tls.do_handshake)

    def _do(self, step, *arguments):
        while True:
            try:
                done = step(*arguments)
            except ssl.SSLWantReadError:
                self.connection.sendall(self.to_send.read())
                if data := self.connection.recv(1 << 16):
                    self.received.write(data)
                else:
                    self.received.write_eof()
            else:
                self.connection.sendall(self.to_send.read())
                return done

    def sendall(self, data):
        self._do(self.tls.write, data)

    def recv(self, size):
        try:
            return self._do(self.tls.read, size)
        except ssl.SSLZeroReturnError:
            return b""

    def setsockopt(self, *option):
        self.connection.setsockopt(*option)

    def certificate(self):
        return self.tls.getpeercert(binary_form=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()
