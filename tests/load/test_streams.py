"""A thousand open command streams."""

import base64
import itertools

from hoststate import processes_of
from measure import Footprint

STREAMS = 1000
SANDBOXES = 20


def test_a_thousand_command_streams_deliver_and_end(load, healthy):
    start = Footprint.of(load.pid)
    sandboxes = [load.sandbox() for _ in range(SANDBOXES)]
    streams = []
    for number in range(STREAMS):
        sandbox = sandboxes[number % SANDBOXES]
        streams.append((load.wire().start(sandbox, "/bin/cat", stdin=True), sandbox))
    calls = load.wire()

    asked = itertools.count()

    def ask(number=None):
        number = next(asked) if number is None else number
        stream, sandbox = streams[number % STREAMS]
        told = f"number {number}\n".encode()
        stdin = {"stdin": base64.b64encode(told).decode()}
        calls.call(sandbox, "process.Process/SendInput", process={"pid": stream.pid}, input=stdin)
        assert stream.output(len(told)) == told

    healthy.assert_unharmed(ask)
    grown = Footprint.of(load.pid).grown(start)
    print(f"memory for {STREAMS} streams: {grown:.1f} MiB")
    assert grown < 128
    for number in range(STREAMS):
        ask(number)

    for stream, sandbox in streams:
        calls.call(sandbox, "process.Process/CloseStdin", process={"pid": stream.pid})
    for stream, _ in streams:
        output, ended = stream.end()
        assert output == b"" and ended == {"exited": True, "status": "exit status 0"}
    for sandbox in sandboxes:
        assert processes_of(sandbox.id, "user") == []
