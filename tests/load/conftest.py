"""Fixtures: one gateway with room for 300 sandboxes, and a healthy client of it.

As root, with a release binary: `pytest tests/load` in the environment of `tests/python`.
"""

import json
import os
import resource
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "python")]

from gateway import KEY, Gateway  # noqa: E402
from hoststate import HostState, assert_back_to  # noqa: E402
from measure import Footprint, Healthy, assert_footprint_back_to  # noqa: E402
from wire import Sandbox, Wire  # noqa: E402

pytest_plugins = ["interpreter"]

MOST = 300
FIRST_BUILD = 1200
# For 16 Ki connections of the clients and some.
DESCRIPTORS = 18_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows with a failure what the gateway had to say."""
    report = yield
    gateway = item.funcargs.get("gateway")
    if report.failed and gateway and gateway.base.exists():
        report.sections.append(("end of the gateway's log", gateway.log_tail(20)))
    return report


class Load:
    """A gateway, and the sandboxes and connections a test made in it."""

    def __init__(self, gateway):
        self.gateway, self.pid = gateway, gateway.process.pid
        self.wires, self.made = [], []

    def wire(self, **options):
        """A connection that is closed with the test."""
        wire = Wire(self.gateway.address, **options)
        self.wires.append(wire)
        return wire

    def sandbox(self, **more):
        made = create(self.gateway, **more)
        self.made.append(made)
        return made

    def hang_up(self):
        while self.wires:
            self.wires.pop().close()

    def end(self):
        self.hang_up()
        with Wire(self.gateway.address) as wire:
            for sandbox in self.made:
                assert kill(wire, sandbox) in (204, 404)


def create(gateway, **more):
    body = json.dumps({"templateID": "base", "timeout": 600, **more}).encode()
    with Wire(gateway.address) as wire:
        status, body = wire.ask("POST", "/sandboxes", body, **{"X-API-Key": KEY})
    assert status == 201, (status, body)
    made = json.loads(body)
    return Sandbox(made["sandboxID"], made["envdAccessToken"])


def kill(wire, sandbox):
    return wire.ask("DELETE", f"/sandboxes/{sandbox.id}", **{"X-API-Key": KEY})[0]


@pytest.fixture(scope="session")
def gateway():
    """The gateway of all tests; what it or its sandboxes have left at the end fails the run."""
    assert os.geteuid() == 0, "these tests make real sandboxes and must run as root"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        hard = max(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    gateway = Gateway("--max-sandboxes", str(MOST))
    before = HostState.of(gateway)
    try:
        gateway.start(patience=FIRST_BUILD)
        warm(gateway)
        start = Footprint.of(gateway.process.pid)
        yield gateway
        assert_footprint_back_to(start, gateway.process.pid)
        gateway.end()
        gateway.down()
        assert_back_to(before, gateway)
    finally:
        gateway.remove()


def warm(gateway):
    """What a gateway opens once and keeps is not what a load leaves."""
    sandbox = create(gateway)
    with Wire(gateway.address) as wire:
        wire.start(sandbox, "/bin/true").end()
        kill(wire, sandbox)


@pytest.fixture
def load(gateway):
    """For one test; what it leaves on the host or open in the gateway fails it."""
    load = Load(gateway)
    start = HostState.of(gateway)
    yield load
    load.end()
    assert_back_to(start, gateway, timeout=30)


@pytest.fixture
def healthy(load):
    """A healthy client that has taken its quiet values."""
    client = Healthy(load.gateway, load.sandbox())
    try:
        client.rest()
        yield client
        load.hang_up()
        client.settle()
    finally:
        client.close()
