"""What a network policy leaves of an internet made of network namespaces."""

import contextlib
import json
import subprocess
import threading
import time

import httpx
import pytest
from e2b import Sandbox, SandboxException

from gateway import KEY
from network import HOST, METADATA, NAME, OTHER, PRIVATE, PUBLIC, RESOLVER, WEB_PORT, gateway_in
from test_egress import default_router, fetch, own_address

pytestmark = [
    pytest.mark.local("makes an internet of its own, and a gateway in it"),
    pytest.mark.plain("what leaves a sandbox"),
]
ALL = "0.0.0.0/0"
OF_ONE = ("allowed", "denied", "answered", "led", "named")
# Until the rules are looked at again.
GUARD = 10


@pytest.fixture(scope="module")
def fenced(internet, gateway):
    with gateway_in(internet, RESOLVER) as fenced:
        yield fenced


@pytest.fixture
def create(fenced):
    made = []

    def create(**options):
        made.append(Sandbox.create(timeout=120, **options, **fenced.outside))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.kill()


def elements(internet):
    """What the packet filter has of single sandboxes, by the set or map."""
    listed = subprocess.run(
        [*internet.enter(internet.host), "nft", "-j", "list", "table", "inet", "coppice"],
        check=True,
        capture_output=True,
    )
    entries = json.loads(listed.stdout)["nftables"]
    found = [entry.get("set") or entry.get("map") for entry in entries]
    return {one["name"]: one.get("elem", []) for one in found if one and one["name"] in OF_ONE}


def test_what_is_denied_is_closed_and_all_else_is_open(create):
    sandbox = create(network={"deny_out": [f"{OTHER}/24"]})
    assert fetch(sandbox, OTHER) is None
    assert fetch(sandbox, PUBLIC) == "hello from the world"
    assert fetch(sandbox, NAME) == "hello from the world"
    assert sandbox.get_info().network == {"deny_out": [f"{OTHER}/24"]}


def test_what_is_allowed_is_open_though_all_is_denied(create):
    sandbox = create(network={"allow_out": [PUBLIC], "deny_out": [ALL]})
    assert fetch(sandbox, PUBLIC) == "hello from the world"
    assert fetch(sandbox, OTHER) is None


def test_without_internet_but_for_one_address(create):
    sandbox = create(allow_internet_access=False, network={"allow_out": [PUBLIC]})
    assert fetch(sandbox, PUBLIC) == "hello from the world"
    assert fetch(sandbox, OTHER) is None
    assert sandbox.get_info().allow_internet_access is False


def test_an_allowance_alone_changes_nothing(create):
    sandbox = create(network={"allow_out": [PUBLIC]})
    assert fetch(sandbox, OTHER) == "hello from the world"


def test_what_nobody_may_reach_stays_closed_whatever_is_allowed(internet, create):
    closed = [PRIVATE, METADATA, HOST["public"], HOST["private"]]
    sandbox = create(network={"allow_out": ["0.0.0.0/0", *closed], "deny_out": [ALL]})
    assert fetch(sandbox, PUBLIC) is not None
    for target in [*closed, default_router(sandbox)]:
        assert internet.reaches(target), "the target is not up, so nothing would be proved"
        assert fetch(sandbox, target) is None


def test_a_neighbour_stays_closed_whatever_is_allowed(create):
    neighbour = create()
    neighbour.commands.run(
        f"python3 -m http.server {WEB_PORT} --bind 0.0.0.0 --directory /etc",
        background=True,
        timeout=0,
    )
    address = own_address(neighbour)
    up = f"curl -s --max-time 1 http://{address}:{WEB_PORT}/ >/dev/null"
    neighbour.commands.run(f"until {up}; do sleep 0.1; done", timeout=10)
    sandbox = create(network={"allow_out": [address, PUBLIC], "deny_out": [ALL]})
    assert fetch(sandbox, address) is None
    assert fetch(sandbox, PUBLIC) is not None


def test_the_resolver_is_denied_with_all_else(create):
    sandbox = create(network={"allow_out": [PUBLIC], "deny_out": [ALL]})
    for protocol in ("udp", "tcp"):
        asked = f"timeout 2 bash -c 'echo x >/dev/{protocol}/{RESOLVER}/53' && echo sent"
        if protocol == "tcp":
            assert "sent" not in sandbox.commands.run(f"{asked} || true").stdout
    resolved = sandbox.commands.run(f"timeout 3 getent hosts {NAME} || echo unknown")
    assert resolved.stdout == "unknown\n"


def test_a_change_is_in_force_when_it_is_answered(create):
    sandbox = create()
    for network, public, other in [
        ({"deny_out": [PUBLIC]}, False, True),
        ({"deny_out": [ALL], "allow_out": [PUBLIC]}, True, False),
        ({"allow_internet_access": False}, False, False),
        ({"deny_out": [OTHER]}, True, False),
        ({}, True, True),
    ]:
        sandbox.update_network(network)
        assert (fetch(sandbox, PUBLIC) is not None) == public, network
        assert (fetch(sandbox, OTHER) is not None) == other, network


