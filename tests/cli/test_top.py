"""`coppice top` on a real terminal, whose screen is read as a person would, and without one."""

import fcntl
import json
import signal
import struct
import subprocess
import termios
import time

import pyte
import pytest

from gateway import BINARY, KEY, STARTED_WITH, coppice
from terminal import COLUMNS, ROWS, Terminal


@pytest.fixture
def user(gateway):
    return {**STARTED_WITH, "COPPICE_URL": gateway.url, "COPPICE_API_KEY": KEY}


class Screen:
    """What a terminal shows by now."""

    def __init__(self, terminal, rows=ROWS, columns=COLUMNS):
        self.terminal, self.seen = terminal, 0
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)

    def lines(self):
        self.terminal._read(time.monotonic() + 0.05)  # noqa: SLF001
        more = self.terminal.shown[self.seen :]
        self.seen += len(more)
        self.stream.feed(more)
        return [line.rstrip() for line in self.screen.display]

    def wait_for(self, wanted, timeout=20):
        deadline = time.monotonic() + timeout
        while not wanted(lines := self.lines()):
            assert time.monotonic() < deadline, "\n".join(lines)
        return lines


@pytest.fixture
def top(user):
    """Starts one on a terminal; it ends with the test."""
    started = []

    def start(*flags):
        argv = [BINARY, "top", "--interval", "1", *flags]
        started.append(Terminal(argv, user, lambda: None))
        started[-1].__enter__()
        return started[-1]

    yield start
    for one in started:
        one.__exit__()


@pytest.fixture
def two(gateway):
    """Two sandboxes: one that is paused, and one in which something runs."""
    with gateway.http() as http:
        made = [
            http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 120}).json()
            for _ in range(2)
        ]
        paused, busy = (one["sandboxID"] for one in made)
        http.post(f"/sandboxes/{paused}/pause").raise_for_status()
        to_port = {"E2b-Sandbox-Id": busy, "E2b-Sandbox-Port": "49983"}
        for _ in range(7):
            http.get("/health", headers=to_port)
        yield paused, busy
        for id in (paused, busy):
            http.delete(f"/sandboxes/{id}")


def row_of(lines, id):
    return next((line.split() for line in lines if line.startswith(id[:12])), None)


def modes(terminal):
    return termios.tcgetattr(terminal.keyboard)


def test_a_terminal_shows_what_sandboxes_use_sorted_and_filtered_by_keys(top, two, gateway):
    paused, busy = two
    terminal = top()
    screen = Screen(terminal)
    lines = screen.wait_for(lambda lines: row_of(lines, paused) and row_of(lines, busy))
    assert lines[2].split() == "SANDBOX STATE AGE CPU% MEMORY DISK PROC REQ/S REQUESTS".split()
    assert lines[0].startswith("1 running, 1 paused; cpu ")
    assert row_of(lines, paused)[1] == "paused" and row_of(lines, busy)[1] == "running"
    assert row_of(lines, busy)[4].endswith("/1.0GiB")
    assert int(row_of(lines, busy)[8]) >= 7
    assert lines[-1].startswith("by cpu | / only, R reverse, q quit")
    first = lambda lines: lines[3][:12]  # noqa: E731
    terminal.type("s")
    screen.wait_for(lambda lines: first(lines) == paused[:12])
    terminal.type("R")
    screen.wait_for(lambda lines: first(lines) == busy[:12] and "reversed" in lines[-1])
    terminal.type("/paus")
    screen.wait_for(lambda lines: lines[-1].startswith("show only: paus_"))
    lines = screen.wait_for(lambda lines: not row_of(lines, busy))
    assert row_of(lines, paused) and "1 shown" in lines[0]
    terminal.type("\x1b")
    screen.wait_for(lambda lines: row_of(lines, busy))
    # One that comes and goes is seen without a key.
    with gateway.http() as http:
        id = http.post("/v2/sandboxes", json={"templateID": "base"}).json()["sandboxID"]
        screen.wait_for(lambda lines: row_of(lines, id))
        http.delete(f"/sandboxes/{id}")
        screen.wait_for(lambda lines: not row_of(lines, id))
    terminal.type("q")
    assert terminal.ended() == 0


def test_it_fills_a_terminal_that_grows(top, two):
    terminal = top()
    small = Screen(terminal)
    small.wait_for(lambda lines: row_of(lines, two[0]))
    fcntl.ioctl(terminal.keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    large = Screen(terminal, 40, 140)
    large.seen = len(terminal.shown)
    lines = large.wait_for(lambda lines: lines[2].split()[-1:] == ["TEMPLATE"])
    lines = large.wait_for(lambda lines: row_of(lines, two[1]))
    assert row_of(lines, two[1])[9:] == ["default", "base"] and lines[39].startswith("by cpu")


@pytest.mark.parametrize("end", ["q", "\x03", signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_given_back_however_it_ends(top, end):
    terminal = top()
    raw = Screen(terminal)
    raw.wait_for(lambda lines: lines[2].startswith("SANDBOX"))
    assert not modes(terminal)[3] & termios.ICANON
    if isinstance(end, str):
        terminal.type(end)
    else:
        terminal.process.send_signal(end)
    # Before the other end is closed, which forgets it all.
    status = terminal.process.wait(10)
    terminal._read(time.monotonic() + 1)  # noqa: SLF001
    assert status == 0
    assert terminal.shown.rstrip().endswith(b"\x1b[?7h\x1b[?25h\x1b[?1049l")


def test_it_is_stopped_and_goes_on_as_any_program(user, eventually):
    # By a shell that looks after its jobs: one that nobody would continue is not stopped.
    program = f"{BINARY} top --interval 1; echo stopped; read -r _; fg"
    with Terminal(["bash", "-mc", program], user, lambda: None) as terminal:
        screen = Screen(terminal)
        screen.wait_for(lambda lines: lines[2].startswith("SANDBOX"))
        terminal.type("\x1a")
        terminal.wait_for("\nstopped")
        assert modes(terminal)[3] & termios.ICANON
        terminal.type("\n")
        eventually(lambda: not modes(terminal)[3] & termios.ICANON)
        terminal.type("q")
        assert terminal.ended() == 0


def test_without_a_terminal_there_is_a_table_or_json(user, two):
    for flags in ([], ["--once"], ["--once", "--sort", "state", "--filter", "base"]):
        done = coppice("top", *flags, env=user)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        lines = done.stdout.splitlines()
        assert lines[2].split()[-1] == "TEMPLATE"
        assert row_of(lines, two[0])[1] == "paused" and int(row_of(lines, two[1])[8]) >= 7
    found = json.loads(coppice("top", "--json", env=user).stdout)
    assert {one["sandboxID"] for one in found["sandboxes"]} >= set(two)
    assert (found["running"], found["paused"]) == (1, 1)


def test_what_is_wrong_is_said_in_a_line(user):
    nobody = {**user, "COPPICE_URL": "http://127.0.0.1:1"}
    done = subprocess.run(
        [BINARY, "top", "--once"], env=nobody, capture_output=True, text=True, timeout=20
    )
    assert done.returncode != 0 and "127.0.0.1:1" in done.stderr
    done = coppice("top", "--sort", "size", env=user)
    assert done.returncode != 0 and "one of id, state" in done.stderr
