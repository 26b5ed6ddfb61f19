"""Pausing sandboxes and having them go on: what they keep, and what their clients are told."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import e2b
import pytest
from e2b import NotFoundException, Sandbox, SandboxException, SandboxQuery, SandboxState

from hoststate import HostState, assert_back_to, processes_of

pytestmark = pytest.mark.sdk

TICKING = """python3 -c '
import time
while True:
    with open("/tmp/ticks", "a") as ticks: ticks.write(f"{time.time()}\\n")
    time.sleep(0.01)
'"""


def ticks(sandbox):
    return [float(line) for line in sandbox.files.read("/tmp/ticks").split()]


def listed(**query):
    paginator = Sandbox.list(query=SandboxQuery(**query))
    return {info.sandbox_id: info for info in paginator.next_items()}


def test_nothing_runs_while_a_sandbox_is_paused_and_everything_goes_on_after(sandbox, eventually):
    handle = sandbox.commands.run(TICKING, background=True, timeout=0)
    eventually(lambda: sandbox.files.exists("/tmp/ticks"))
    sandbox.files.write("note", "kept")
    paused = time.time()
    assert sandbox.pause() is True
    stopped = time.time()
    time.sleep(1)
    resumed = time.time()
    again = Sandbox.connect(sandbox.sandbox_id)
    eventually(lambda: ticks(again)[-1] > resumed)
    asleep = [tick for tick in ticks(again) if stopped < tick < resumed]
    assert not asleep and ticks(again)[0] < paused
    assert again.files.read("note") == "kept"
    assert [process.pid for process in again.commands.list()] == [handle.pid]
    assert again.commands.connect(handle.pid).kill() is True
    # The token is the same, so that a client that was there before needs no other.
    assert sandbox.commands.run("echo again").stdout == "again\n"


def test_a_timer_that_ran_out_meanwhile_rings_on_resuming(sandbox, eventually):
    ringing = "sleep 3; date +%s.%N > /tmp/ringing; mv /tmp/ringing /tmp/rang"
    sandbox.commands.run(ringing, background=True)
    sandbox.commands.run("until pgrep -x sleep; do :; done")
    sandbox.pause()
    time.sleep(3)
    resumed = time.time()
    again = Sandbox.connect(sandbox.sandbox_id)
    eventually(lambda: again.files.exists("/tmp/rang"), timeout=20)
    # Had its time stood still, it would have rung three seconds later.
    assert 0 <= float(again.files.read("/tmp/rang")) - resumed < 2.5


def test_connections_inside_outlive_a_pause(sandbox, eventually):
    server = """python3 -c '
import socket
listener = socket.create_server(("127.0.0.1", 7000))
open("/tmp/listening", "w").close()
peer, _ = listener.accept()
while data := peer.recv(100): peer.sendall(data.upper())
'"""
    client = """python3 -c '
import os, socket, time
peer = socket.create_connection(("127.0.0.1", 7000))
open("/tmp/connected", "w").close()
while not os.path.exists("/tmp/go"): time.sleep(0.01)
peer.sendall(b"still here")
open("/tmp/heard", "wb").write(peer.recv(100))
os.rename("/tmp/heard", "/tmp/done")
'"""
    sandbox.commands.run(server, background=True)
    eventually(lambda: sandbox.files.exists("/tmp/listening"))
    sandbox.commands.run(client, background=True)
    eventually(lambda: sandbox.files.exists("/tmp/connected"))
    sandbox.pause()
    sandbox.connect()
    sandbox.files.write("/tmp/go", "")
    eventually(lambda: sandbox.files.exists("/tmp/done"))
    assert sandbox.files.read("/tmp/done") == "STILL HERE"


def test_what_a_user_had_stopped_stays_stopped(sandbox, eventually):
    pid = sandbox.commands.run("exec sleep 1000", background=True).pid
    sandbox.commands.run(f"kill -STOP {pid}")
    sandbox.pause()
    sandbox.connect()
    state = sandbox.commands.run(f"ps -o stat= -p {pid}").stdout
    assert state.startswith("T"), state


def test_streams_end_at_once_and_nothing_is_answered_while_it_is_paused(sandbox):
    handle = sandbox.commands.run("sleep 100", background=True, timeout=0)
    outcome = []

    def wait():
        try:
            outcome.append(handle.wait())
        except Exception as error:
            outcome.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    sandbox.pause()
    waiting.join(timeout=5)
    assert not waiting.is_alive() and isinstance(outcome[0], SandboxException), outcome
    assert sandbox.is_running() is False
    with pytest.raises(SandboxException):
        sandbox.commands.run("true")