def test_a_connection_that_is_open_is_cut_when_it_is_denied(internet, create):
    sandbox = create()
    stream = f"""
import socket, time
one = socket.create_connection(({PUBLIC!r}, {WEB_PORT}), 5)
print("open", flush=True)
while True:
    one.send(b"x")
    one.setsockopt(socket.IPPROTO_TCP, 18, 1000)  # TCP_USER_TIMEOUT
    time.sleep(0.05)
"""
    sandbox.files.write("/tmp/stream.py", stream)
    ended = threading.Event()
    running = sandbox.commands.run("python3 -u /tmp/stream.py", background=True, timeout=0)

    def follow():
        try:
            running.wait()
        except Exception:
            ended.set()

    next(iter(running))
    threading.Thread(target=follow, daemon=True).start()
    assert not ended.wait(2), "it goes on as long as nobody denies it"
    sandbox.update_network({"deny_out": [PUBLIC]})
    assert ended.wait(15), "what is sent is not acknowledged any more"


def test_one_made_without_a_network_is_given_one_and_loses_it_again(create):
    sandbox = create(allow_internet_access=False)
    assert fetch(sandbox, PUBLIC) is None
    sandbox.update_network({"deny_out": [OTHER]})
    assert fetch(sandbox, PUBLIC) == "hello from the world"
    assert fetch(sandbox, NAME) == "hello from the world"
    assert fetch(sandbox, OTHER) is None
    assert fetch(sandbox, METADATA) is None
    sandbox.update_network({"allow_internet_access": False})
    assert fetch(sandbox, PUBLIC) is None


def test_a_policy_outlives_a_pause_and_its_processes(create):
    sandbox = create(network={"allow_out": [PUBLIC], "deny_out": [ALL]})
    for keep_memory in (True, False):
        sandbox.pause(keep_memory=keep_memory)
        with pytest.raises(SandboxException, match="409"):
            sandbox.update_network({})
        sandbox.connect(timeout=120)
        assert fetch(sandbox, PUBLIC) == "hello from the world"
        assert fetch(sandbox, OTHER) is None


def test_a_policy_outlives_the_gateway(fenced, create):
    sandbox = create(network={"deny_out": [PUBLIC]})
    changed = create()
    changed.update_network({"deny_out": [OTHER]})
    fenced.end()
    fenced.start()
    assert fetch(sandbox, PUBLIC) is None and fetch(sandbox, OTHER) is not None
    assert fetch(changed, PUBLIC) is not None and fetch(changed, OTHER) is None
    assert changed.get_info().network == {"deny_out": [OTHER]}
    changed.update_network({})
    assert fetch(changed, OTHER) is not None


def test_what_is_refused_is_counted(fenced, create, eventually):
    def refused():
        with httpx.Client(trust_env=False, headers={"X-API-Key": KEY}) as http:
            text = http.get(f"{fenced.outside['api_url']}/metrics").raise_for_status().text
        [line] = [it for it in text.splitlines() if 'coppice_denied_total{reason="egress"}' in it]
        return float(line.split()[-1])

    before = refused()
    sandbox = create(network={"deny_out": [PUBLIC]})
    assert fetch(sandbox, PUBLIC) is None
    eventually(lambda: refused() > before, timeout=GUARD)


def test_a_copy_may_reach_no_more(create):
    sandbox = create(network={"deny_out": [PUBLIC]})
    copy = sandbox.fork(timeout=60)[0]
    try:
        assert fetch(copy, PUBLIC) is None and fetch(copy, OTHER) is not None
    finally:
        copy.kill()


def test_nothing_is_left_of_a_policy_and_others_have_none(internet, create, eventually):
    sandbox = create(network={"allow_out": [PUBLIC], "deny_out": [ALL]})
    address = own_address(sandbox)
    assert address in json.dumps(elements(internet))
    plain = create()
    assert own_address(plain) not in json.dumps(elements(internet))
    sandbox.kill()
    eventually(lambda: address not in json.dumps(elements(internet)), timeout=GUARD)


def test_a_policy_is_back_soon_when_somebody_flushes_the_rules(internet, create, eventually):
    sandbox = create(network={"allow_out": [PUBLIC], "deny_out": [ALL]})
    subprocess.run([*internet.enter(internet.host), "nft", "flush", "ruleset"], check=True)

    def denied():
        with contextlib.suppress(subprocess.CalledProcessError):
            return elements(internet).get("denied")

    eventually(denied, timeout=GUARD)
    assert fetch(sandbox, OTHER) is None
    assert fetch(sandbox, PUBLIC) is not None
