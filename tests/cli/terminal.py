"""A program on a terminal of its own, as if somebody sat before it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

ROWS, COLUMNS = 30, 100


class Terminal:
    def __init__(self, argv, env, on_success):
        self.shown, self.on_success = b"", on_success
        self.keyboard, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = subprocess.Popen(
            argv,
            env={**env, "TERM": "xterm"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.keyboard)

    def type(self, text):
        os.write(self.keyboard, text.encode())

    def wait_for(self, text, timeout=20):
        deadline = time.monotonic() + timeout
        while text.encode() not in self.shown:
            assert self._read(deadline), f"{text!r} is not in {self.shown!r}"

    def ended(self, timeout=20):
        """Its exit status, once it has ended by itself."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        status = self.process.wait(max(0.1, deadline - time.monotonic()))
        if status == 0:
            self.on_success()
        return status

    def _read(self, deadline):
        """Takes more of what it shows; false at its end, or when the time is over."""
        ready, _, _ = select.select([self.keyboard], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            more = os.read(self.keyboard, 65536)
        except OSError:
            return False  # The other end is closed.
        self.shown += more
        return bool(more)
