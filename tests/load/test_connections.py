"""Connections that do nothing, more of them than there is room for, and heads that never end."""

import select
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import pytest

from hoststate import HostState, assert_back_to
from measure import Footprint, eventually
from wire import Wire, head

IDLE = 10_000
# What the gateway takes at once (`Limits::connections`); more wait to be accepted.
ROOM = 16 * 1024
MORE = 300
# How long a head may take (`Limits::head`), looked at twice in that time (s).
HEAD, LATEST = 30, 45
UNFINISHED = 500
LONG = 2000
# A little less than a head may be.
LONG_HEAD = 127 << 10


class Crowd:
    """Idle connections; each has been of use once. From several addresses, as ports are few."""

    def __init__(self, gateway):
        self.gateway, self.wires = gateway, []

    def grow(self, count):
        for number in range(count):
            wire = Wire(self.gateway.address, source=f"127.0.0.{2 + number % 4}")
            self.wires.append(wire)
            assert wire.ask("GET", "/health")[0] == 200

    def shrink(self, count):
        for _ in range(count):
            self.wires.pop().close()

    @contextmanager
    def away(self):
        count = len(self.wires)
        self.shrink(count)
        yield
        self.grow(count)


@pytest.fixture(scope="module")
def crowd(gateway):
    start, footprint = HostState.of(gateway), Footprint.of(gateway.process.pid)
    crowd = Crowd(gateway)
    try:
        crowd.grow(IDLE)
        grown = Footprint.of(gateway.process.pid).grown(footprint)
        print(f"memory for {IDLE} idle connections: {grown:.1f} MiB")
        assert grown < IDLE * 32 / 1024, "32 KiB each"
        yield crowd
    finally:
        crowd.shrink(len(crowd.wires))
    assert_back_to(start, gateway)


def test_ten_thousand_idle_connections_hold_nobody_up(healthy, crowd):
    healthy.assert_unharmed()
    with crowd.away() if healthy.doubtful else nullcontext():
        healthy.settle()


def test_connections_beyond_the_limit_wait_for_room(crowd, load):
    crowd.grow(ROOM - IDLE)
    # More, too, than the listener's backlog holds: those try again as TCP does.
    with ThreadPoolExecutor(MORE) as pool:
        waiting = [pool.submit(asks, load) for _ in range(MORE)]
        time.sleep(2)
        early = [one for one in waiting if one.done()]
        crowd.shrink(ROOM - IDLE)
        assert early == []
        assert [one.result() for one in waiting] == [200] * MORE


def asks(load):
    with Wire(load.gateway.address, patience=60) as wire:
        return wire.ask("GET", "/health")[0]


@pytest.mark.timeout(180)
def test_heads_that_never_end_are_cut_and_idle_connections_stay(crowd, load, healthy):
    start = Footprint.of(load.pid)
    began = time.monotonic()
    silent = [load.wire() for _ in range(UNFINISHED)]
    unfinished = [load.wire() for _ in range(UNFINISHED)]
    for wire in unfinished:
        wire.socket.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
    long = [load.wire() for _ in range(LONG)]
    filler = head("GET", "/health", Filler="x" * LONG_HEAD)[:LONG_HEAD]
    for wire in long:
        wire.socket.sendall(filler)
    assert time.monotonic() - began < HEAD, "too slow a machine to tell"

    healthy.assert_unharmed()
    grown = Footprint.of(load.pid).grown(start)
    print(f"memory for {LONG} long heads: {grown:.1f} MiB")
    assert grown < LONG * 2 * LONG_HEAD / (1 << 20), "twice what they sent"

    everyone = silent + unfinished + long
    assert ended_or_answered(everyone) == []
    cut = set()

    def all_cut():
        cut.update(map(id, ended_or_answered([wire for wire in everyone if id(wire) not in cut])))
        return len(cut) == len(everyone)

    eventually(all_cut, LATEST + 15, "heads that never end are cut")
    print(f"the last was cut after {time.monotonic() - began:.1f} s")
    for wire in crowd.wires:
        assert wire.ask("GET", "/health")[0] == 200


def test_a_head_longer_than_allowed_is_refused(load):
    wire = load.wire()
    wire.socket.sendall(head("GET", "/health", Filler="x" * 200_000))
    assert wire.answer().status == 431


def ended_or_answered(wires):
    """Those on which anything has come, be it the end."""
    poll = select.poll()
    named = {wire.socket.fileno(): wire for wire in wires}
    for descriptor in named:
        poll.register(descriptor, select.POLLIN)
    return [named[descriptor] for descriptor, _ in poll.poll(0)]