def test_a_paused_sandbox_is_listed_and_shown_as_such(sandbox):
    before = sandbox.get_info()
    asked = datetime.now(timezone.utc)
    sandbox.pause()
    info = sandbox.get_info()
    assert (info.state, info.started_at) == (SandboxState.PAUSED, before.started_at)
    assert abs((info.end_at - asked).total_seconds()) < 2
    id = sandbox.sandbox_id
    assert listed(state=[SandboxState.PAUSED])[id].state == SandboxState.PAUSED
    assert id in listed() and id not in listed(state=[SandboxState.RUNNING])
    sandbox.connect()
    assert id in listed(state=[SandboxState.RUNNING])
    assert id not in listed(state=[SandboxState.PAUSED])


def test_pausing_twice_is_false_and_pausing_what_is_gone_an_error(sandboxes):
    sandbox = sandboxes()
    assert sandbox.pause() is True
    assert Sandbox.pause(sandbox.sandbox_id) is False
    sandbox.kill()
    with pytest.raises(NotFoundException):
        Sandbox.pause(sandbox.sandbox_id)
    with pytest.raises(NotFoundException):
        Sandbox.connect(sandbox.sandbox_id)


def test_beta_pause_is_pause(sandbox):
    assert sandbox.beta_pause() is True
    assert Sandbox.beta_pause(sandbox.sandbox_id) is False


async def test_the_asynchronous_half_pauses_too(async_sandbox):
    assert await async_sandbox.pause() is True
    assert await e2b.AsyncSandbox.pause(async_sandbox.sandbox_id) is False
    again = await e2b.AsyncSandbox.connect(async_sandbox.sandbox_id)
    assert (await again.commands.run("echo up")).stdout == "up\n"
    assert await again.beta_pause() is True
    assert await e2b.AsyncSandbox.beta_pause(again.sandbox_id) is False


def test_time_stands_still_for_what_is_paused_and_begins_anew(sandboxes):
    sandbox = sandboxes(timeout=60)
    sandbox.set_timeout(2)
    sandbox.pause()
    time.sleep(2.5)
    again = Sandbox.connect(sandbox.sandbox_id, timeout=90)
    left = (again.get_info().end_at - datetime.now(timezone.utc)).total_seconds()
    assert 85 < left <= 91


def test_a_paused_sandbox_takes_no_timeout(sandbox):
    sandbox.pause()
    with pytest.raises(NotFoundException):
        sandbox.set_timeout(60)


def test_a_sandbox_is_paused_at_its_deadline_where_that_was_asked_for(
    sandboxes, eventually, sdk_since
):
    sdk_since(2, 60)
    sandbox = sandboxes(lifecycle={"on_timeout": "pause"})
    sandbox.files.write("note", "kept")
    sandbox.set_timeout(1)
    eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED)
    lifecycle = sandbox.get_info().lifecycle
    assert (lifecycle["on_timeout"], lifecycle["auto_resume"]) == ("pause", False)
    # Nobody wakes it by asking for something.
    assert sandbox.is_running() is False
    assert Sandbox.connect(sandbox.sandbox_id, timeout=60).files.read("note") == "kept"


def test_whoever_sends_it_something_wakes_one_that_is_to_be_woken(
    gateway, sandboxes, eventually, sdk_since
):
    sdk_since(2, 60)
    sandbox = sandboxes(timeout=60, lifecycle={"on_timeout": "pause", "auto_resume": True})
    to_port = gateway.http(**{"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"})
    sandbox.commands.run("python3 -m http.server -d /etc 8000", background=True, timeout=0)
    eventually(lambda: sandbox.commands.run("curl -s localhost:8000 || true").stdout)
    for ask in [
        lambda: sandbox.commands.run("echo woken").stdout == "woken\n",
        lambda: sandbox.files.write("note", "x" * (1 << 20)).path,
        lambda: to_port.get("/hostname").status_code == 200,
    ]:
        assert sandbox.pause() is True
        # Asking how it is does not wake it.
        assert sandbox.is_running() is False
        assert ask()
        left = (sandbox.get_info().end_at - datetime.now(timezone.utc)).total_seconds()
        assert 55 < left <= 61


def test_many_who_come_at_once_wake_it_once_and_are_all_served(sandboxes, sdk_since):
    sdk_since(2, 60)
    sandbox = sandboxes(lifecycle={"on_timeout": "pause", "auto_resume": True})
    sandbox.pause()
    with ThreadPoolExecutor(10) as pool:
        said = pool.map(lambda n: sandbox.commands.run(f"echo {n}").stdout, range(10))
        assert list(said) == [f"{n}\n" for n in range(10)]


