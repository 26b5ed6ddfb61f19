"""A web server for the inside of a sandbox: plain, streaming and WebSocket answers.

Only the standard library; listens on 127.0.0.1 at the port given as the first argument.
"""

import base64
import hashlib
import json
import pathlib
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        {"/sse": self.events, "/ws": self.websocket, "/hold": self.hold}.get(
            self.path.partition("?")[0], self.tell
        )()

    def do_POST(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            digest = hashlib.sha256()
            while size := int(self.rfile.readline(), 16):
                digest.update(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            digest = hashlib.sha256(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, digest.hexdigest().encode())

    do_PUT = do_POST

    def answer(self, status, body, kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def tell(self):
        told = {"path": self.path, "headers": {k.lower(): v for k, v in self.headers.items()}}
        status = 418 if self.path == "/teapot" else 200
        self.answer(status, json.dumps(told).encode(), "application/json")

    def stream(self, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def events(self):
        self.stream("text/event-stream")
        for n in range(3):
            self.wfile.write(f"data: {n}\n\n".encode())
            time.sleep(0.7)

    def hold(self):
        """Streams until the client is gone, then leaves a note of when."""
        self.stream("text/plain")
        try:
            while True:
                self.wfile.write(b".")
                time.sleep(0.05)
        except OSError:
            pathlib.Path("/tmp/client-gone").write_text("")

    def websocket(self):
        key = self.headers["Sec-WebSocket-Key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET).digest())
        self.send_header("Sec-WebSocket-Accept", accept.decode())
        self.end_headers()
        self.close_connection = True
        while True:
            opcode, payload = self.read_frame()
            if opcode == 8:
                self.wfile.write(b"\x88" + bytes([len(payload)]) + payload)
                return
            self.wfile.write(bytes([0x80 | opcode]) + self.length(len(payload)) + payload)

    def read_frame(self):
        first, second = self.rfile.read(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
        mask = self.rfile.read(4)
        data = self.rfile.read(size)
        mask = (mask * (size // 4 + 1))[:size]
        unmasked = int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")
        return first & 0x0F, unmasked.to_bytes(size, "big")

    @staticmethod
    def length(size):
        if size < 126:
            return bytes([size])
        return (
            b"\x7e" + size.to_bytes(2, "big")
            if size < 1 << 16
            else b"\x7f" + size.to_bytes(8, "big")
        )

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
