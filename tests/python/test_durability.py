"""What must not happen to a sandbox however often it is paused, and however its gateway dies."""

import contextlib
import json
import random
import signal
import socket
import threading
import time

import httpx
import pytest
from e2b import Sandbox

from gateway import KEY
from hoststate import HostState, assert_back_to, processes_of

pytestmark = pytest.mark.plain("what stays on a disk")

RESTARTS = 20
PAUSES_EACH = 5
# Numbers its ticks, with the time of each.
COUNTING = """python3 -c '
import os, time
n = 0
with open("/tmp/count", "a", buffering=1) as count:
    while True:
        count.write(f"{os.getpid()} {n} {time.time()}\\n")
        n += 1
        time.sleep(0.01)
'"""
TREE = (
    "find t -printf '%p %y %i %m %n %s %T@ %C@ %U %G %l\\n' | sort;"
    " find t -type f | sort | xargs sha256sum;"
    " python3 -c 'import os; print([(name, os.getxattr(\"t/big\", name))"
    " for name in os.listxattr(\"t/big\")])'"
)
PLANT = """
mkdir -p t/d && for n in $(seq 200); do echo $n > t/d/$n; done
head -c 3000000 /dev/urandom > t/big; truncate -s 100M t/hole; ln t/big t/link; ln -s big t/symlink
mkfifo t/pipe; chmod 4711 t/d/1; sudo chown root t/d/2; sudo mknod -m 600 t/null p
python3 -c 'import os; os.setxattr("t/big", "user.of", b"mine")'
"""


@pytest.fixture
def own(new_gateway):
    """A gateway of the test's own, and what the host looked like before it."""
    gateway = new_gateway()
    gateway.before = HostState.of(gateway)
    return gateway.start()


@pytest.mark.timeout(180)
def test_a_hundred_pauses_and_twenty_restarts_change_no_file_and_no_process(own, eventually):
    sandbox = Sandbox.create(timeout=900, **own.opts)
    sandbox.commands.run(PLANT)
    before = sandbox.commands.run(TREE).stdout
    pid = sandbox.commands.run(COUNTING, background=True, timeout=0).pid
    eventually(lambda: sandbox.files.exists("/tmp/count"))
    path, asleep = f"/sandboxes/{sandbox.sandbox_id}", []
    for restart in range(RESTARTS):
        with own.http() as http:
            for _ in range(PAUSES_EACH):
                assert http.post(f"{path}/pause").status_code == 204
                paused = time.time()
                time.sleep(0.03)
                asleep.append((paused, time.time()))
                assert http.post(f"/v2{path}/connect", json={"timeout": 900}).status_code == 201
            # Every other one while it is paused.
            if restart % 2:
                assert http.post(f"{path}/pause").status_code == 204
        paused = time.time()
        own.end(signal.SIGTERM if restart % 4 == 0 else signal.SIGKILL)
        own.start()
        if restart % 2:
            asleep.append((paused, time.time()))
            with own.http() as http:
                assert http.post(f"/v2{path}/connect", json={"timeout": 900}).status_code == 201
    assert sandbox.commands.run(TREE).stdout == before
    assert len(before.splitlines()) > 400 and "user.of" in before
    assert [process.pid for process in sandbox.commands.list()] == [pid]

    lines = sandbox.files.read("/tmp/count").splitlines()
    ticks = [(int(number), float(at)) for _, number, at in map(str.split, lines)]
    assert len({line.split()[0] for line in lines}) == 1, "it was started again"
    assert [number for number, _ in ticks] == list(range(len(ticks)))
    inside = [at for _, at in ticks for start, end in asleep if start < at < end]
    assert len(asleep) == RESTARTS * PAUSES_EACH + RESTARTS // 2 and not inside
    assert ticks[-1][1] > asleep[-1][1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(3))
