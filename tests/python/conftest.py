"""Fixtures: the gateway all tests share, sandboxes in it, and gateways of a test's own.

As root, with a release binary: `pytest tests/python` in an environment of `requirements.txt`, then
`pytest tests/python --tls` in the same, and `pytest tests/python -m sdk` in one of
`requirements-old.txt`. `COPPICE_BIN` names another binary, `COPPICE_TEST_TEMPLATES` another place of templates.

With `COPPICE_TEST_URL`, and `COPPICE_TEST_API_KEY` where it has keys, the gateway there is tested,
wherever it runs, by anybody: nothing is started, and what takes a gateway of one's own, a look at
its host, or a Linux kernel below the sandboxes is skipped, with the reason. `COPPICE_TEST_SANDBOX_URL`
is for one whose sandboxes are reached elsewhere.
"""

import importlib.metadata
import os
import resource
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import pytest_asyncio
from e2b import AsyncSandbox, Sandbox

from domain import Domain
from gateway import Gateway, Remote
from hoststate import HostState, assert_back_to, processes_of
from network import Internet

pytest_plugins = ["recorder", "sdk", "probes", "interpreter"]
SDK = tuple(map(int, importlib.metadata.version("e2b").split(".")))
FIRST_BUILD = 1200
# The gateway that the environment names, if it does.
REMOTE = Remote.of_environment()
# What a test that asks for them does to its own machine.
LOCAL_FIXTURES = {
    "new_gateway": "starts gateways of its own",
    "fanout": "starts a gateway with a pool of its own",
    "memory": "looks at the gateway's processes",
}


def pytest_addoption(parser):
    told = "by TLS all whose transport matters, with an SDK that is given E2B_DOMAIN alone"
    parser.addoption("--tls", action="store_true", help=told)


def pytest_configure(config):
    config.domain, config.left_out = None, Counter()
    if config.getoption("tls"):
        if REMOTE:
            raise pytest.UsageError("--tls has a gateway and names of its own: no COPPICE_TEST_URL")
        config.domain = Domain()
        config.domain.enter()
        # Each sandbox has a host of its own there, and the SDK keeps a connection to each.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def pytest_unconfigure(config):
    if config.domain:
        config.domain.remove()


def pytest_report_header(config):
    how = f"E2B_DOMAIN={config.domain.given}" if config.domain else "E2B_API_URL"
    where = f", {REMOTE.url}" if REMOTE else ""
    return f"e2b {'.'.join(map(str, SDK))} by {how}{where}"


def pytest_collection_modifyitems(config, items):
    """With `--tls` all but what is marked `plain`, without it all but what is marked `tls`."""
    kept, other = [], []
    for item in items:
        mark = item.get_closest_marker("plain" if config.domain else "tls")
        (other if mark else kept).append(item)
        if mark and config.domain:
            config.left_out[mark.args[0]] += 1
    items[:] = kept
    config.hook.pytest_deselected(items=other)
    if REMOTE:
        for item in items:
            if why := local(item):
                item.add_marker(pytest.mark.skip(reason=f"not remotely: {why}"))


def pytest_terminal_summary(terminalreporter, config):
    """What of the list was not tried over TLS, and why."""
    for why, count in sorted(config.left_out.items()):
        terminalreporter.write_line(f"{count:4} not by TLS: {why}")


def local(item):
    """Why a test needs the gateway to be its own, if it does."""
    if mark := item.get_closest_marker("local"):
        return mark.args[0]
    fixtures = LOCAL_FIXTURES.keys() & set(item.fixturenames)
    return "; ".join(LOCAL_FIXTURES[name] for name in sorted(fixtures))


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
    why = "these tests make real sandboxes and must run as root"
    assert REMOTE or os.geteuid() == 0, why
    for name in list(os.environ):
        foreign = ("E2B_", "SSL_CERT_", "NODE_EXTRA_CA_CERTS")
        if name.startswith(foreign) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ["NO_PROXY"] = "*" if REMOTE else "127.0.0.1,localhost"


