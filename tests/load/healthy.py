"""A well-behaved client, in a process of its own: how long its requests take.

Started with an address and a sandbox; for each line of seconds on its input it measures that long
and writes one line of JSON: what was asked -> milliseconds, one for each time.
"""

import json
import sys
import time

from wire import Sandbox, Wire

# Seldom enough to leave both processors idle for the most part.
PAUSE = 0.004
COMMAND_EVERY = 2


def timed(times, ask):
    began = time.perf_counter()
    ask()
    times.append((time.perf_counter() - began) * 1000)


def health(wire):
    status, _ = wire.ask("GET", "/health")
    assert status == 200, status


def command(wire, sandbox):
    output, ended = wire.start(sandbox, "/bin/echo", "healthy").end()
    assert output == b"healthy\n" and ended["exited"], (output, ended)


def main():
    host, port, *sandbox = sys.argv[1:]
    address, sandbox = (host, int(port)), Sandbox(*sandbox)
    for line in sys.stdin:
        until = time.monotonic() + float(line)
        times = {"health": [], "command": []}
        with Wire(address) as control, Wire(address) as data:
            turn = 0
            while time.monotonic() < until:
                timed(times["health"], lambda: health(control))
                if turn % COMMAND_EVERY == 0:
                    timed(times["command"], lambda: command(data, sandbox))
                turn += 1
                time.sleep(PAUSE)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
