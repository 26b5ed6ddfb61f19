"""More of a sandbox goes through the gateway than it may: streams at once, and bytes a second."""

import contextlib
import select
import time

import pytest
from e2b import RateLimitException

from attack import Held, attack, to_envd

STREAMS = 4
RATE = 256 << 10
SECONDS = 2
# What may come at once, what lies in buffers on the way, and what a clock may be wrong by.
MOST = 4 * RATE * SECONDS


@pytest.fixture
def bounded(world):
    limits = f"streams={STREAMS},output={RATE >> 10}"
    with world.another(metadata={"coppice.limits": limits}) as sandbox:
        yield sandbox


@attack("limits", without="limits")
def test_more_streams_are_open_than_a_sandbox_may_have(world, bounded):
    """The SDK, which has no more than one of its own for each command."""
    running = []
    try:
        for _ in range(STREAMS + 1):
            running.append(bounded.commands.run("sleep 60", background=True, timeout=0))
    except RateLimitException as error:
        # A process can still be ended, and its place is free then.
        assert running[0].kill()
        with contextlib.suppress(Exception):
            running[0].wait()
        deadline = time.monotonic() + 20
        while True:
            try:
                assert bounded.commands.run("echo again").stdout == "again\n"
                break
            except RateLimitException:
                assert time.monotonic() < deadline, "its place is not free"
        raise Held(f"{len(running)} are open: {error}") from error
    finally:
        for command in running[1:]:
            command.disconnect()
    return f"{len(running)} streams"


@attack("limits", without="limits")
def test_more_connections_are_open_to_a_port_than_a_sandbox_may_have(world, bounded):
    serving = "import socket, time; one = socket.create_server(('127.0.0.1', 8080))"
    bounded.files.write("/tmp/serve.py", f"{serving}; open('/tmp/up', 'w'); time.sleep(600)")
    bounded.commands.run("python3 /tmp/serve.py", background=True, timeout=0).disconnect()
    deadline = time.monotonic() + 20
    while not bounded.files.exists("/tmp/up"):
        assert time.monotonic() < deadline, "its server never listens"
    head = "".join(f"{name}: {value}\r\n" for name, value in to_envd(bounded).items())
    head = head.replace("49983", "8080")
    # Where nothing is refused only silence tells.
    answers, deadline = [], time.monotonic() + (2 if world.down else 20)
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(STREAMS + 4):
            silent.append(stack.enter_context(world.gateway.dial()))
            silent[-1].sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
        # Whoever is let hears nothing.
        while len(answers) < 4 and time.monotonic() < deadline:
            for connection in select.select(silent, [], [], 1)[0]:
                answers.append(connection.recv(1 << 16))
                silent.remove(connection)
    refused = [answer for answer in answers if answer.startswith(b"HTTP/1.1 429 ")]
    # The command that serves may still count as one.
    if len(refused) >= 4:
        assert all(b"retry-after" in answer.lower() for answer in refused)
        raise Held(f"{len(refused)} are refused: {refused[0]}")
    return f"{STREAMS + 4} connections, and {answers}"


@attack("limits", without="limits")
def test_more_comes_out_than_a_sandbox_may_say(world, bounded):
    bounded.files.write("/tmp/much", b"a" * (16 << 20))
    came = 0
    head = "".join(f"{name}: {value}\r\n" for name, value in to_envd(bounded).items())
    with world.gateway.dial() as connection:
        line = "GET /files?path=/tmp/much&username=user HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(f"{line}{head}\r\n".encode())
        # From the first of it.
        connection.settimeout(20)
        came += len(connection.recv(1 << 18))
        end = time.monotonic() + SECONDS
        connection.settimeout(0.1)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                came += len(connection.recv(1 << 18))
    assert came > RATE // 4, f"only {came} came"
    return came > MOST and f"{came >> 10} KiB in {SECONDS} s"
