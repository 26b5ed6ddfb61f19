"""Clients that close their sending half once they have asked."""

import json
import socket
from http.client import IncompleteRead

import pytest

from conftest import KEY


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
