"""A program in envd's place that lies, stalls, floods and sends garbage.

It listens on the sockets that the gateway reaches a sandbox by, `envd.sock`, `tunnel.sock` and
`report.sock`, in place of the sandbox's own envd, which code inside cannot remove: from the
gateway's side nothing tells it from an envd that such code has taken over.
"""

import array
import contextlib
import itertools
import os
import socket
import tempfile
import threading
import time

SOCKETS = ("envd.sock", "tunnel.sock", "report.sock")
OK = b"HTTP/1.1 200 OK\r\n"
GOOD = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
OPEN, REFUSED = 1, 2
# As much as one message of descriptors may carry (Linux).
MOST_DESCRIPTORS = 253


def report(seq, what='"kernel_started","language":"python"', kernels=3):
    at = time.time_ns() // 1_000_000
    return f'{{"seq":{seq},"at":{at},"kernels":{kernels},"type":{what}}}\n'.encode()


def one_of(*variants):
    """Each connection gets the next."""
    turn = itertools.count()

    def behave(connection, name):
        chosen = variants[next(turn) % len(variants)]
        chosen(connection, name) if callable(chosen) else connection.sendall(chosen)

    return behave


def forever(start, piece):
    def behave(connection, _):
        connection.sendall(start)
        while True:
            connection.sendall(piece)

    return behave


def silent(connection, _):
    """Until the other end has had enough."""
    while connection.recv(65536):
        pass


def slowly(connection, name):
    text = {"envd.sock": OK + b"X: a\r\n" * 99, "tunnel.sock": b"", "report.sock": report(1)}[name]
    for byte in text:
        connection.sendall(bytes([byte]))
        time.sleep(1)
    silent(connection, name)


def hang_up(_connection, _):
    pass


def reports_without_end(connection, _):
    for first in itertools.count(1, 500):
        connection.sendall(b"".join(map(report, range(first, first + 500))))


def wrong_numbers(connection, _):
    largest = (1 << 64) - 1
    connection.sendall(report(largest, '"code_executed","failed":true,"duration_ms":%d' % largest))
    connection.sendall(report(largest) + report(0) + b'{"seq":-1}\n' + b"[" * 4000 + b"\n")


def ten_thousand(connection, name):
    many = {
        "envd.sock": (OK + b"Content-Length: 1\r\n\r\na") * 10_000,
        "tunnel.sock": bytes([OPEN]) * 10_000,
        "report.sock": b"".join(report(seq) for seq in range(1, 10_001)),
    }
    connection.sendall(many[name])
    silent(connection, name)


def descriptors(connection, name):
    """Of all kinds, in one message and in many."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        pair = [stack.enter_context(end) for end in socket.socketpair()]
        file = stack.enter_context(tempfile.TemporaryFile())
        opened = [os.open("/", os.O_RDONLY | os.O_DIRECTORY), *os.pipe(), os.memfd_create("x")]
        for fd in opened:
            stack.callback(os.close, fd)
        kinds = [listener.fileno(), pair[0].fileno(), file.fileno(), *opened]
        byte = {"envd.sock": b"H", "tunnel.sock": bytes([OPEN]), "report.sock": b"{"}[name]
        for given in (*([kind] for kind in kinds), kinds, kinds[:1] * MOST_DESCRIPTORS):
            rights = array.array("i", given)
            connection.sendmsg([byte], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        silent(connection, name)


def passes(kind):
    """Answers a request for a port with one descriptor that is no open connection to it."""

    def behave(connection, name):
        if name != "tunnel.sock":
            return silent(connection, name)
        with contextlib.ExitStack() as stack:
            given = kind(stack)
            rights = array.array("i", given)
            connection.sendmsg([bytes([OPEN])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            silent(connection, name)

    return behave


def a_directory(stack):
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, fd)
    return [fd]


def a_listener(stack):
    return [stack.enter_context(socket.create_server(("127.0.0.1", 0))).fileno()]


def a_stranger(stack):
    """A connection in order, on which nobody answers."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return [stack.enter_context(socket.create_connection(listener.getsockname())).fileno()]


def length(of):
    return OK + b"Content-Length: " + of + b"\r\n\r\nshort"


BEHAVIOURS = {
    "never answers": silent,
    "answers a byte a second": slowly,
    "closes at once": hang_up,
    "sends headers without end": forever(OK, b"X: " + b"a" * 4096 + b"\r\n"),
    "sends one header without end": forever(OK + b"X: ", b"a" * 65536),
    "lies about lengths": one_of(
        length(b"-1"),
        length(b"18446744073709551615"),
        length(b"9" * 40),
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        length(b"1, 2"),
        wrong_numbers,
    ),
    "sends chunks that are none": one_of(
        CHUNKED + b"zz\r\nhello\r\n",
        CHUNKED + b"fffffffffffffffff\r\nhello",
        CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
        forever(CHUNKED + b"5;", b"a" * 65536),
        forever(CHUNKED + b"0\r\n", b"X: a\r\n" * 1000),
    ),
    "speaks HTTP/2": one_of(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" * 100,
        forever(b"\0\0\x12\x04\0\0\0\0\0", b"\0\0\x08\x06\0\0\0\0\0pingpong" * 1000),
    ),
    "sends a body without end": one_of(
        forever(CHUNKED, b"1000\r\n" + b"a" * 4096 + b"\r\n"),
        forever(OK + b"\r\n", b"a" * 65536),
        forever(length(b"9223372036854775807"), b"a" * 65536),
    ),
    "answers with no status there is": one_of(
        b"HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 000 What\r\n\r\n",
        b"HTTP/1.1 -1 What\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno",
    ),
    "says to go on without end": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "reports without end": one_of(reports_without_end, wrong_numbers),
    "reports a line without end": forever(b'{"seq":', b"1" * 65536),
    "passes descriptors": one_of(descriptors, *map(passes, (a_directory, a_listener, a_stranger))),
    "answers ten thousand times": ten_thousand,
    "sends what nobody understands": one_of(os.urandom(1 << 16), b"\0" * 4096, b"\xff\r\n\r\n"),
}


class Liar:
    """In the place of the envd of the sandbox in a directory, until it is closed."""

    def __init__(self, directory, behave=None, asked_whose=GOOD):
        """`asked_whose` is what it answers to whoever tells it whose sandbox it is: bytes, or a
        behaviour as well."""
        self.directory, self.behave, self.asked_whose = directory, behave, asked_whose
        self.served, self.open, self.lock = 0, set(), threading.Lock()
        self.listeners = [self._take_place(name) for name in SOCKETS]

    def _take_place(self, name):
        path = self.directory / name
        path.unlink()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{path}")
        listener.listen(128)
        threading.Thread(target=self._accept, args=(listener, name), daemon=True).start()
        return listener

    def _accept(self, listener, name):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._serve, args=(connection, name), daemon=True).start()

    def _serve(self, connection, name):
        with self.lock:
            self.served += 1
            self.open.add(connection)
        with contextlib.suppress(OSError), connection:
            if b"/init" in connection.recv(65536):
                if not callable(self.asked_whose):
                    connection.sendall(self.asked_whose)
                    return silent(connection, name)
                self.asked_whose(connection, name)
            elif self.behave:
                self.behave(connection, name)
            else:
                silent(connection, name)
        with self.lock:
            self.open.discard(connection)

    def close(self):
        with self.lock:
            for one in (*self.listeners, *self.open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for listener in self.listeners:
            listener.close()
