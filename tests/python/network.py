"""A small internet of the test's own: two network namespaces joined by a pair of links.

`host` is where a gateway runs, `world` is everything else: a web server on each of its addresses
and a resolver. Nothing leads out of either. `world` knows no way back to a sandbox, so an answer
proves that addresses were translated on the way.
"""

import contextlib
import os
import socket
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

from gateway import KEY, Gateway

PUBLIC, PRIVATE, METADATA, RESOLVER = "203.0.113.10", "10.99.0.10", "169.254.169.254", "10.99.0.53"
# Public too, and another neighbourhood.
OTHER = "192.0.2.10"
HOST = {"public": "203.0.113.1", "private": "10.99.0.1"}
WEB_PORT = 8000
NAME = "world.test"

WEB = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello from " + sys.argv[1].encode())
    def log_message(self, *_): pass
print("up", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[2])), Handler).serve_forever()
"""

# Answers every A question with one address, and says of everything else that there is none.
DNS = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("up", flush=True)
while True:
    query, client = server.recvfrom(512)
    end = query.index(0, 12) + 5
    is_a = query[end - 4 : end - 2] == bytes([0, 1])
    head = query[:2] + bytes([0x81, 0x80, 0, 1, 0, int(is_a), 0, 0, 0, 0])
    record = bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]) + socket.inet_aton(sys.argv[2])
    server.sendto(head + query[12:end] + (record if is_a else b""), client)
"""

# Carries bytes between a listener that was opened outside and an address inside a namespace.
RELAY = """
import os, socket, sys, threading
listener = socket.socket(fileno=int(sys.argv[1]))
target = (sys.argv[2], int(sys.argv[3]))
def carry(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
print("up", flush=True)
while True:
    client, _ = listener.accept()
    try:
        inner = socket.create_connection(target)
    except OSError:
        client.close()
        continue
    for ends in ((client, inner), (inner, client)):
        threading.Thread(target=carry, args=ends, daemon=True).start()
"""


def run(*argv):
    subprocess.run(argv, check=True)


@contextlib.contextmanager
def gateway_in(internet, resolver):
    """A gateway in the `host` namespace, with options for the SDK that lead to it."""
    gateway = Gateway("--dns", resolver, prefix=internet.enter(internet.host))
    try:
        gateway.start()
        url = internet.relay(gateway.address)
        gateway.outside = {"api_url": url, "sandbox_url": url, "api_key": KEY}
        yield gateway
    finally:
        gateway.remove()


class Internet:
    def __init__(self):
        tag = uuid.uuid4().hex[:6]
        self.host, self.world = f"copH{tag}", f"copW{tag}"
        self.running = []

    def __enter__(self):
        for space in (self.host, self.world):
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run(
            "ip",
            "-n",
            self.host,
            "link",
            "add",
            "up0",
            "type",
            "veth",
            "peer",
            "up0",
            "netns",
            self.world,
        )
        self._address(
            self.host,
            *(f"{address}/24" for address in HOST.values()),
            "169.254.169.1/16",
            "192.0.2.1/24",
        )
        self._address(
            self.world,
            f"{PUBLIC}/24",
            f"{OTHER}/24",
            f"{PRIVATE}/24",
            f"{RESOLVER}/24",
            f"{METADATA}/16",
        )
        # Where a real host has its way out; the wall must hold although everything is in reach.
        run("ip", "-n", self.host, "route", "add", "default", "via", PUBLIC)
        self.python(self.world, WEB, "the world", WEB_PORT)
        self.python(self.world, DNS, RESOLVER, PUBLIC)
        self.python(self.host, WEB, "the host", WEB_PORT)
        return self

    @staticmethod
    def _address(space, *addresses):
        for address in addresses:
            run("ip", "-n", space, "address", "add", address, "dev", "up0")
        run("ip", "-n", space, "link", "set", "up0", "up")

    def enter(self, space):
        """The words before a command that run it in a namespace. `ip netns exec` would mount
        another `/sys`, in which there are no cgroups."""
        return ["nsenter", f"--net=/run/netns/{space}"]

    def python(self, space, program, *arguments, pass_fds=()):
        """Starts a program in a namespace and waits until it says that it is up."""
        process = subprocess.Popen(
            [
                *self.enter(space),
                sys.executable,
                "-c",
                textwrap.dedent(program),
                *map(str, arguments),
            ],
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
        )
        self.running.append(process)
        assert process.stdout.readline() == b"up\n"

    def relay(self, address):
        """Opens a port out here that leads to an address in `host`; returns its URL."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.python(self.host, RELAY, listener.fileno(), *address, pass_fds=[listener.fileno()])
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def reaches(self, address, port=WEB_PORT):
        """Whether a connection can be made from `host` itself."""
        attempt = f"import socket; socket.create_connection(({address!r}, {port}), 3)"
        argv = [*self.enter(self.host), sys.executable, "-c", attempt]
        return subprocess.run(argv, stderr=subprocess.DEVNULL).returncode == 0

    def __exit__(self, *_):
        for process in self.running:
            process.kill()
            process.wait()
            process.stdout.close()
        for space in (self.host, self.world):
            if os.path.exists(Path("/run/netns") / space):
                run("ip", "netns", "delete", space)
