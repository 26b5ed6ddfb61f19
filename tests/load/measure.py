"""What is asserted of a gateway under load: a healthy client's latency, and its own footprint."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# Seconds of one measurement: some five hundred requests, half as many commands.
WINDOW = 3
WORST = 5
# A quiet value better than this (ms) counts as this. An answer of `/health` takes a fraction of a
# millisecond, and five times that is less than a processor's turn of any other process (3 ms), of
# which client and gateway may each have to wait for one. Five commands take longer than that.
FLOOR = {"health": 1.0, "command": 0.0}
# A regression shows in every window, another program's burst of work does not.
WINDOWS = 3
# Of the process that makes the load, while it does: clients elsewhere would take no processor here.
NICE = 19
# What an allocator may keep of the memory that a load took (MiB).
KEPT = 48


class Healthy:
    """The client of `healthy.py`, and how long it takes with and without a load."""

    def __init__(self, gateway, sandbox):
        self.process = subprocess.Popen(
            [sys.executable, HERE / "healthy.py", *map(str, gateway.address)]
            + [sandbox.id, sandbox.token],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.sandbox = sandbox
        self.thread = ThreadPoolExecutor(1)
        # p99 of windows: without any load, and those under load that were none of them good.
        self.quiet, self.doubtful = [], []

    def _window(self):
        self.process.stdin.write(f"{WINDOW}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the healthy client failed"
        return {what: percentile(times, 99) for what, times in json.loads(line).items()}

    def rest(self):
        """Takes the quiet values that those under load are held against."""
        self.quiet.append(self._window())
        print("quiet p99 (ms):", shown(self.quiet[-1]))

    def _is_unharmed(self, window):
        limits = self.limits()
        return all(window[what] <= limits[what] for what in window)

    def limits(self):
        quiet = {what: max(window[what] for window in self.quiet) for what in FLOOR}
        return {what: WORST * max(quiet[what], floor) for what, floor in FLOOR.items()}

    def assert_unharmed(self, load=lambda: time.sleep(0.01)):
        """Repeats `load` for as long as it takes to measure again; `settle` has the last word."""
        seen = []
        for _ in range(WINDOWS):
            window = self.thread.submit(self._window)
            with politely():
                while not window.done():
                    load()
            seen.append(window.result())
            print("p99 under load (ms):", shown(seen[-1]))
            if self._is_unharmed(seen[-1]):
                return
        self.doubtful = seen

    def settle(self):
        """Once the load is gone: where it was not that but the machine, quiet is as slow now."""
        for _ in range(WINDOWS if self.doubtful else 0):
            self.rest()
            if any(map(self._is_unharmed, self.doubtful)):
                self.doubtful = []
                return
        assert not self.doubtful, f"p99 (ms) {self.doubtful}, at most {self.limits()}"

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        self.thread.shutdown()


@contextmanager
def politely():
    """This thread gives way to all others meanwhile."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, NICE)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


def percentile(times, percent):
    """The least that so many of them do not exceed."""
    ordered = sorted(times)
    return ordered[-(-len(ordered) * percent // 100) - 1]


def shown(values):
    return ", ".join(f"{what} {value:.2f}" for what, value in values.items())


@dataclass
class Footprint:
    """What a process holds."""

    descriptors: int
    threads: int
    resident: int

    @classmethod
    def of(cls, pid):
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(re.findall(r"^(\w+):\s+(\d+)", status, re.MULTILINE))
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        return cls(descriptors, int(fields["Threads"]), int(fields["VmRSS"]) << 10)

    def grown(self, start):
        return (self.resident - start.resident) / (1 << 20)


def assert_footprint_back_to(start, pid, patience=30):
    """Waits until descriptors and threads are as few as at the start, and memory is about as little.

    Connections that are kept and idle threads go within 15 s.
    """
    deadline = time.monotonic() + patience
    while True:
        now = Footprint.of(pid)
        few = now.descriptors <= start.descriptors and now.threads <= start.threads + 2
        if few and now.grown(start) <= KEPT:
            return
        assert time.monotonic() < deadline, f"{start} at the start, {now} after {patience} s"
        time.sleep(0.1)


def eventually(condition, patience, what):
    """Waits until `condition()` holds; gives what it gave."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {patience} s still not so: {what}"
        time.sleep(0.05)
    return found