def test_a_gateway_killed_in_the_middle_of_everything_loses_nothing_and_leaves_nothing(own, seed):
    chance = random.Random(seed)
    kinds = ["pause", "connect", "kill", "create"]
    with own.http() as http:
        made = [
            http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 300}).json()["sandboxID"]
            for _ in range(12)
        ]
        of = {id: kinds[number % 3] for number, id in enumerate(made)}
        for id in made:
            if of[id] == "connect":
                assert http.post(f"/sandboxes/{id}/pause").status_code == 204
    answers = {}

    def ask(name, method, path, body):
        with contextlib.suppress(httpx.HTTPError), own.http() as http:
            answers[name] = http.request(method, path, json=body).status_code

    requests = {
        "pause": lambda id: ("POST", f"/sandboxes/{id}/pause", {}),
        "connect": lambda id: ("POST", f"/v2/sandboxes/{id}/connect", {"timeout": 300}),
        "kill": lambda id: ("DELETE", f"/sandboxes/{id}", None),
    }
    asked = [(id, *requests[kind](id)) for id, kind in of.items()]
    create = {"templateID": "base", "timeout": 300}
    asked += [(f"new {n}", "POST", "/v2/sandboxes", create) for n in range(4)]
    chance.shuffle(asked)
    threads = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in threads:
        thread.start()
    time.sleep(chance.uniform(0, 0.12))
    own.end(signal.SIGKILL)
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive(), "a client still waits for a gateway that is dead"
    own.start()

    # What was answered is so, and what was not is the one or the other, whole.
    with own.http() as http:
        found = {one["sandboxID"]: one["state"] for one in http.get("/v2/sandboxes").json()}
    after = {"pause": "paused", "connect": "running", "kill": None}
    untouched = {"pause": "running", "connect": "paused", "kill": "running"}
    for id, kind in of.items():
        may_be = {after[kind]} if id in answers else {after[kind], untouched[kind]}
        assert found.get(id) in may_be, (kind, answers.get(id))
    for id in found:
        again = Sandbox.connect(id, timeout=300, **own.opts)
        assert again.commands.run("echo usable").stdout == "usable\n"
    own.end()
    own.down()
    assert_back_to(own.before, own)


def test_a_start_says_of_each_sandbox_what_became_of_it(own, eventually):
    with own.http() as http:
        create = {"templateID": "base", "timeout": 300}
        ids = [http.post("/v2/sandboxes", json=create).json()["sandboxID"] for _ in range(5)]
        running, paused, dead, late, orphan = ids
        assert http.post(f"/sandboxes/{paused}/pause").status_code == 204
        assert http.post(f"/sandboxes/{late}/timeout", json={"timeout": 1}).status_code == 204
        time.sleep(0.1)
    own.end(signal.SIGKILL)
    for pid in processes_of(dead, "envd"):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd(pid), signal.SIGKILL)
    (own.data_dir / "sandboxes" / orphan / "sandbox.json").unlink()
    time.sleep(1)
    (own.base / "log").write_text("")
    own.start()
    said = {id: [line for line in own.log_tail(1000).splitlines() if id in line] for id in ids}
    for id, words in [
        (running, ["adopted", "phase=Running"]),
        (paused, ["adopted", "phase=Paused"]),
        (dead, ["envd_died"]),
        (late, ["reason="]),
        (orphan, ["no_record"]),
    ]:
        (line,) = said[id]
        assert all(word in line for word in words), line
    eventually(lambda: not any(map(processes_of, [dead, late, orphan])))
    with own.http() as http:
        listed = {one["sandboxID"]: one["state"] for one in http.get("/v2/sandboxes").json()}
    assert listed == {running: "running", paused: "paused"}


def pidfd(pid):
    import os

    return os.pidfd_open(pid)


def test_a_timeout_that_was_answered_outlives_a_kill_of_the_gateway(own):
    """Right after its answer, which is when it would be lost if it were written later."""
    create = {"templateID": "base", "timeout": 300}
    with own.http() as http:
        ids = [http.post("/v2/sandboxes", json=create).json()["sandboxID"] for _ in range(8)]
        for id in ids:
            assert http.post(f"/sandboxes/{id}/timeout", json={"timeout": 3000}).status_code == 204
        own.end(signal.SIGKILL)
    asked = time.time()
    own.start()
    with own.http() as http:
        for id in ids:
            ends = http.get(f"/sandboxes/{id}").json()["endAt"]
            left = time.mktime(time.strptime(ends[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - asked
            assert 2900 < left < 3100, ends


def test_whoever_comes_to_a_paused_sandbox_is_answered_at_once(gateway, sandbox):
    """Its envd cannot answer, but its sockets still take connections."""
    sandbox.commands.run("python3 -m http.server 8000", background=True, timeout=0)
    token = sandbox._envd_access_token
    assert sandbox.pause() is True
    start = json.dumps({"process": {"cmd": "/bin/true"}})
    for method, path, port, body in [
        ("GET", "/health", 49983, ""),
        ("GET", "/files?path=/etc/hostname", 49983, ""),
        ("POST", "/process.Process/List", 49983, "{}"),
        ("POST", "/process.Process/Start", 49983, start),
        ("POST", "/execute", 49999, "{}"),
        ("GET", "/", 8000, ""),
    ]:
        with socket.create_connection(gateway.address, timeout=5) as client:
            client.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: {gateway.host}\r\nX-API-Key: {KEY}\r\n"
                f"E2b-Sandbox-Id: {sandbox.sandbox_id}\r\nE2b-Sandbox-Port: {port}\r\n"
                f"X-Access-Token: {token}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            assert client.recv(4096).startswith(b"HTTP/1.1 502 "), (method, path)
