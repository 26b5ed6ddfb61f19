"""Clients that are gone in the middle of something."""

import itertools
import json
import time

from conftest import KEY
from measure import eventually

MANY = 400
# A create whose client is gone makes a sandbox that lives this long (s), if it makes one.
SHORT = 5


def in_the_head(wire, sandbox):
    wire.socket.sendall(b"GET /health HTTP/1.1\r\nHost: loc")


def before_the_answer(wire, sandbox):
    wire.send("GET", "/v2/sandboxes", **{"X-API-Key": KEY})


def in_an_upload(wire, sandbox):
    kind = {"Content-Type": "application/octet-stream", **sandbox.routing()}
    wire.send_head("POST", f"/files?path=/tmp/up/{id(wire)}", 1 << 22, **kind)
    wire.socket.sendall(bytes(1 << 16))


def in_a_download(wire, sandbox):
    wire.send("GET", "/files?path=/tmp/big", **sandbox.routing())
    assert len(wire.answer().read(1 << 16)) == 1 << 16


def in_a_command(wire, sandbox):
    wire.start(sandbox, "/bin/sleep", "600")


def in_a_watch(wire, sandbox):
    wire.stream(sandbox, "filesystem.Filesystem/WatchDir", path="/tmp")


def in_a_unary_call(wire, sandbox):
    body = json.dumps({"path": "/usr/lib", "depth": 2}).encode()
    kind = {"Content-Type": "application/json", **sandbox.routing()}
    wire.send("POST", "/filesystem.Filesystem/ListDir", body, **kind)


def in_a_create(wire, sandbox):
    body = json.dumps({"templateID": "base", "timeout": SHORT}).encode()
    wire.send("POST", "/sandboxes", body, **{"X-API-Key": KEY})


WAYS = [
    in_the_head,
    before_the_answer,
    in_an_upload,
    in_a_download,
    in_a_command,
    in_a_watch,
    in_a_unary_call,
    in_a_create,
]


def test_clients_that_vanish_hold_nobody_up_and_leave_nothing(load, healthy):
    sandbox, ids = load.sandbox(), load.gateway.ids()
    script = "mkdir /tmp/up; head -c 67108864 /dev/zero > /tmp/big"
    load.wire().start(sandbox, "/bin/sh", "-c", script).end()
    gone = itertools.count()

    def come_and_go():
        number = next(gone)
        wire = load.wire()
        WAYS[number % len(WAYS)](wire, sandbox)
        # With a reset and in good order by turns.
        if number // len(WAYS) % 2:
            wire.vanish()
        else:
            wire.close()
        time.sleep(0.01)

    healthy.assert_unharmed(come_and_go)
    while next(gone) < MANY:
        come_and_go()

    calls = load.wire()

    def files():
        path = "/tmp/up"
        return calls.call(sandbox, "filesystem.Filesystem/ListDir", path=path).get("entries", [])

    eventually(lambda: not files(), 15, "uploads that broke off leave no file")
    eventually(lambda: load.gateway.ids() <= ids, SHORT + 15, "creates nobody waits for end")
    output, ended = calls.start(sandbox, "/bin/echo", "still here").end()
    assert output == b"still here\n" and ended["exited"]
