"""An HTTP server of a test's own that takes events, and fails when it is told to."""

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver:
    """`answers` are statuses for the next requests, or functions of what came that return one; without
    any it is 200."""

    def __init__(self, answer_with=None):
        self.requests, self.answers, self.lock = [], [], threading.Lock()
        self.answer_with = answer_with or (lambda request: {})
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self):
                super().setup()
                receiver.open.add(self.connection)

            def finish(self):
                receiver.open.discard(self.connection)
                super().finish()

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = receiver.take(self.path, self.headers, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.handler, self.server = Handler, None
        self.port, self.open = None, set()

    def start(self):
        """On the port it had before."""
        ThreadingHTTPServer.allow_reuse_address = True
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port or 0), self.handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def take(self, path, headers, body):
        named = {name.lower(): value for name, value in headers.items()}
        request = {"path": path, "headers": named, "body": json.loads(body)}
        with self.lock:
            status = self.answers.pop(0) if self.answers else 200
            self.requests.append({**request, "status": status})
        return status, self.answer_with(request) if status < 300 else {"message": str(headers)}

    def bodies(self, status=200):
        """Of requests that were answered so."""
        with self.lock:
            return [one["body"] for one in self.requests if one["status"] == status]

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            # Connections that are kept would be answered on.
            for connection in list(self.open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.server = None
