"""Where a sandbox stands and why it ended: `GET /v1/sandboxes/{id}`, in OpenSandbox's shape."""

import os
import signal
import threading
import time
from datetime import datetime, timezone

import httpx
import pytest
from e2b import NotFoundException, Sandbox, SandboxException, SandboxState

from hoststate import CGROUPS, processes_of

pytestmark = pytest.mark.plain("what no SDK asks for")


@pytest.fixture
def status(gateway):
    """Of a sandbox: its state and the reason for it."""
    with gateway.http() as http:

        def look(sandbox):
            told = http.get(f"/v1/sandboxes/{sandbox.sandbox_id}")
            assert told.status_code == 200, told.text
            status = told.json()["status"]
            assert status["message"]
            since = datetime.fromisoformat(status["lastTransitionAt"])
            assert since <= datetime.now(timezone.utc)
            return status["state"], status.get("reason")

        yield look


@pytest.fixture
def ended(status, eventually):
    """How a sandbox ended, once nothing of it runs."""

    def wait(sandbox):
        over = ("Terminated", "Failed")
        return eventually(lambda: (s := status(sandbox))[0] in over and s, timeout=20)

    return wait


def test_a_life_from_its_beginning_to_its_end(sandboxes, status, gateway):
    sandbox = sandboxes(timeout=60, metadata={"team": "backend"})
    with gateway.http() as http:
        told = http.get(f"/v1/sandboxes/{sandbox.sandbox_id}").json()
    assert (told["id"], told["metadata"]) == (sandbox.sandbox_id, {"team": "backend"})
    created, expires = (datetime.fromisoformat(told[at]) for at in ("createdAt", "expiresAt"))
    assert abs((expires - created).total_seconds() - 60) < 0.1
    assert status(sandbox) == ("Running", None)
    sandbox.pause()
    assert status(sandbox) == ("Paused", "user")
    sandbox.connect()
    assert status(sandbox) == ("Running", "user")
    assert sandbox.kill() is True
    assert status(sandbox) == ("Terminated", "user")
    with pytest.raises(NotFoundException):
        sandbox.get_info()


def test_what_there_never_was_is_not_found(http):
    answer = http.get(f"/v1/sandboxes/{'0' * 32}")
    assert answer.status_code == 404 and "doesn't exist" in answer.json()["message"]


def test_an_end_at_the_deadline_says_so(sandboxes, ended):
    sandbox = sandboxes(timeout=60)
    sandbox.set_timeout(1)
    assert ended(sandbox) == ("Terminated", "deadline")


def test_pauses_and_wakings_say_who_was_it(sandboxes, status, eventually, sdk_since):
    sdk_since(2, 60)
    sandbox = sandboxes(lifecycle={"on_timeout": "pause", "auto_resume": True})
    sandbox.set_timeout(0)
    eventually(lambda: status(sandbox) == ("Paused", "deadline"))
    assert sandbox.commands.run("echo woken").stdout == "woken\n"
    assert status(sandbox) == ("Running", "traffic")


def test_the_death_of_the_first_process_is_a_failure(sandboxes, ended):
    sandbox = sandboxes()
    (envd,) = processes_of(sandbox.sandbox_id, "envd")
    os.kill(envd, signal.SIGKILL)
    assert ended(sandbox) == ("Failed", "envd_died")


def own_memory(sandbox):
    """The files that say how much memory envd has, and may have."""
    v1 = ("memory.usage_in_bytes", "memory.limit_in_bytes")
    for usage, limit in [("memory.current", "memory.max"), v1]:
        for envd in CGROUPS.glob(f"**/coppice-{sandbox.sandbox_id}/envd"):
            if (envd / usage).exists():
                return envd / usage, envd / limit
    raise AssertionError("no memory controller")


def test_an_end_for_want_of_memory_is_told_as_the_kernel_tells_it(sandboxes, ended):
    sandbox = sandboxes()
    usage, limit = own_memory(sandbox)
    swap = limit.with_name("memory.memsw.limit_in_bytes")
    # What envd does next is more than it may.
    little = str(int(usage.read_text()) + (256 << 10) & ~4095)
    for file in [limit, swap]:
        if file.exists():
            file.write_text(little)
    for _ in range(50):
        try:
            sandbox.files.write("/dev/shm/large", "x" * (4 << 20), request_timeout=10)
        except Exception:
            break
    assert ended(sandbox) == ("Failed", "oom")


