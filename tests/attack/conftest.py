"""Attacks on a gateway from inside its sandboxes, with its walls and without.

As root, in the environment of `tests/python`, with a release binary and a debug one, which
`cargo build --release` and `cargo test` leave: `pytest tests/attack`. `COPPICE_BIN` and
`COPPICE_DEBUG_BIN` name others. All of it runs in a network namespace without a way out.

Or against a gateway that somebody has started, on Linux or FreeBSD: with `COPPICE_TEST_URL`, and
`COPPICE_TEST_API_KEY` where it has keys. What is of the host that attacks are after is looked for
where that is this machine, as whoever may write to its /var/tmp.
"""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "python")]

from attack import REMOTE, World  # noqa: E402
from gateway import Gateway  # noqa: E402
from selection import Place, applies, why_not  # noqa: E402
from tenants import Strangers  # noqa: E402

CLONE_NEWNET = 0x40000000
PLACE = pytest.StashKey[Place]()
THE_WORLD = pytest.StashKey[World]()


def pytest_configure(config):
    for name in list(os.environ):
        if name.startswith(("E2B_", "SSL_CERT_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    if REMOTE:
        os.environ["NO_PROXY"] = "*"
        config.stash[THE_WORLD] = world = World()
        # The same is asked of the sandbox and of this machine.
        ask = world.attacker.commands.run(Place.QUESTION).stdout
        config.stash[PLACE] = Place.remote(ask)
    else:
        config.stash[PLACE] = place = Place.local()
        if place.system != "Linux":
            raise pytest.UsageError("here against a gateway that serves: COPPICE_TEST_URL")
        leave_the_network()


def pytest_unconfigure(config):
    if world := config.stash.get(THE_WORLD, None):
        world.remove()


def pytest_report_header(config):
    return f"attacks on {config.stash[PLACE]}" + (f", {REMOTE.url}" if REMOTE else "")


def pytest_collection_modifyitems(config, items):
    place, kept, other = config.stash[PLACE], [], []
    for item in items:
        (kept if applies(item, place) else other).append(item)
        if why := why_not(item, place):
            item.add_marker(pytest.mark.skip(reason=why))
    items[:] = kept
    config.hook.pytest_deselected(items=other)


def leave_the_network():
    """Where a wall is down there is nobody to be reached."""
    assert os.geteuid() == 0, "these tests make real sandboxes and must run as root"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    keep_a_key(libc)


HOST_KEY = b"a key of the host's"


def keep_a_key(libc):
    """Of whoever starts the gateways, where the kernel has keys."""
    keyctl, add_key = 250, 248
    if libc.syscall(keyctl, 1, 0) < 0:
        return
    session_keyring, everything_to_who_has_it = -3, 0x3F3F0000
    key = libc.syscall(add_key, b"user", HOST_KEY, b"secret", 6, session_keyring)
    libc.syscall(keyctl, 5, key, everything_to_who_has_it)


@pytest.fixture
def host_key():
    if not Path("/proc/keys").exists():
        pytest.skip("this host's kernel has no keys")
    return HOST_KEY


@pytest.fixture(scope="session")
def worlds(pytestconfig):
    """A world for each set of walls that is down, made when first asked for."""
    made = {}
    if REMOTE:
        yield lambda _: pytestconfig.stash[THE_WORLD]
        return

    def enter(down):
        if down not in made:
            made[down] = World(down).start()
        return made[down]

    yield enter
    with ThreadPoolExecutor() as pool:
        list(pool.map(World.remove, made.values()))


@pytest.fixture
def world(worlds, request):
    return worlds(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Shows with a failure what the gateway had to say."""
    report = yield
    world = item.funcargs.get("world")
    its_own = world and isinstance(world.gateway, Gateway)
    if report.failed and its_own and world.gateway.base.exists():
        report.sections.append(("end of the gateway's log", world.gateway.log_tail(30)))
    return report


@pytest.fixture(scope="session")
def strangers():
    """A gateway with keys of two tenants, and what each has."""
    with Strangers() as strangers:
        yield strangers


@pytest.fixture(scope="session")
def pooled(worlds):
    """A world whose sandboxes are made before they are asked for."""
    world = World(env={"COPPICE_POOL": "base=2"}).start()
    yield world
    world.remove()