@pytest.fixture(scope="session")
def gateway(host, pytestconfig):
    """The gateway most tests share; what it leaves behind when it goes fails the run."""
    if REMOTE:
        os.environ.update(REMOTE.settings)
        before = REMOTE.ids()
        yield REMOTE
        left = REMOTE.ids() - before
        assert not left, f"sandboxes left over: {left}"
        return
    # The log then has a line for every handshake.
    env = {"COPPICE_LOG_LEVEL": "debug"} if pytestconfig.domain else {}
    gateway = Gateway(env=env, domain=pytestconfig.domain)
    before = HostState.of(gateway)
    try:
        gateway.start(patience=FIRST_BUILD)
        os.environ.update(gateway.settings)
        warm(gateway)
        yield gateway
        gateway.end()
        gateway.down()
        assert_back_to(before, gateway)
    finally:
        gateway.remove()


@pytest.fixture(scope="session")
def system(gateway):
    """What `uname` says in a sandbox."""
    if not REMOTE:
        return os.uname().sysname
    with Sandbox.create(timeout=60, **gateway.opts) as sandbox:
        return sandbox.commands.run("uname -s").stdout.strip()


@pytest.fixture(autouse=True)
def on_its_system(request):
    """Skips what is only so on Linux where sandboxes are of another system."""
    if mark := request.node.get_closest_marker("linux"):
        found = request.getfixturevalue("system")
        if found != "Linux":
            pytest.skip(f"not on {found}: {mark.args[0]}")


@pytest.fixture
def new_gateway(gateway, pytestconfig):
    """Makes gateways that end with the test, reached as the shared one is. That has built their
    templates."""
    made = []

    def make(*flags, **options):
        if pytestconfig.domain:
            options.setdefault("domain", pytestconfig.domain.another())
        made.append(Gateway(*flags, **options))
        return made[-1]

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def building(new_gateway, tmp_path):
    """A gateway whose first template is never done, and what its builder is known by."""
    mark = f"600.{os.getpid()}"
    builder = tmp_path / "mmdebstrap"
    builder.write_text(
        f"#!/bin/sh\necho 'I: downloading packages...' >&2\nexec sleep {mark}\n"
    )
    builder.chmod(0o755)
    gateway = new_gateway(
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"}, templates=tmp_path / "templates"
    )
    gateway.spawn()
    return gateway, mark


@pytest.fixture
def short_dir():
    """A directory whose path leaves room for sockets below it."""
    path = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def loop_disk(short_dir):
    """Makes a small file system, at a short path, that is there until the test ends."""
    mounts = []

    def make(megabytes):
        image, mount = short_dir / f"image{len(mounts)}", short_dir / f"m{len(mounts)}"
        mount.mkdir()
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        subprocess.run(["mkfs.ext4", "-qF", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        mounts.append(mount)
        return mount

    yield make
    for mount in mounts:
        subprocess.run(["umount", mount], check=True)


@pytest.fixture
def sandbox(gateway):
    sandbox = Sandbox.create(timeout=120)
    yield sandbox
    sandbox.kill()


@pytest.fixture(scope="module")
def interpreter(interpreter_template):
    """A sandbox with kernels, for all tests of a file: its default ones take a while to start."""
    sandbox = pytest.importorskip("e2b_code_interpreter").Sandbox.create(timeout=600)
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


class Memory:
    """How much more memory some processes need than when this was made."""

    # Whatever the size of what goes through them (bytes).
    BOUND = 24 << 20

    def __init__(self, pids):
        self.pids = pids
        for pid in pids:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.before = self._peaks()

    def _peaks(self):
        found = []
        for pid in self.pids:
            status = Path(f"/proc/{pid}/status").read_text()
            peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
            found.append(int(peak.split()[1]) << 10)
        return found

    def assert_constant(self):
        grown = [now - before for now, before in zip(self._peaks(), self.before, strict=True)]
        print("memory grown by (MiB):", *(f"{one / (1 << 20):.1f}" for one in grown))
        assert max(grown) < self.BOUND, grown


@pytest.fixture
def memory(gateway, sandbox):
    """That of gateway and envd, during a test that may take long."""
    sandbox.set_timeout(900)
    (envd,) = processes_of(sandbox.sandbox_id, "envd")
    return Memory([gateway.process.pid, envd])


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


@pytest.fixture(scope="module")
def internet(host):
    with Internet() as internet:
        yield internet


@pytest.fixture
def eventually():
    """Waits until `condition()` holds and returns what it gave."""

    def wait(condition, timeout=20, every=0.05):
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not so within {timeout} s"
            time.sleep(every)
        return found

    return wait
