"""What a sandbox can reach, tried on an internet made of network namespaces."""

import httpx
import pytest
from e2b import Sandbox

from hoststate import HostState, assert_back_to
from inside import serve
from network import HOST, METADATA, NAME, PRIVATE, PUBLIC, RESOLVER, WEB_PORT, gateway_in

pytestmark = [
    pytest.mark.local("makes an internet of its own, and a gateway in it"),
    pytest.mark.plain("what leaves a sandbox"),
]

CLOSED = {
    "a private address": PRIVATE,
    "the metadata service": METADATA,
    "the host's public address": HOST["public"],
    "the host's private address": HOST["private"],
}


@pytest.fixture(scope="module")
def fenced(internet, gateway):
    with gateway_in(internet, RESOLVER) as fenced:
        # The packet filter of the namespace stays while another gateway lives on the host.
        before = HostState.of(fenced)
        yield fenced
        fenced.end()
        fenced.down()
        assert_back_to(before, fenced)


@pytest.fixture
def nat(fenced):
    with Sandbox.create(timeout=120, **fenced.outside) as sandbox:
        yield sandbox


@pytest.fixture
def sealed(fenced):
    with Sandbox.create(timeout=120, allow_internet_access=False, **fenced.outside) as sandbox:
        yield sandbox


def fetch(sandbox, target, port=WEB_PORT):
    """What a web server says to a sandbox; None when it cannot be reached."""
    asked = f"curl -s --noproxy '*' --max-time 2 http://{target}:{port}/ || echo unreachable"
    said = sandbox.commands.run(asked).stdout
    return None if said.endswith("unreachable\n") else said


def own_address(sandbox):
    """The address a sandbox sends from."""
    script = (
        f"import socket as s; c = s.socket(s.AF_INET, s.SOCK_DGRAM); c.connect(('{PUBLIC}', 9))"
    )
    return sandbox.commands.run(f'python3 -c "{script}; print(c.getsockname()[0])"').stdout.strip()


def default_router(sandbox):
    """The host's end of a sandbox's link."""
    routes = sandbox.commands.run("cat /proc/net/route").stdout.splitlines()[1:]
    hexadecimal = next(fields[2] for fields in map(str.split, routes) if fields[1] == "00000000")
    return ".".join(str(part) for part in reversed(bytes.fromhex(hexadecimal)))


def test_the_public_internet_is_reached_by_address_and_by_name(nat):
    assert fetch(nat, PUBLIC) == "hello from the world"
    assert fetch(nat, NAME) == "hello from the world"
    assert RESOLVER in nat.commands.run("cat /etc/resolv.conf").stdout


@pytest.mark.parametrize("what", CLOSED)
def test_what_is_not_public_is_closed(internet, nat, what):
    assert internet.reaches(CLOSED[what]), "the target is not up, so nothing would be proved"
    assert fetch(nat, CLOSED[what]) is None
    assert fetch(nat, PUBLIC) is not None


def test_the_hosts_end_of_the_link_is_closed(internet, nat):
    router = default_router(nat)
    assert internet.reaches(router), "the target is not up, so nothing would be proved"
    assert fetch(nat, router) is None


def test_root_with_a_route_of_its_own_gets_no_further(internet, nat):
    router = default_router(nat)
    for target in (PRIVATE, METADATA, HOST["private"]):
        nat.commands.run(f"ip route add {target} via {router} 2>&1 || true", user="root")
        assert internet.reaches(target)
        assert fetch(nat, target) is None


def test_the_gateway_itself_is_closed(fenced, nat):
    assert fetch(nat, default_router(nat), fenced.address[1]) is None
    assert fetch(nat, HOST["public"], fenced.address[1]) is None


def test_sandboxes_cannot_reach_each_other(fenced, nat):
    listener = f"python3 -m http.server {WEB_PORT} --bind 0.0.0.0 --directory /etc"
    with Sandbox.create(timeout=60, **fenced.outside) as other:
        other.commands.run(listener, background=True, timeout=0)
        address = own_address(other)
        up = f"curl -s --max-time 1 http://{address}:{WEB_PORT}/ >/dev/null"
        other.commands.run(f"until {up}; do sleep 0.1; done", timeout=10)
        assert address != own_address(nat)
        assert fetch(nat, address) is None


def test_a_sandbox_without_internet_reaches_nothing(sealed):
    for target in (PUBLIC, NAME, RESOLVER, *CLOSED.values()):
        assert fetch(sealed, target) is None
    links = sealed.commands.run("tail -n +3 /proc/net/dev | cut -d: -f1").stdout.split()
    assert links == ["lo"]
    assert sealed.get_info().allow_internet_access is False


def test_ports_are_served_without_internet_too(fenced, sealed):
    serve(sealed, 8080)
    routing = {"E2b-Sandbox-Id": sealed.sandbox_id, "E2b-Sandbox-Port": "8080"}
    answer = httpx.get(fenced.outside["api_url"], headers=routing, trust_env=False)
    assert answer.status_code == 200


def test_the_loopback_of_a_sandbox_is_its_own(internet, nat):
    assert internet.reaches("127.0.0.1")
    assert fetch(nat, "127.0.0.1") is None