def test_one_that_is_to_be_woken_sleeps_though_a_stream_of_it_was_open(
    sandboxes, eventually, sdk_since
):
    sdk_since(2, 60)
    sandbox = sandboxes(lifecycle={"on_timeout": "pause", "auto_resume": True})
    handle = sandbox.commands.run("sleep 100", background=True, timeout=0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.wait)
        sandbox.set_timeout(1)
        with pytest.raises(SandboxException):
            waiting.result(timeout=20)
    assert sandbox.get_info().state == SandboxState.PAUSED


def test_the_time_a_command_may_take_stands_still_too(sandbox):
    """That of the SDK's timeout, which envd sees to."""
    running = sandbox.commands.run("sleep 1000", background=True, timeout=5)
    sandbox.pause()
    time.sleep(6)
    again = Sandbox.connect(sandbox.sandbox_id)
    assert [process.pid for process in again.commands.list()] == [running.pid]


def test_a_paused_sandbox_is_killed_without_a_trace(new_gateway):
    gateway = new_gateway()
    before = HostState.of(gateway)
    gateway.start()
    sandbox = Sandbox.create(timeout=60, **gateway.opts)
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    sandbox.pause()
    assert processes_of(sandbox.sandbox_id, "user")
    assert sandbox.kill() is True
    assert not processes_of(sandbox.sandbox_id, "user")
    assert sandbox.kill() is False
    gateway.end()
    gateway.down()
    assert_back_to(before, gateway)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_a_paused_sandbox_outlives_the_gateway(new_gateway, sig):
    gateway = new_gateway().start()
    paused, running = (Sandbox.create(timeout=60, **gateway.opts) for _ in range(2))
    for sandbox in (paused, running):
        sandbox.commands.run(TICKING, background=True, timeout=0)
        sandbox.commands.run("until [ -s /tmp/ticks ]; do sleep 0.01; done")
    paused.pause()
    info, last = paused.get_info(), time.time()
    gateway.end(sig)
    gateway.start()
    assert paused.get_info() == info
    assert paused.is_running() is False and running.is_running() is True
    resumed = time.time()
    again = Sandbox.connect(paused.sandbox_id, **gateway.opts)
    again.commands.run("n=$(wc -l < /tmp/ticks); until [ $(wc -l < /tmp/ticks) -gt $n ]; do :; done")
    assert not [tick for tick in ticks(again) if last < tick < resumed]
    for sandbox in (again, running):
        sandbox.kill()


def test_the_interpreter_keeps_its_variables_over_a_pause(interpreter_template):
    interpreter = pytest.importorskip("e2b_code_interpreter").Sandbox
    with interpreter.create(timeout=120) as sandbox:
        sandbox.run_code("kept = [1, 2]")
        sandbox.pause()
        sandbox.connect()
        assert sandbox.run_code("kept + [3]").text == "[1, 2, 3]"


def test_a_hundred_pauses_change_no_file(gateway, sandbox):
    files = "mkdir t && for n in $(seq 200); do echo $n > t/$n; done && ln t/1 t/link"
    sandbox.commands.run(f"{files} && ln -s 1 t/symlink && mkfifo t/pipe && chmod 4711 t/2")
    tree = "find t -printf '%p %y %i %m %n %s %T@ %l\\n' | sort; find t -type f | sort | xargs sha256sum"
    before = sandbox.commands.run(tree).stdout
    path = f"/sandboxes/{sandbox.sandbox_id}"
    with gateway.http() as http:
        for _ in range(100):
            assert http.post(f"{path}/pause").status_code == 204
            assert http.post(f"/v2{path}/connect", json={}).status_code == 201
    after = sandbox.commands.run(tree).stdout
    assert after == before and len(before.splitlines()) > 400


def test_half_sent_requests_do_not_hold_up_a_pause(gateway, sandbox):
    """Clients that have begun to send a body when the sandbox is paused are cut off."""
    token = sandbox._envd_access_token
    with gateway.connect(timeout=5) as client:
        client.sendall(
            b"POST /files?path=/tmp/half HTTP/1.1\r\n"
            + f"Host: {gateway.host}\r\nE2b-Sandbox-Id: {sandbox.sandbox_id}\r\n".encode()
            + f"E2b-Sandbox-Port: 49983\r\nX-Access-Token: {token}\r\n".encode()
            + b"Content-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nhalf"
        )
        time.sleep(0.2)
        assert sandbox.pause() is True
        try:
            while client.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert sandbox.connect().files.exists("/tmp/half") is False