def test_memory_that_runs_out_in_a_sandbox_is_not_its_end(sandbox, status):
    hungry = "python3 -c 'x = bytearray(3 << 30)'"
    with pytest.raises(SandboxException):
        sandbox.commands.run(hungry)
    assert sandbox.commands.run("echo here").stdout == "here\n"
    assert status(sandbox) == ("Running", None)


def test_who_is_not_used_is_paused_and_keeps_all(sandboxes, status, eventually):
    sandbox = sandboxes(metadata={"coppice.idleTimeout": "2"})
    sandbox.files.write("note", "kept")
    used = time.monotonic()
    eventually(lambda: status(sandbox) == ("Paused", "idle"), timeout=20)
    assert time.monotonic() - used > 1.9
    assert sandbox.get_info().state == SandboxState.PAUSED
    assert sandbox.connect().files.read("note") == "kept"


def test_a_stream_is_use_and_asking_how_it_is_is_not(sandboxes, status, eventually):
    sandbox = sandboxes(metadata={"coppice.idleTimeout": "2"})
    assert sandbox.commands.run("sleep 4; echo slept").stdout == "slept\n"
    assert status(sandbox) == ("Running", None)
    began = time.monotonic()
    while sandbox.is_running():
        assert time.monotonic() - began < 20
        time.sleep(0.2)
    eventually(lambda: status(sandbox) == ("Paused", "idle"))


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "soon"])
def test_an_idle_timeout_that_is_none_is_refused(gateway, value):
    with pytest.raises(SandboxException, match="coppice.idleTimeout"):
        Sandbox.create(metadata={"coppice.idleTimeout": value})


def test_who_comes_while_it_is_being_paused_is_held_and_answered(gateway, sandboxes, sdk_since):
    """Of requests that race pauses, those that were not sent wait; the others say so."""
    sdk_since(2, 60)
    sandbox = sandboxes(lifecycle={"on_timeout": "pause", "auto_resume": True})
    sandbox.files.write("note", "kept")
    over, answers, pauses = threading.Event(), [], []

    def ask():
        url = "/files?path=/home/user/note"
        headers = {
            "E2b-Sandbox-Id": sandbox.sandbox_id,
            "E2b-Sandbox-Port": "49983",
            "X-Access-Token": sandbox._envd_access_token,
        }
        with gateway.http(**headers) as http:
            while not over.is_set():
                try:
                    answer = http.get(url)
                except httpx.ReadError:
                    # Cut in the middle of its answer.
                    continue
                retry = answer.headers.get("should-retry")
                answers.append((answer.status_code, retry, answer.text))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for _ in range(40):
        pauses.append(Sandbox.pause(sandbox.sandbox_id))
        time.sleep(0.02)
    over.set()
    for thread in asking:
        thread.join()
    assert any(pauses) and (200, None, "kept") in answers
    others = [answer[:2] for answer in answers if answer != (200, None, "kept")]
    assert set(others) <= {(502, "false")}, others


def test_the_longest_life_is_the_operators_to_set(new_gateway):
    gateway = new_gateway("--max-timeout", "1").start()
    with pytest.raises(SandboxException, match="Timeout cannot be greater than 1 hours"):
        Sandbox.create(timeout=3601, **gateway.opts)
    with Sandbox.create(timeout=3600, **gateway.opts) as sandbox:
        with pytest.raises(SandboxException, match="Timeout cannot be greater than 1 hours"):
            Sandbox.connect(sandbox.sandbox_id, timeout=3601, **gateway.opts)
        sandbox.set_timeout(86_400)
        info = sandbox.get_info()
        assert abs((info.end_at - info.started_at).total_seconds() - 3600) < 1


def test_without_one_a_sandbox_may_live_for_years(sandboxes):
    sandbox = sandboxes(timeout=10 * 365 * 86_400)
    left = sandbox.get_info().end_at - datetime.now(timezone.utc)
    assert left.days >= 3649


def test_a_new_gateway_says_how_those_it_found_dead_had_ended(new_gateway):
    gateway = new_gateway().start()
    dead, late, living = (Sandbox.create(timeout=60, **gateway.opts) for _ in range(3))
    late.set_timeout(1)
    (envd,) = processes_of(dead.sandbox_id, "envd")
    gateway.end(signal.SIGKILL)
    os.kill(envd, signal.SIGKILL)
    time.sleep(1.1)
    gateway.start()
    with gateway.http() as http:

        def reason(sandbox):
            return http.get(f"/v1/sandboxes/{sandbox.sandbox_id}").json()["status"].get("reason")

        assert [reason(one) for one in (dead, late, living)] == ["envd_died", "deadline", None]
    living.kill()
