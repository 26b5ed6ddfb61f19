"""What a network policy of names leaves of an internet made of network namespaces."""

import pytest
from e2b import Sandbox

from names import ALIAS, REBOUND, SERVER, Names, policy
from network import HOST, OTHER, PRIVATE, PUBLIC, WEB_PORT, gateway_in
from test_egress import fetch, own_address
from test_egress_policy import GUARD, elements

pytestmark = [
    pytest.mark.local("makes an internet of its own, and a gateway in it"),
    pytest.mark.plain("what leaves a sandbox"),
]

# One question by hand, to any server: its outcome and the addresses of the answer.
ASK = """
import random, socket, struct, sys
def ask(server, name, kind=1, tcp=False):
    id = random.randrange(1 << 16)
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    query = struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 1)
    if tcp:
        with socket.create_connection((server, 53), 3) as one:
            one.sendall(struct.pack(">H", len(query)) + query)
            answer = one.recv(4096)[2:]
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(3)
            one.sendto(query, (server, 53))
            answer = one.recv(4096)
    assert struct.unpack(">H", answer[:2])[0] == id
    count = struct.unpack(">H", answer[6:8])[0]
    at, addresses = len(query), []
    for _ in range(count):
        addresses.append(socket.inet_ntoa(answer[at + 12 : at + 16]))
        at += 16
    return answer[3] & 15, addresses
try:
    print(*ask(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "tcp"))
except OSError as error:
    print("unanswered", error)
"""
FOUND, NO_SUCH_NAME, REFUSED = 0, 3, 5
A, TXT, AAAA = 1, 16, 28


@pytest.fixture(scope="module")
def names(internet, tmp_path_factory):
    with Names(internet, tmp_path_factory.mktemp("names")) as names:
        yield names


@pytest.fixture(scope="module")
def fenced(internet, names, gateway):
    with gateway_in(internet, SERVER) as fenced:
        yield fenced


@pytest.fixture(scope="module")
def sandbox(fenced):
    """One that may reach two names, an alias, and all below a third."""
    network = policy("a.test", REBOUND, ALIAS, "*.below.test")
    with Sandbox.create(timeout=300, network=network, **fenced.outside) as sandbox:
        sandbox.files.write("/tmp/ask.py", ASK)
        yield sandbox


def ask(sandbox, name, kind=A, server=SERVER, by="udp"):
    said = sandbox.commands.run(f"python3 /tmp/ask.py {server} {name} {kind} {by}").stdout
    outcome, _, addresses = said.strip().partition(" ")
    return int(outcome), addresses


def curl(sandbox, url, *options):
    """What a web server says; None when it says nothing."""
    asked = " ".join(["curl -sk --noproxy '*' --max-time 5", *options, f"'{url}'"])
    said = sandbox.commands.run(f"{asked} || echo unreachable").stdout
    return None if said.endswith("unreachable\n") else said


def test_a_name_is_reached_and_its_address_only_once_it_was_asked_for(fenced, sandbox):
    with Sandbox.create(timeout=60, network=policy("a.test"), **fenced.outside) as fresh:
        assert fetch(fresh, PUBLIC) is None
        assert fetch(fresh, "a.test") == "hello from the world"
        assert fetch(fresh, PUBLIC) == "hello from the world"
        assert fetch(fresh, OTHER) is None
    assert fetch(sandbox, OTHER) is None, "what one has asked for opens nothing to another"


def test_what_is_below_a_name_is_reached_and_what_it_is_an_alias_of(sandbox):
    assert fetch(sandbox, "deep.below.test") == "hello from the world"
    assert fetch(sandbox, ALIAS) == "hello from the world"
    assert ask(sandbox, "below.test") == (REFUSED, "[]")


@pytest.mark.parametrize("by", ["udp", "tcp"])
def test_other_names_are_refused_and_nobody_hears_of_them(names, sandbox, by):
    for name in ("b.test", f"secret-{by}.b.test", f"secret-{by}.a.test", "a.test.b.test"):
        assert ask(sandbox, name, by=by) == (REFUSED, "[]")
    assert ask(sandbox, "a.test", by=by) == (FOUND, f"['{PUBLIC}']")
    assert not names.asked("secret") and not names.asked("b.test")


def test_of_a_name_nothing_but_addresses_is_told_or_asked(names, sandbox):
    for kind in (TXT, AAAA, 255):
        assert ask(sandbox, "a.test", kind) == (FOUND, "[]")
    assert not names.asked("query[TXT]") and not names.asked("query[AAAA]")
    # Nor in what letters.
    assert ask(sandbox, "A.tEsT") == (FOUND, f"['{PUBLIC}']")
    assert not names.asked("A.tEsT")


def test_a_name_that_is_not_there_is_not_there(sandbox):
    assert ask(sandbox, "nothing.below.test")[0] == NO_SUCH_NAME


