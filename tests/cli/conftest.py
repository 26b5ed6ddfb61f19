"""Fixtures: one gateway, and `@e2b/cli` as `npm ci` in this directory installs it.

As root, with a release binary: `pytest tests/cli` in the environment of tests/python.
"""

import json
import os
import time

import pytest

from gateway import KEY, Gateway
from program import PACKAGE, Cli
from record import Record

FIRST_BUILD = 600

pytest_plugins = ["recorder"]


@pytest.fixture(scope="session")
def gateway():
    assert os.geteuid() == 0, "these tests make real sandboxes and must run as root"
    gateway = Gateway()
    try:
        yield gateway.start(patience=FIRST_BUILD)
    finally:
        gateway.remove()


@pytest.fixture(scope="session")
def record(pytestconfig, tmp_path_factory):
    if (name := pytestconfig.getoption("--compat")) is None:
        return None
    version = json.loads((PACKAGE / "package.json").read_text())["version"]
    record = Record(name, "@e2b/cli", version)
    record.surface = list(Cli(tmp_path_factory.mktemp("home"), {}).commands())
    pytestconfig.recorder.records.append(record)
    return record


@pytest.fixture(scope="session")
def cli(gateway, record, tmp_path_factory):
    env = {"E2B_API_KEY": KEY, "E2B_API_URL": gateway.url, "E2B_SANDBOX_URL": gateway.url}
    return Cli(tmp_path_factory.mktemp("home"), env, record)


@pytest.fixture
def sandbox(gateway):
    """The id of a sandbox that ends with the test."""
    with gateway.http() as http:
        id = http.post("/v2/sandboxes", json={"templateID": "base"}).json()["sandboxID"]
        yield id
        http.delete(f"/sandboxes/{id}")


@pytest.fixture
def eventually():
    """Waits until `condition()` holds and returns what it gave."""

    def wait(condition, timeout=20):
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not so within {timeout} s"
            time.sleep(0.1)
        return found

    return wait
