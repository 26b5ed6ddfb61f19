"""Clients that close their sending half once they have asked."""

import base64
import json
import socket
import time
from http.client import IncompleteRead

import pytest

from conftest import KEY

# Those that are sent something now and then, and those that are sent nothing, at any moment.
TOLD, UNTOLD = 100, 100
# What a client that is sent nothing is given (`Limits::half_closed`, s).
PATIENCE = 5


def half_closed(wire, method, target, body=b"", **headers):
    wire.send(method, target, body, **headers)
    wire.socket.shutdown(socket.SHUT_WR)
    answer = wire.answer()
    return answer.status, answer.read()


def test_a_half_closed_connection_gets_its_answer(load):
    sandbox = load.sandbox()
    status, _ = half_closed(load.wire(), "GET", "/health")
    assert status == 200
    status, listed = half_closed(load.wire(), "GET", "/v2/sandboxes", **{"X-API-Key": KEY})
    assert status == 200 and sandbox.id in {each["sandboxID"] for each in json.loads(listed)}

    content = bytes(range(256)) * 4096
    upload = {"Content-Type": "application/octet-stream", **sandbox.routing()}
    status, _ = half_closed(load.wire(), "POST", "/files?path=/tmp/half", content, **upload)
    assert status == 200
    down = half_closed(load.wire(), "GET", "/files?path=/tmp/half", **sandbox.routing())
    assert down == (200, content)


def test_a_half_closed_create_makes_its_sandbox(load):
    body = json.dumps({"templateID": "base", "timeout": 60}).encode()
    status, made = half_closed(load.wire(), "POST", "/sandboxes", body, **{"X-API-Key": KEY})
    assert status == 201
    made = json.loads(made)
    assert made["sandboxID"] in load.gateway.ids()
    status, _ = load.wire().ask("DELETE", f"/sandboxes/{made['sandboxID']}", **{"X-API-Key": KEY})
    assert status == 204


def test_a_half_closed_command_runs_to_its_end(load):
    wire = load.wire()
    stream = wire.start(load.sandbox(), "/bin/sh", "-c", "sleep 1; echo done")
    wire.socket.shutdown(socket.SHUT_WR)
    output, ended = stream.end()
    assert output == b"done\n" and ended["exited"]


def test_one_that_is_sent_nothing_for_long_counts_as_gone(load):
    wire = load.wire(patience=20)
    stream = wire.start(load.sandbox(), "/bin/sleep", "600")
    wire.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(IncompleteRead):
        stream.end()


def test_half_closed_connections_hold_nobody_up(load, healthy):
    sandbox, ticks = load.sandbox(), "/tmp/ticks"
    ticking = f"until [ -e /tmp/stop ]; do echo tick >> {ticks}; sleep 0.5; done"
    load.wire().start(sandbox, "/bin/sh", "-c", f"{ticking}; echo last >> {ticks}")
    tail = ["/usr/bin/tail", "--retry", "-f", ticks]
    told = [half_closed_stream(load, sandbox, *tail) for _ in range(TOLD)]
    untold = []

    def come_and_go():
        untold.append(half_closed_stream(load, sandbox, "/bin/sleep", "600"))
        time.sleep(PATIENCE / UNTOLD)

    healthy.assert_unharmed(come_and_go)
    for stream in untold:
        with pytest.raises(IncompleteRead):
            stream.end()
    load.wire().start(sandbox, "/bin/touch", "/tmp/stop").end()
    for stream in told:
        read = b""
        while not read.endswith(b"last\n"):
            read += base64.b64decode(stream.event()["data"].get("stdout", ""))
        assert set(read.split()) == {b"tick", b"last"}


def half_closed_stream(load, sandbox, *argv):
    stream = load.wire().start(sandbox, *argv)
    stream.wire.socket.shutdown(socket.SHUT_WR)
    return stream
