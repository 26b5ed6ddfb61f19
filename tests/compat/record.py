"""What tests used of a client, and how that ended.

A use counts as passed when it was answered in a test that passed, and as not yet when the gateway
said so; one that was refused as the test wanted says nothing.
"""

import contextlib
import json
import re
from contextvars import ContextVar
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "target" / "e2e" / "compat"


class Record:
    """The uses of one client."""

    def __init__(self, name, client, version):
        self.name, self.client, self.version = name, client, version
        self.surface, self.calls, self._test = [], {}, []

    def note(self, name, outcome):
        """`outcome` is passed, not_yet or refused."""
        self._test.append((name, outcome))

    def settle(self, test_passed):
        """What the test at hand did, once it is known how it ended."""
        for name, outcome in self._test:
            count = self.calls.setdefault(name, {"passed": 0, "failed": 0, "not_yet": 0})
            if outcome == "not_yet":
                count["not_yet"] += 1
            elif not test_passed:
                count["failed"] += 1
            elif outcome == "passed":
                count["passed"] += 1
        self._test = []

    def write(self, again=False):
        """`again`: what failed in the run before was tried once more, and nothing else."""
        OUT.mkdir(parents=True, exist_ok=True)
        path = OUT / f"{self.name}.json"
        if again and path.exists():
            for name, before in json.loads(path.read_text())["calls"].items():
                count = self.calls.setdefault(name, {"passed": 0, "failed": 0, "not_yet": 0})
                count["passed"] += before["passed"]
                count["not_yet"] += before["not_yet"]
        found = {"client": self.client, "version": self.version}
        found |= {"surface": self.surface, "calls": self.calls}
        path.write_text(json.dumps(found, indent=1) + "\n")


def is_not_yet(text):
    """Whether a client's error, or what it printed, is the gateway saying that it cannot yet."""
    return re.search(r"\b501\b|\bnot (implemented|supported) yet\b", text) is not None


# Set while the SDK or the tests' own machinery is at work: what it calls is no use of a user's.
INSIDE = ContextVar("inside", default=False)


@contextlib.contextmanager
def inside():
    token = INSIDE.set(True)
    try:
        yield
    finally:
        INSIDE.reset(token)
