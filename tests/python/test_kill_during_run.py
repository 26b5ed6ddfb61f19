"""A sandbox that ends under its clients: what they get, and how fast."""

import asyncio
import os
import signal
import threading
import time

import httpx
import pytest
from e2b import AsyncSandbox, Sandbox, TimeoutException

from hoststate import processes_of

pytestmark = pytest.mark.sdk

ENDED = "sandbox was killed or reached its end of life"


def kill_through_the_api(sandbox):
    assert Sandbox.kill(sandbox.sandbox_id)


def reach_the_deadline(sandbox):
    Sandbox.set_timeout(sandbox.sandbox_id, 1)


@pytest.mark.parametrize("end", [kill_through_the_api, reach_the_deadline])
def test_a_running_command_tells_that_the_sandbox_has_ended(sandbox, end):
    handle = sandbox.commands.run("sleep 60", background=True)
    end(sandbox)
    asked = time.monotonic()
    with pytest.raises(TimeoutException, match=ENDED):
        handle.wait()
    assert time.monotonic() - asked < 3


def test_a_command_in_the_foreground_tells_it_too(sandbox):
    threading.Timer(1, kill_through_the_api, [sandbox]).start()
    with pytest.raises(TimeoutException, match=ENDED):
        sandbox.commands.run("echo some; sleep 60")


@pytest.mark.parametrize("how", ["kill", "deadline"])
async def test_a_running_command_tells_it_asynchronously(async_sandbox, how):
    handle = await async_sandbox.commands.run("sleep 60", background=True)
    if how == "kill":
        await AsyncSandbox.kill(async_sandbox.sandbox_id)
    else:
        await async_sandbox.set_timeout(1)
    with pytest.raises(TimeoutException, match=ENDED):
        await asyncio.wait_for(handle.wait(), 5)


async def test_a_watch_tells_it(async_sandbox):
    ends = asyncio.Queue()
    await async_sandbox.files.watch_dir("/tmp", lambda _: None, on_exit=ends.put)
    await async_sandbox.kill()
    error = await asyncio.wait_for(ends.get(), 5)
    assert isinstance(error, TimeoutException) and ENDED in str(error)


def test_a_download_in_flight_fails(sandbox):
    sandbox.commands.run("head -c 300000000 /dev/zero > /tmp/big")
    stream = sandbox.files.read("/tmp/big", format="stream")
    next(stream)
    sandbox.kill()
    asked = time.monotonic()
    with pytest.raises(httpx.TransportError):
        list(stream)
    assert time.monotonic() - asked < 5


@pytest.mark.local("kills a process on the gateway's host")
def test_the_sandbox_ends_with_its_first_process(sandbox, eventually):
    handle = sandbox.commands.run("sleep 60", background=True)
    (envd,) = processes_of(sandbox.sandbox_id, "envd")
    os.kill(envd, signal.SIGKILL)
    with pytest.raises(TimeoutException):
        handle.wait()
    eventually(lambda: not sandbox.is_running())
    eventually(lambda: not processes_of(sandbox.sandbox_id))
    assert sandbox.kill() is False


def open_stream(gateway, sandbox):
    """A command's event stream on a bare socket, read up to its first event."""
    body = b'{"process":{"cmd":"/bin/sleep","args":["60"]},"stdin":false}'
    message = b"\0" + len(body).to_bytes(4, "big") + body
    head = [
        "POST /process.Process/Start HTTP/1.1",
        f"Host: {gateway.host}",
        f"E2b-Sandbox-Id: {sandbox.sandbox_id}",
        "E2b-Sandbox-Port: 49983",
        f"X-Access-Token: {sandbox._envd_access_token}",
        "Content-Type: application/connect+json",
        "Connect-Protocol-Version: 1",
        f"Content-Length: {len(message)}",
    ]
    stream = gateway.connect()
    stream.sendall("\r\n".join([*head, "", ""]).encode() + message)
    seen = b""
    while b'"start"' not in seen:
        seen += stream.recv(4096)
    assert seen.startswith(b"HTTP/1.1 200"), seen
    return stream


def test_open_streams_are_reset_and_health_is_502_from_that_instant(gateway, sandbox):
    with open_stream(gateway, sandbox) as stream:
        sandbox.kill()
        assert not sandbox.is_running()
        asked = time.monotonic()
        with pytest.raises(ConnectionResetError):
            while stream.recv(4096):
                pass
        assert time.monotonic() - asked < 1


def test_later_calls_say_that_the_sandbox_is_gone(sandbox):
    sandbox.kill()
    for call in (
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.commands.list(),
        lambda: sandbox.files.list("/"),
        lambda: sandbox.files.read("/etc/passwd"),
        lambda: sandbox.files.write("x", "x"),
    ):
        with pytest.raises(TimeoutException):
            call()