def test_an_allowed_name_leads_nowhere_that_is_closed(internet, sandbox):
    assert internet.reaches(PRIVATE), "the target is not up, so nothing would be proved"
    assert ask(sandbox, REBOUND) == (FOUND, "[]")
    assert fetch(sandbox, REBOUND) is None
    assert curl(sandbox, f"http://{REBOUND}/") is None
    assert curl(sandbox, f"http://{HOST['public']}/", "-H 'Host: a.test'") == "this is a.test"


@pytest.mark.parametrize("by", ["udp", "tcp"])
def test_other_resolvers_are_not_reached(names, sandbox, by):
    for server in (PUBLIC, OTHER, "8.8.8.8"):
        assert ask(sandbox, "a.test", server=server, by=by) == (FOUND, f"['{PUBLIC}']")
        assert ask(sandbox, f"elsewhere-{by}.b.test", server=server, by=by) == (REFUSED, "[]")
    assert not names.asked("elsewhere")


def test_a_web_server_is_reached_by_an_allowed_name_alone(sandbox):
    """Though others have the same address."""
    for scheme, port in (("http", 80), ("https", 443)):
        assert curl(sandbox, f"{scheme}://a.test/") == "this is a.test"
        shared = f"--resolve b.test:{port}:{PUBLIC}"
        assert curl(sandbox, f"{scheme}://b.test/", shared) is None
        assert curl(sandbox, f"{scheme}://{PUBLIC}/") is None
        # Whatever address it was for, it comes to one of the name's.
        stray = f"--resolve a.test:{port}:{PRIVATE}"
        assert curl(sandbox, f"{scheme}://a.test/", stray) == "this is a.test"


def test_quic_is_closed(sandbox):
    assert fetch(sandbox, "a.test") is not None, "its address is open"
    echo = f"""
import socket
def echoes(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(1)
        try:
            one.connect(("{PUBLIC}", port))
            one.send(b"x")
            return one.recv(9) == b"x"
        except OSError:
            return False
print(echoes(444), echoes(443))
"""
    sandbox.files.write("/tmp/echo.py", echo)
    assert sandbox.commands.run("python3 /tmp/echo.py").stdout == "True False\n"


def test_an_address_of_the_list_is_open_as_it_is(fenced):
    network = {"allow_out": ["a.test", OTHER], "deny_out": ["0.0.0.0/0"]}
    with Sandbox.create(timeout=60, network=network, **fenced.outside) as both:
        assert fetch(both, OTHER) == "hello from the world"
        assert curl(both, f"https://{OTHER}/", "-H 'Host: x'") is not None
        assert curl(both, f"http://{PUBLIC}/") is None


def test_a_name_that_is_taken_back_is_closed_with_all_it_has_led_to(fenced):
    with Sandbox.create(timeout=60, network=policy("a.test"), **fenced.outside) as one:
        assert fetch(one, "a.test") is not None
        one.update_network(policy("a.test", "deep.below.test"))
        assert fetch(one, PUBLIC) is not None, "what is still allowed stays open"
        one.update_network(policy("deep.below.test"))
        assert fetch(one, PUBLIC) is None and fetch(one, "a.test") is None
        assert curl(one, "http://a.test/", f"--resolve a.test:80:{PUBLIC}") is None
        assert fetch(one, "deep.below.test") is not None
        one.update_network({})
        assert fetch(one, PUBLIC) is not None and fetch(one, "b.test") is not None


def test_nothing_is_left_of_names_when_their_sandbox_ends(internet, fenced, eventually):
    with Sandbox.create(timeout=60, network=policy("a.test"), **fenced.outside) as one:
        assert fetch(one, "a.test") is not None
        address = own_address(one)
        there = elements(internet)
        assert all(address in str(there[name]) for name in ("denied", "answered", "led", "named"))
    eventually(lambda: address not in str(elements(internet)), timeout=GUARD)


def test_names_outlive_the_gateway(fenced):
    with Sandbox.create(timeout=60, network=policy("a.test"), **fenced.outside) as one:
        fenced.end()
        fenced.start()
        assert fetch(one, "a.test") == "hello from the world"
        assert fetch(one, "b.test") is None
        assert curl(one, "https://a.test/") == "this is a.test"


def test_who_names_servers_has_those_asked(fenced):
    network = policy("a.test") | {"dns_servers": [PUBLIC]}
    with Sandbox.create(timeout=60, network=network, **fenced.outside) as one:
        # Nothing answers there.
        assert curl(one, "http://a.test/") is None
        one.update_network(policy("a.test") | {"dns_servers": []})
        assert fetch(one, "a.test", WEB_PORT) is None
        one.update_network(policy("a.test"))
        assert curl(one, "http://a.test/") == "this is a.test"
