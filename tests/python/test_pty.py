"""Terminals through the SDK."""

import threading
import time

import pytest
from e2b import CommandExitException, PtySize, Sandbox

pytestmark = pytest.mark.sdk


class Screen:
    """Reads a terminal in the background and remembers all it showed."""

    def __init__(self, handle):
        self.shown, self.error = b"", None
        self.reader = threading.Thread(target=self._read, args=(handle,), daemon=True)
        self.reader.start()

    def _read(self, handle):
        try:
            handle.wait(on_pty=self._add)
        except Exception as error:
            self.error = error

    def _add(self, data):
        self.shown += data

    def wait_for(self, text, timeout=10):
        deadline = time.monotonic() + timeout
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.shown!r}"
            time.sleep(0.02)

    def ended(self, timeout=10):
        self.reader.join(timeout)
        assert not self.reader.is_alive(), "the terminal did not end"
        return self.error


def test_a_terminal_has_its_size_takes_input_and_ends(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"stty size; tty; echo $TERM-$LANG\n")
    screen.wait_for(b"24 80")
    screen.wait_for(b"/dev/pts/")
    screen.wait_for(b"xterm-256color-C.UTF-8")
    sandbox.pty.send_stdin(handle.pid, b"exit\n")
    assert screen.ended() is None


def test_a_terminal_is_resized(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"trap 'echo changed' WINCH; echo re''ady\n")
    screen.wait_for(b"ready")
    sandbox.pty.resize(handle.pid, PtySize(rows=50, cols=132))
    sandbox.pty.send_stdin(handle.pid, b"stty size\n")
    screen.wait_for(b"50 132")
    screen.wait_for(b"changed")
    sandbox.pty.kill(handle.pid)


def test_a_terminal_has_user_cwd_and_environment(sandbox):
    handle = sandbox.pty.create(
        PtySize(rows=24, cols=80), user="root", cwd="/etc", envs={"MINE": "yes"}
    )
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b'echo "<$(whoami) $PWD $MINE>"\n')
    screen.wait_for(b"<root /etc yes>")
    sandbox.pty.kill(handle.pid)


def test_control_c_interrupts_and_job_control_works(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    screen = Screen(handle)
    sandbox.pty.send_stdin(handle.pid, b"echo be''gun; sleep 100\n")
    screen.wait_for(b"begun")
    sandbox.pty.send_stdin(handle.pid, b"\x03")
    sandbox.pty.send_stdin(handle.pid, b"echo af''ter\n")
    screen.wait_for(b"after")
    sandbox.pty.send_stdin(handle.pid, b"sleep 100 & jobs; fg\n")
    screen.wait_for(b"Running")
    sandbox.pty.kill(handle.pid)
    assert b"no job control" not in screen.shown


def test_kill_ends_a_terminal_once(sandbox, eventually):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    screen = Screen(handle)
    assert [process.pid for process in sandbox.commands.list()] == [handle.pid]
    assert sandbox.pty.kill(handle.pid) is True
    assert isinstance(screen.ended(), CommandExitException)
    eventually(lambda: sandbox.commands.list() == [])
    assert sandbox.pty.kill(987654) is False


def test_a_second_client_connects_to_a_terminal(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    screen = Screen(handle)
    second = Sandbox.connect(sandbox.sandbox_id)
    other = Screen(second.pty.connect(handle.pid))
    second.pty.send_stdin(handle.pid, b"echo to''both\n")
    screen.wait_for(b"toboth")
    other.wait_for(b"toboth")
    sandbox.pty.kill(handle.pid)
    assert screen.ended() and other.ended()


def test_a_terminal_outlives_its_client(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    handle.disconnect()
    screen = Screen(sandbox.pty.connect(handle.pid))
    sandbox.pty.send_stdin(handle.pid, b"echo still''here\n")
    screen.wait_for(b"stillhere")
    sandbox.pty.kill(handle.pid)


def test_input_streams_into_a_terminal(sandbox, sdk_since):
    sdk_since(2, 46)
    handle = sandbox.pty.create(PtySize(rows=24, cols=80))
    screen = Screen(handle)
    sandbox.pty.stream_input(handle.pid, [b"echo st", b"rea''med\n"])
    screen.wait_for(b"streamed")
    sandbox.pty.kill(handle.pid)
