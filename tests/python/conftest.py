"""Fixtures: the gateway all tests share, sandboxes in it, and gateways of a test's own.

As root, with a release binary: `pytest tests/python` in an environment of `requirements.txt`, then
`pytest tests/python -m sdk` in one of `requirements-old.txt`. `COPPICE_BIN` names another binary.
"""

import importlib.metadata
import os
import shutil
import tempfile
import time
from pathlib import Path

import pytest
import pytest_asyncio
from e2b import AsyncSandbox, Sandbox

from gateway import KEY, Gateway
from hoststate import HostState, assert_back_to

pytest_plugins = ["recorder", "sdk", "probes"]
SDK = tuple(map(int, importlib.metadata.version("e2b").split(".")))
FIRST_BUILD = 600


def pytest_report_header():
    return f"e2b {'.'.join(map(str, SDK))}"


def warm(gateway):
    """One sandbox first: what a gateway opens once and keeps is not what a sandbox leaves."""
    with Sandbox.create(**gateway.opts) as sandbox:
        sandbox.commands.run("true")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows with a failure what the gateways of the test had to say."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            # One that failed at its very end has no log any more.
            if isinstance(value, Gateway) and value.base.exists():
                report.sections.append((f"end of the log of `{name}`", value.log_tail()))
    return report


@pytest.fixture(scope="session")
def host():
    """The clean environment every gateway of the run starts in."""
    assert os.geteuid() == 0, "these tests make real sandboxes and must run as root"
    for name in list(os.environ):
        if name.startswith("E2B_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"


@pytest.fixture(scope="session")
def gateway(host):
    """The gateway most tests share; what it leaves behind when it goes fails the run."""
    gateway = Gateway()
    before = HostState.of(gateway)
    try:
        gateway.start(patience=FIRST_BUILD)
        os.environ.update(E2B_API_URL=gateway.url, E2B_SANDBOX_URL=gateway.url, E2B_API_KEY=KEY)
        warm(gateway)
        yield gateway
        gateway.end()
        gateway.down()
        assert_back_to(before, gateway)
    finally:
        gateway.remove()


@pytest.fixture
def new_gateway(gateway):
    """Makes gateways that end with the test. The shared one has built their templates."""
    made = []

    def make(*flags, **options):
        made.append(Gateway(*flags, **options))
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def short_dir():
    """A directory whose path leaves room for sockets below it."""
    path = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def sandbox(gateway):
    sandbox = Sandbox.create(timeout=120)
    yield sandbox
    sandbox.kill()


@pytest_asyncio.fixture
async def async_sandbox(gateway):
    sandbox = await AsyncSandbox.create(timeout=120)
    yield sandbox
    await sandbox.kill()


@pytest.fixture
def sandboxes(gateway):
    """Makes sandboxes that end with the test, whatever became of them."""
    made = []

    def make(**options):
        made.append(Sandbox.create(**{"timeout": 120, **options}))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def http(gateway):
    with gateway.http() as client:
        yield client


@pytest.fixture
def sdk_since():
    """Skips a test of something that the SDK at hand does not have yet."""

    def check(*version):
        if SDK < version:
            pytest.skip(f"e2b {'.'.join(map(str, SDK))} does not have it")

    return check


@pytest.fixture
def eventually():
    """Waits until `condition()` holds and returns what it gave."""

    def wait(condition, timeout=5, every=0.05):
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not so within {timeout} s"
            time.sleep(every)
        return found

    return wait
