"""Names, and who answers to them, in the small internet of `network`: a resolver (dnsmasq), and web
servers that say by which name they were asked, with TLS and without."""

import subprocess
import time

from network import OTHER, PRIVATE, PUBLIC, WEB_PORT

NAMES = {"a.test": PUBLIC, "b.test": OTHER, "shared.test": PUBLIC, "deep.below.test": OTHER}
# An allowed name that leads to where nobody may go.
REBOUND = "rebound.a.test"
ALIAS = "alias.test"
SERVER = "10.99.0.54"

# Tells by which name it was asked. By TLS that is in the handshake.
WEB = """
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        name = getattr(self.connection, "asked", None) or self.headers["Host"] or "nobody"
        body = b"this is " + name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    def asked(connection, name, _):
        connection.asked = name
    context.sni_callback = asked
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("up", flush=True)
server.serve_forever()
"""

# Sends back what it gets.
ECHO = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", int(sys.argv[1])))
print("up", flush=True)
while True:
    data, client = server.recvfrom(2048)
    server.sendto(data, client)
"""


class Names:
    """In the `world` of an internet."""

    def __init__(self, internet, directory):
        self.internet, self.log = internet, directory / "dns.log"
        self.certificate = directory / "server.pem"

    def __enter__(self):
        world = self.internet.world
        subprocess.run(
            ["ip", "-n", world, "address", "add", f"{SERVER}/24", "dev", "up0"], check=True
        )
        records = [f"--host-record={name},{address}" for name, address in NAMES.items()]
        records += [f"--host-record={REBOUND},{PRIVATE}", f"--cname={ALIAS},shared.test"]
        argv = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--no-daemon"]
        argv += [f"--listen-address={SERVER}", "--bind-interfaces", "--conf-file=/dev/null"]
        argv += ["--local=/test/", "--local-ttl=1", "--log-queries", f"--log-facility={self.log}"]
        self.dns = subprocess.Popen(
            [*self.internet.enter(world), *argv, *records],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
            + ["-nodes", "-keyout", self.certificate, "-out", f"{self.certificate}.crt"]
            + ["-subj", "/CN=anybody", "-days", "1"],
            check=True,
            capture_output=True,
        )
        with open(self.certificate, "a") as both, open(f"{self.certificate}.crt") as certificate:
            both.write(certificate.read())
        self.internet.python(world, WEB, 80)
        self.internet.python(world, WEB, 443, self.certificate)
        for port in (443, 444):
            self.internet.python(world, ECHO, port)
        deadline = time.monotonic() + 10
        while not (self.log.exists() and "started" in self.log.read_text()):
            assert self.dns.poll() is None and time.monotonic() < deadline, "no resolver"
            time.sleep(0.05)
        return self

    def asked(self, text):
        """Whether the resolver out there was ever asked for something with that in it."""
        return text in self.log.read_text()

    def __exit__(self, *_):
        self.dns.kill()
        self.dns.wait()


def policy(*names):
    return {"allow_out": list(names), "deny_out": ["0.0.0.0/0"]}


def web(name, port=WEB_PORT):
    return f"http://{name}:{port}/"
