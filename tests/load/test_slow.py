"""Clients that read nothing, and clients that write a byte at a time."""

import hashlib
import itertools
import json
import socket
import time

from conftest import KEY
from hoststate import processes_of
from measure import Footprint

READERS = 30
WRITERS = 50
FILE = 16 << 20
OUTPUT = 4 << 20
# A reader that stands still holds some buffers in the gateway and some in envd (MiB).
HELD = 64


def test_readers_that_do_not_read_hold_little_and_nobody_up(load, healthy):
    # The healthy client is in the same sandbox, and in the same envd.
    sandbox = healthy.sandbox
    load.wire().start(sandbox, "/bin/sh", "-c", f"head -c {FILE} /dev/urandom > /tmp/big").end()
    (envd,) = processes_of(sandbox.id, "envd")
    start = {pid: Footprint.of(pid) for pid in (load.pid, envd)}

    downloads = [load.wire(receive_buffer=4096) for _ in range(READERS)]
    for wire in downloads:
        wire.send("GET", "/files?path=/tmp/big", **sandbox.routing())
    streams = [
        load.wire(receive_buffer=4096).start(sandbox, "/bin/sh", "-c", f"yes | head -c {OUTPUT}")
        for _ in range(READERS)
    ]
    healthy.assert_unharmed()
    for pid, before in start.items():
        grown = Footprint.of(pid).grown(before)
        print(f"memory for {READERS} downloads and as many streams: {grown:.1f} MiB")
        assert grown < HELD

    # None of it is lost.
    downloads[0].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    streams[0].wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    status, told = load.wire().ask("GET", "/files?path=/tmp/big", **sandbox.routing())
    late = downloads[0].answer()
    assert status == late.status == 200 and len(told) == FILE
    assert hashlib.sha256(late.read()).digest() == hashlib.sha256(told).digest()
    output, ended = streams[0].end()
    assert len(output) == OUTPUT and set(output) == set(b"y\n") and ended["exited"]


def test_writers_of_a_byte_at_a_time_are_answered(load, healthy):
    sandbox = healthy.sandbox
    uploads, timeouts = [], []
    content = "a byte at a time".encode()
    timeout = json.dumps({"timeout": 500}).encode()
    for number in range(WRITERS):
        wire = load.wire()
        kind = {"Content-Type": "application/octet-stream", **sandbox.routing()}
        wire.send_head("POST", f"/files?path=/tmp/slow/{number}", len(content), **kind)
        uploads.append((wire, iter(content)))
        wire = load.wire()
        target = f"/sandboxes/{sandbox.id}/timeout"
        wire.send_head("POST", target, len(timeout), **{"X-API-Key": KEY})
        timeouts.append((wire, iter(timeout)))

    def one_more_byte():
        time.sleep(0.05)
        for wire, left in itertools.chain(uploads, timeouts):
            if (byte := next(left, None)) is not None:
                wire.socket.sendall(bytes([byte]))

    healthy.assert_unharmed(one_more_byte)
    for _ in range(max(len(content), len(timeout))):
        one_more_byte()
    for wire, _ in uploads:
        assert wire.answer().status == 200
    for wire, _ in timeouts:
        assert wire.answer().status == 204
    reader = load.wire()
    for number in range(WRITERS):
        status, told = reader.ask("GET", f"/files?path=/tmp/slow/{number}", **sandbox.routing())
        assert (status, told) == (200, content)
