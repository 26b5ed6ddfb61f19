"""A client of few parts: blocking sockets, HTTP/1.1 and Connect's envelopes by hand.

Unlike an SDK it can stop in the middle of anything, and a thousand of it cost next to nothing.
"""

import base64
import json
import socket
import struct
from dataclasses import dataclass
from http.client import HTTPResponse

ENVD = 49983
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Sandbox:
    id: str
    token: str

    def routing(self, port=ENVD):
        return {
            "E2b-Sandbox-Id": self.id,
            "E2b-Sandbox-Port": port,
            "X-Access-Token": self.token,
        }


class Wire:
    """One connection."""

    def __init__(self, address, source=None, patience=30, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(patience)
        if source:
            self.socket.bind((source, 0))
        self.socket.connect(address)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def vanish(self):
        """Ends with a reset, as a client does that crashed or lost its network."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.socket.close()

    def send(self, method, target, body=b"", **headers):
        self.socket.sendall(head(method, target, len(body), **headers) + body)

    def send_head(self, method, target, length, **headers):
        """All of a request but its body."""
        self.socket.sendall(head(method, target, length, **headers))

    def answer(self):
        """The next response, its body still to be read."""
        response = HTTPResponse(self.socket)
        response.begin()
        return response

    def ask(self, method, target, body=b"", **headers):
        """One whole exchange: the status and the body."""
        self.send(method, target, body, **headers)
        answer = self.answer()
        return answer.status, answer.read()

    def call(self, sandbox, method, **request):
        """A unary call of envd's, which has to succeed."""
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json", **sandbox.routing()}
        status, body = self.ask("POST", f"/{method}", body, **headers)
        assert status == 200, (status, body)
        return json.loads(body)

    def stream(self, sandbox, method, **request):
        """A call of envd's that answers in a stream."""
        message = json.dumps(request).encode()
        headers = {"Content-Type": "application/connect+json", **sandbox.routing()}
        self.send("POST", f"/{method}", struct.pack(">BI", 0, len(message)) + message, **headers)
        return Stream(self)

    def start(self, sandbox, *argv, stdin=False):
        """Starts a command and returns its stream."""
        process = {"cmd": argv[0], "args": argv[1:]}
        return self.stream(sandbox, "process.Process/Start", process=process, stdin=stdin)


class Stream:
    """What comes back of a command."""

    def __init__(self, wire):
        self.wire, self.response = wire, wire.answer()
        assert self.response.status == 200, self.response.read()
        self.pid = self.event()["start"].get("pid")

    def event(self):
        """The next event; `None` once the stream has ended as it should."""
        flag, size = struct.unpack(">BI", self.response.read(5))
        message = json.loads(self.response.read(size))
        if flag == 2:
            assert message == {} and self.response.read() == b"", message
            return None
        return message.get("event", message)

    def output(self, size):
        """Exactly that many bytes of standard output."""
        found = b""
        while len(found) < size:
            found += base64.b64decode(self.event()["data"]["stdout"])
        assert len(found) == size, found
        return found

    def end(self):
        """Everything up to the end: the output, and how the process ended."""
        output, ended = b"", None
        while event := self.event():
            output += base64.b64decode(event.get("data", {}).get("stdout", ""))
            ended = event.get("end", ended)
        return output, ended


def head(method, target, length=0, **headers):
    lines = [f"{method} {target} HTTP/1.1"]
    named = {"Host": "localhost", "Content-Length": length, **headers}
    lines += [f"{name}: {value}" for name, value in named.items()]
    return "\r\n".join([*lines, "", ""]).encode()
