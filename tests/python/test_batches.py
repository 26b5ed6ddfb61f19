"""Pools that operators make at run time, and batches: many sandboxes with one call."""

import json
import signal
import time

import pytest
from e2b import Sandbox

from gateway import KEY, coppice
from hoststate import HostState, assert_back_to

pytestmark = pytest.mark.plain("what no SDK asks for")

SIZE = 4


def asked(gateway, *argv):
    """What a command that asks the gateway prints."""
    env = {"COPPICE_URL": gateway.url, "COPPICE_API_KEY": KEY}
    done = coppice(*argv, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(text):
    """A table by its headings; columns stand below each other."""
    heading, *lines = text.splitlines()
    for name in heading.split():
        at = heading.index(name)
        assert all(at == 0 or line[at - 1] == " " and line[at] != " " for line in lines), text
    return [dict(zip(heading.split(), line.split(), strict=True)) for line in lines]


def pool(gateway, name):
    with gateway.http() as http:
        return http.get(f"/pools/{name}").raise_for_status().json()


def gauges(gateway, template="base"):
    with gateway.http() as http:
        lines = http.get("/metrics").text.splitlines()
    of = f'{{template="{template}"}} '
    names = ("total", "allocated", "available")
    found = {name: [it for it in lines if it.startswith(f"coppice_pool_{name}{of}")] for name in names}
    return {name: int(line[0].split()[-1]) for name, line in found.items() if line}


def entries(gateway):
    """Ids of what is in pools: directories that are nobody's sandbox."""
    return {path.name for path in (gateway.data_dir / "sandboxes").iterdir()} - gateway.ids()


@pytest.fixture
def clean(new_gateway):
    """Makes a gateway; what it leaves behind is a failure."""
    made = []

    def make(*flags):
        gateway = new_gateway(*flags)
        gateway.before = HostState.of(gateway)
        made.append(gateway)
        return gateway.start()

    yield make
    for gateway in made:
        gateway.end()
        gateway.down()
        assert_back_to(gateway.before, gateway)


def test_a_pool_that_is_made_at_run_time_fills_again_after_a_restart(clean, eventually):
    gateway = clean()
    asked(gateway, "pool", "create", "mine", "--buffer-min", str(SIZE))
    eventually(lambda: pool(gateway, "mine")["status"]["available"] == SIZE, timeout=30)
    ready = entries(gateway)
    assert len(ready) == SIZE
    taken = Sandbox.create(**gateway.opts)
    assert taken.sandbox_id in ready and taken.commands.run("echo a").stdout == "a\n"
    eventually(lambda: pool(gateway, "mine")["status"]["available"] == SIZE, timeout=30)
    (listed,) = rows(asked(gateway, "pool", "list"))
    counted = {"TOTAL": "5", "ALLOCATED": "1", "AVAILABLE": "4", "UPDATED": "5"}
    assert listed["NAME"] == "mine" and counted.items() <= listed.items()
    assert gauges(gateway) == {"total": 5, "allocated": 1, "available": 4}

    gateway.end(signal.SIGKILL)
    gateway.start()
    asked(gateway, "pool", "set", "mine", "--buffer-min", "2", "--buffer-max", "2")
    eventually(lambda: pool(gateway, "mine")["status"]["available"] == 2, timeout=30)
    assert pool(gateway, "mine")["status"]["allocated"] == 1
    asked(gateway, "pool", "rm", "mine")
    eventually(lambda: not entries(gateway))
    # One of a network of its own is for whoever wants that.
    asked(gateway, "pool", "create", "alone", "--internet", "false")
    eventually(lambda: pool(gateway, "alone")["status"]["available"] == 1, timeout=30)
    (ready,) = entries(gateway)
    alone = Sandbox.create(allow_internet_access=False, **gateway.opts)
    assert alone.sandbox_id == ready
    links = alone.commands.run("tail -n +3 /proc/net/dev | cut -d: -f1")
    assert links.stdout.split() == ["lo"]
    alone.kill()
    asked(gateway, "pool", "rm", pool(gateway, "alone")["id"])
    eventually(lambda: not entries(gateway))
    assert taken.commands.run("echo b").stdout == "b\n"
    assert gauges(gateway) == {"total": 1, "allocated": 1, "available": 0}
    assert json.loads(asked(gateway, "pool", "list", "-o", "json")) == []


def test_a_batch_takes_what_a_pool_has_and_runs_its_task_in_each(clean, eventually):
    gateway = clean()
    asked(gateway, "pool", "create", "mine", "--buffer-min", str(SIZE))
    eventually(lambda: pool(gateway, "mine")["status"]["available"] == SIZE, timeout=30)
    ready = entries(gateway)
    task = ["sh", "-c", 'echo "$MINE" >/tmp/seen; test "$MINE" = yes || echo no >&2']
    made = asked(
        gateway, "batch", "create", "-n", "6", "--env", "MINE=yes", "--metadata", "a=b",
        "--timeout", "100", "--wait", "50", "--", *task,
    ).strip()  # fmt: skip
    (seen,) = json.loads(asked(gateway, "batch", "get", made, "-o", "json"))
    assert (seen["desired"], seen["ready"], seen["state"]) == (6, 6, "Running")
    ids = {one["sandboxID"] for one in seen["sandboxes"]}
    assert len(ids) == 6 and ready <= ids and ids <= gateway.ids()

    def told():
        (row,) = rows(asked(gateway, "batch", "get", "-o", "wide"))
        return row if row["TASK_RUNNING"] == "0" else None

    row = eventually(told)
    counts = {"DESIRED": "6", "TOTAL": "6", "ALLOCATED": "6", "READY": "6", "TASK_SUCCEED": "6"}
    assert counts.items() <= row.items() and row["TASK_FAILED"] == row["TASK_UNKNOWN"] == "0"
    for id in sorted(ids)[:2]:
        sandbox = Sandbox.connect(id, **gateway.opts)
        assert sandbox.files.read("/tmp/seen") == "yes\n"
        assert sandbox.get_info().metadata == {"a": "b"}
    asked(gateway, "batch", "rm", made)
    assert not ids & gateway.ids()
    with gateway.http() as http:
        assert http.get(f"/batches/{made}").status_code == 404


def test_tasks_fail_as_commands_do(clean, eventually):
    gateway = clean()
    cases = {
        "exit": ({"command": ["sh", "-c", "echo so long >&2; exit 3"]}, 3, "so long"),
        "program": ({"command": ["/no/such/program"]}, None, "/no/such/program"),
        "user": ({"command": ["true"], "user": "nobody-here"}, None, "nobody-here"),
        "late": ({"command": ["sleep", "60"], "timeoutSeconds": 1}, None, "longer"),
        "flood": ({"command": ["sh", "-c", "yes | head -c 9000000; echo end; false"]}, 1, "end"),
    }
    with gateway.http() as http:

        def make(task):
            body = {"templateID": "base", "replicas": 1, "task": task}
            return http.post("/batches", json=body).raise_for_status().json()["batchID"]

        made = {name: make(task) for name, (task, *_) in cases.items()}
        for name, (_, code, said) in cases.items():

            def over(name=name):
                seen = http.get(f"/batches/{made[name]}").json()
                return seen if seen["taskFailed"] else None

            seen = eventually(over)
            (one,) = seen["sandboxes"]
            assert one.get("exitCode") == code, name
            assert said in seen["taskLastErrorMessage"], (name, seen["taskLastErrorMessage"])
            assert len(seen["taskLastErrorMessage"]) <= 256


def test_a_batch_goes_on_after_its_gateway_was_killed(clean, eventually):
    gateway = clean("--max-sandboxes", "3")
    held = Sandbox.create(**gateway.opts)
    task = {"command": ["sh", "-c", "echo x >>/tmp/runs; sleep 4; exit 0"]}
    body = {"templateID": "base", "replicas": 3, "timeout": 100, "task": task}
    with gateway.http() as http:
        made = http.post("/batches", json=body).raise_for_status().json()["batchID"]
        eventually(lambda: http.get(f"/batches/{made}").json()["taskRunning"] == 2)
        before = eventually(lambda: "reason" in (it := http.get(f"/batches/{made}").json()) and it)
        assert (before["state"], before["reason"]) == ("Provisioning", "capacity")
    gateway.end(signal.SIGKILL)
    gateway.start()
    held.kill()
    with gateway.http() as http:

        def over():
            seen = http.get(f"/batches/{made}").json()
            return seen if seen["taskSucceed"] == 3 else None

        seen = eventually(over, timeout=30)
        assert (seen["ready"], seen["taskUnknown"]) == (3, 0)
        assert {"createdAt", "expiresAt"} <= seen.keys()
        same = [{one["sandboxID"] for one in it["sandboxes"]} for it in (before, seen)]
        assert same[0] < same[1]
        for one in seen["sandboxes"]:
            sandbox = Sandbox.connect(one["sandboxID"], **gateway.opts)
            assert sandbox.files.read("/tmp/runs") == "x\n"
        assert http.delete(f"/batches/{made}").status_code == 204
    assert gateway.ids() == set()


def test_a_batch_that_is_deleted_while_it_is_made_leaves_nothing(clean):
    gateway = clean("--max-sandboxes", "30")
    body = {"templateID": "base", "replicas": 30, "timeout": 100}
    with gateway.http() as http:
        for wait in (0, 0.05, 0.3):
            made = http.post("/batches", json=body).raise_for_status().json()["batchID"]
            time.sleep(wait)
            assert http.delete(f"/batches/{made}").status_code == 204
            assert gateway.ids() == set()
        assert http.get("/batches").json() == {"items": []}
    assert not list((gateway.data_dir / "batches").iterdir())
