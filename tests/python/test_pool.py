"""The warm pool: sandboxes that were ready before they were asked for, and what becomes of them."""

import datetime
import os
import signal
import threading
import time

import httpx
import pytest
from e2b import Sandbox

from gateway import coppice
from hoststate import HostState, assert_back_to, processes_of

pytestmark = pytest.mark.plain("what is made before anybody asks")

CREATE = {"templateID": "base"}
SIZE = 3


def figure(gateway, name, template="base"):
    """One of the pool's figures, as Prometheus reads it."""
    with gateway.http() as http:
        lines = http.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f'{name}{{template="{template}"}} ')]
    return int(line.split()[-1])


def available(gateway):
    return figure(gateway, "coppice_pool_available")


def entries(gateway):
    """Ids of what is in the pool: directories that are nobody's sandbox."""
    return {path.name for path in (gateway.data_dir / "sandboxes").iterdir()} - gateway.ids()


@pytest.fixture
def pooled(new_gateway, eventually):
    """Makes a gateway with a pool of `base`, which is full; what it leaves behind is a failure."""
    made = []

    def make(*flags, size=SIZE, **options):
        gateway = new_gateway("--pool", f"base={size}", *flags, **options)
        gateway.before = HostState.of(gateway)
        made.append(gateway)
        gateway.start()
        eventually(lambda: available(gateway) == size, timeout=20)
        return gateway

    yield make
    for gateway in made:
        gateway.end()
        gateway.down()
        assert_back_to(gateway.before, gateway)


def story(sandbox):
    """What of a sandbox tells how it was made."""
    said = sandbox.commands.run(
        "hostname; cat /etc/hostname /run/e2b/.E2B_SANDBOX_ID; echo; pwd; id; env | sort;"
        "cat /etc/resolv.conf; cut -d: -f1 /proc/net/dev; nproc; ulimit -a"
    ).stdout
    said = said.replace(sandbox.sandbox_id, "ID").splitlines()
    return [line for line in said if not line.startswith("SHLVL=")]


def test_a_sandbox_of_the_pool_cannot_be_told_from_another(pooled, sandboxes, eventually):
    gateway = pooled()
    ready = entries(gateway)
    assert len(ready) == SIZE and gateway.ids() == set()
    time.sleep(1.1)
    asked = datetime.datetime.now(datetime.UTC)
    given = {"envs": {"MINE": "yes", "LANG": "tlh"}, "metadata": {"a": "b"}, "timeout": 77}
    taken = Sandbox.create(**given, **gateway.opts)
    assert taken.sandbox_id in ready
    info = taken.get_info()
    assert asked - datetime.timedelta(milliseconds=500) <= info.started_at
    assert 76 < (info.end_at - info.started_at).total_seconds() < 78
    assert (info.template_id, info.metadata, info.state.value) == ("base", {"a": "b"}, "running")

    # The shared gateway has no pool.
    told = story(taken)
    assert told == story(sandboxes(**given))
    assert "MINE=yes" in told and "LANG=tlh" in told and "E2B_SANDBOX_ID=ID" in told
    assert taken.files.read("/run/e2b/.E2B_SANDBOX_ID") == taken.sandbox_id
    eventually(lambda: available(gateway) == SIZE)
    assert entries(gateway).isdisjoint({taken.sandbox_id})
    assert figure(gateway, "coppice_pool_total") - SIZE == figure(gateway, "coppice_pool_allocated")


def test_what_is_in_the_pool_is_nobodys(pooled):
    gateway = pooled()
    with gateway.http() as http:
        for entry in entries(gateway):
            assert http.get(f"/sandboxes/{entry}").status_code == 404
            assert http.delete(f"/sandboxes/{entry}").status_code == 404
            assert http.post(f"/v2/sandboxes/{entry}/connect", json={}).status_code == 404
            routed = {"E2b-Sandbox-Id": entry, "E2b-Sandbox-Port": "49983"}
            assert http.get("/health", headers=routed).status_code == 502
        assert available(gateway) == SIZE
        taken = http.post("/v2/sandboxes", json=CREATE).json()
        routed = {"E2b-Sandbox-Id": taken["sandboxID"], "E2b-Sandbox-Port": "49983"}
        for token, status in ((None, 401), ("0" * 64, 401), (taken["envdAccessToken"], 200)):
            headers = {**routed, **({"X-Access-Token": token} if token else {})}
            assert http.get("/envs", headers=headers).status_code == status


def test_another_network_is_no_entrys(pooled):
    gateway = pooled()
    ready = entries(gateway)
    alone = Sandbox.create(allow_internet_access=False, **gateway.opts)
    assert alone.sandbox_id not in ready
    links = alone.commands.run("tail -n +3 /proc/net/dev | cut -d: -f1")
    assert links.stdout.split() == ["lo"]
    assert Sandbox.create(allow_internet_access=True, **gateway.opts).sandbox_id in ready


def test_a_timeout_begins_when_the_sandbox_is_asked_for(pooled, eventually):
    gateway = pooled(size=1)
    time.sleep(2)
    sandbox = Sandbox.create(timeout=2, **gateway.opts)
    assert sandbox.commands.run("echo lives").stdout == "lives\n"
    eventually(lambda: not sandbox.is_running(), timeout=4)


