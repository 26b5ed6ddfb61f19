"""Many streams on one HTTP/2 connection."""

import json
import struct

import h2.config
import h2.connection
import h2.events
import h2.settings

# What the gateway allows at once (`MAX_STREAMS`).
MOST = 256
MORE = 40
MAX_STREAMS = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS


class Multiplexed:
    """One connection with prior knowledge, and what has come on each of its streams."""

    def __init__(self, wire):
        self.socket, self.received, self.ended, self.refused = wire.socket, {}, set(), {}
        config = h2.config.H2Configuration(header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.flush()
        self.until(lambda: self.h2.remote_settings.max_concurrent_streams <= MOST)

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def request(self, method, path, body=b"", **headers):
        number = self.h2.get_next_available_stream_id()
        self.received[number] = b""
        pseudo = {":method": method, ":path": path, ":scheme": "http", ":authority": "localhost"}
        named = {name.lower(): str(value) for name, value in headers.items()}
        self.h2.send_headers(number, list({**pseudo, **named}.items()), end_stream=not body)
        if body:
            self.h2.send_data(number, body, end_stream=True)
        self.flush()
        return number

    def until(self, condition):
        while not condition():
            data = self.socket.recv(1 << 16)
            assert data, "the connection has ended"
            for event in self.h2.receive_data(data):
                self.take(event)
            self.flush()

    def take(self, event):
        match event:
            case h2.events.DataReceived(stream_id=number, data=data):
                self.received[number] += data
                self.h2.acknowledge_received_data(event.flow_controlled_length, number)
            case h2.events.StreamEnded(stream_id=number):
                self.ended.add(number)
            case h2.events.StreamReset(stream_id=number, error_code=code):
                self.refused[number] = code


def start(connection, sandbox, *argv):
    message = json.dumps({"process": {"cmd": argv[0], "args": argv[1:]}, "stdin": False}).encode()
    headers = {"Content-Type": "application/connect+json", **sandbox.routing()}
    body = struct.pack(">BI", 0, len(message)) + message
    return connection.request("POST", "/process.Process/Start", body, **headers)


def test_one_connection_has_256_streams_and_refuses_more(load):
    sandbox = load.sandbox()
    connection = Multiplexed(load.wire())
    script = "echo begun; until [ -e /tmp/go ]; do sleep 0.5; done"
    streams = [start(connection, sandbox, "/bin/sh", "-c", script) for _ in range(MOST)]
    connection.until(lambda: all(b"stdout" in connection.received[s] for s in streams))

    # A client that does not keep to what it was told.
    connection.h2.remote_settings[MAX_STREAMS] = MOST + MORE
    connection.h2.remote_settings.acknowledge()
    more = [connection.request("GET", "/health") for _ in range(MORE)]
    connection.until(lambda: set(more) <= connection.refused.keys())
    refused_stream = h2.errors.ErrorCodes.REFUSED_STREAM
    assert {connection.refused[number] for number in more} == {refused_stream}

    # The others have come to no harm, and when they have ended there is room again.
    load.wire().start(sandbox, "/bin/touch", "/tmp/go").end()
    connection.until(lambda: set(streams) <= connection.ended)
    assert all(b'"exited":true' in connection.received[number] for number in streams)
    again = connection.request("GET", "/health")
    connection.until(lambda: again in connection.ended)
    assert b"healthy" in connection.received[again]
