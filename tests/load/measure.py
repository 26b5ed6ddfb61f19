"""What is asserted of a gateway under load: a healthy client's latency, and its own footprint."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# Seconds of one measurement: some four hundred requests, a hundred commands.
WINDOW = 3
WORST = 5
# A quiet value better than this (ms) counts as this: what a busy scheduler adds is no fault of ours.
FLOOR = {"health": 1.0, "command": 6.0}
# A regression shows in every window, another program's burst of work does not.
WINDOWS = 3
# What an allocator may keep of the memory that a load took (MiB).
KEPT = 48


class Healthy:
    """The client of `healthy.py`, and what it found while nothing else was going on."""

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
        self.limits = {}

    def _window(self):
        self.process.stdin.write(f"{WINDOW}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the healthy client failed"
        return {what: percentile(times, 99) for what, times in json.loads(line).items()}

    def rest(self):
        """Takes the quiet values that all later ones are held against."""
        quiet = self._window()
        self.limits = {what: WORST * max(quiet[what], FLOOR[what]) for what in quiet}
        print("quiet p99 (ms):", shown(quiet))

    def assert_unharmed(self, load=lambda: time.sleep(0.01)):
        """Repeats `load` for as long as it takes to measure again."""
        seen = []
        for _ in range(WINDOWS):
            window = self.thread.submit(self._window)
            while not window.done():
                load()
            seen.append(window.result())
            print("p99 under load (ms):", shown(seen[-1]))
            if all(seen[-1][what] <= limit for what, limit in self.limits.items()):
                return
        raise AssertionError(f"p99 (ms) {seen}, at most {self.limits}")

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
        self.thread.shutdown()


def percentile(times, percent):
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


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