def test_many_at_once_drain_a_small_pool_and_it_fills_again(pooled, eventually):
    gateway = pooled()
    ready, made, failed = entries(gateway), [], []

    def create():
        try:
            with gateway.http() as http:
                made.append(http.post("/v2/sandboxes", json=CREATE).raise_for_status().json())
        except httpx.HTTPError as error:
            failed.append(error)

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    ids = {one["sandboxID"] for one in made}
    assert not failed and len(ids) == 20 and ids >= ready
    assert gateway.ids() == ids
    eventually(lambda: available(gateway) == SIZE, timeout=20)
    assert entries(gateway).isdisjoint(ids)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_an_entry_that_is_dead_or_mute_is_not_handed_out_but_replaced(pooled, eventually, sig):
    gateway = pooled(size=1)
    (entry,) = entries(gateway)
    (envd,) = processes_of(entry, "envd")
    os.kill(envd, sig)
    sandbox = Sandbox.create(**gateway.opts)
    assert sandbox.sandbox_id != entry
    assert sandbox.commands.run("echo lives").stdout == "lives\n"
    eventually(lambda: not processes_of(entry))
    eventually(lambda: not (gateway.data_dir / "sandboxes" / entry).exists())
    eventually(lambda: available(gateway) == 1, timeout=20)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_gateway_leaves_no_entry_to_the_next(pooled, eventually, sig):
    gateway = pooled()
    before = entries(gateway)
    kept = Sandbox.create(envs={"MINE": "yes"}, **gateway.opts)
    gateway.end(sig)
    left = {path.name for path in (gateway.data_dir / "sandboxes").iterdir()}
    if sig == signal.SIGTERM:
        assert left == {kept.sandbox_id}
    gateway.start()
    eventually(lambda: available(gateway) == SIZE, timeout=20)
    assert kept.commands.run("echo $MINE").stdout == "yes\n"
    assert figure(gateway, "coppice_pool_allocated") == 1
    gone = (before | left) - {kept.sandbox_id}
    eventually(lambda: entries(gateway).isdisjoint(gone), timeout=10)
    # Whoever reaps what a dead gateway has left may take a moment.
    eventually(lambda: not any(processes_of(one) for one in gone))


def test_a_gateway_killed_while_it_gives_entries_away_starts_again(pooled, eventually):
    gateway = pooled(size=8)

    def create():
        try:
            with gateway.http() as http:
                http.post("/v2/sandboxes", json=CREATE)
        except httpx.HTTPError:
            pass

    threads = [threading.Thread(target=create) for _ in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    gateway.end(signal.SIGKILL)
    for thread in threads:
        thread.join(20)
    gateway.start()
    eventually(lambda: available(gateway) == 8, timeout=20)
    for sandbox in Sandbox.list(**gateway.opts).next_items():
        again = Sandbox.connect(sandbox.sandbox_id, **gateway.opts)
        assert again.commands.run("echo usable").stdout == "usable\n"


def test_the_pool_gives_way_where_there_is_no_room_for_both(pooled, eventually):
    gateway = pooled("--max-sandboxes", "3", size=2)
    alone = [Sandbox.create(allow_internet_access=False, **gateway.opts) for _ in range(3)]
    eventually(lambda: available(gateway) == 0)
    eventually(lambda: entries(gateway) == set())
    alone.pop().kill()
    eventually(lambda: available(gateway) == 1, timeout=10)


def test_the_pool_gives_way_where_memory_is_short_and_fills_when_there_is_some(
    pooled, tmp_path, eventually
):
    """What the kernel says of memory is the test's own word, to this gateway alone."""
    meminfo, whole, headroom = tmp_path / "meminfo", tmp_path / "proc", 1024
    whole.mkdir()
    # Sandboxes may have a `/proc` of their own only where there is one with nothing mounted over it.
    mounts = 'mount -t proc proc "$0"; mount --bind "$1" /proc/meminfo; shift; exec "$@"'
    said = ["unshare", "--mount", "sh", "-c", mounts, whole, meminfo]

    def leave(mebibytes):
        meminfo.write_text(f"MemAvailable: {headroom + mebibytes << 10} kB\n")

    leave(4096)
    gateway = pooled("--memory-headroom", str(headroom), "--stop-sandboxes-on-exit", prefix=said)
    sandbox = Sandbox.create(timeout=120, **gateway.opts)
    eventually(lambda: available(gateway) == SIZE, timeout=20)
    leave(100)
    eventually(lambda: available(gateway) == 0, timeout=20)
    eventually(lambda: entries(gateway) == set())
    assert gateway.log_tail().count("pool: memory is short: ending") == SIZE
    assert sandbox.commands.run("echo lives").stdout == "lives\n"
    with Sandbox.create(timeout=120, **gateway.opts) as cold:
        assert cold.commands.run("echo cold").stdout == "cold\n"
    leave(4096)
    eventually(lambda: available(gateway) == SIZE, timeout=20)

    # Nothing for clients: what the pool has goes to them, though here it is not enough.
    leave(-1)
    with gateway.http() as http:
        wanted = {**CREATE, "allow_internet_access": False}
        assert http.post("/v2/sandboxes", json=wanted).status_code == 503
    assert available(gateway) == 0


def test_sandboxes_are_stopped_with_the_pool_when_so_asked(pooled):
    gateway = pooled("--stop-sandboxes-on-exit")
    Sandbox.create(**gateway.opts)
    gateway.end()
    assert list((gateway.data_dir / "sandboxes").iterdir()) == []


def test_down_ends_what_a_killed_gateway_left(pooled):
    gateway = pooled()
    gateway.end(signal.SIGKILL)
    done = coppice("down", "--data-dir", gateway.data_dir)
    assert done.returncode == 0 and f"{SIZE} sandboxes ended" in done.stdout
