"""What is known of each sandbox, and which of them nobody is busy with."""

import heapq
import random
import threading
import time
from collections import deque

from reference import GONE, PAUSED, RUNNING

# Of each sandbox, the latest.
HISTORY = 300
# Of the ended ones, of which none may ever be seen again.
ENDED = 500


class Wrong(Exception):
    """Something that must not be; `subject` is the sandbox concerned."""

    def __init__(self, what, subject=None):
        super().__init__(what)
        self.subject = subject


class Subject:
    """One sandbox, as the reference has it. Whoever has taken it is alone with it."""

    def __init__(self, made, number, auto_resume=False, auto_pause=False):
        self.id, self.token = made["sandboxID"], made["envdAccessToken"]
        self.number, self.auto_resume, self.auto_pause = number, auto_resume, auto_pause
        self.state = RUNNING
        # Why it may be so; `None`: since it was made, or adopted.
        self.reasons = {None}
        self.history = deque(maxlen=HISTORY)
        # Commands that were run to their end, and those of which it is not known.
        self.ran, self.maybe = set(), set()
        # A process that was started in the beginning and never ends by itself.
        self.pid = None
        # When its time is over, at the earliest and at the latest; `None`: not during the run.
        self.due = None

    def note(self, text):
        self.history.append((time.time(), threading.current_thread().name, text))

    def routing(self):
        return {
            "E2b-Sandbox-Id": self.id,
            "E2b-Sandbox-Port": 49983,
            "X-Access-Token": self.token,
        }

    def told(self):
        """Its history, a line each."""
        yield f"sandbox {self.id}, {self.state} to the reference"
        for at, who, text in self.history:
            clock = time.strftime("%H:%M:%S", time.gmtime(at))
            yield f"  {clock}.{at % 1 * 1000:03.0f} {who}: {text.strip()}"


class Snapshots:
    """Those that are there, with what is in their files."""

    def __init__(self):
        self.lock, self.all = threading.Lock(), []

    def take(self, chance):
        with self.lock:
            return self.all.pop(chance.randrange(len(self.all))) if self.all else None

    def put(self, snapshot):
        with self.lock:
            self.all.append(snapshot)


class Subjects:
    """All of them. Those in `free` may be taken."""

    def __init__(self):
        self.lock = threading.Lock()
        self.free, self.ended = [], deque(maxlen=ENDED)
        # Left alone until their time is over: a heap of (when, number, subject).
        self.timed = []
        self.count = 0

    def take(self, chance: random.Random):
        """A random one, for the caller alone; `None` when there is none."""
        with self.lock:
            if not self.free:
                return None
            at = chance.randrange(len(self.free))
            self.free[at], self.free[-1] = self.free[-1], self.free[at]
            return self.free.pop()

    def add(self, subject):
        """A new one, that its maker still has."""
        with self.lock:
            self.count += 1
        return subject

    def give_back(self, subject):
        with self.lock:
            if subject.state == GONE:
                self.count -= 1
                self.ended.append(subject)
            else:
                self.free.append(subject)

    def leave(self, at, subject):
        """Nobody is to take it before then."""
        with self.lock:
            heapq.heappush(self.timed, (at, subject.number, subject))

    def take_due(self):
        """One whose time to be looked at has come; `None` when there is none."""
        with self.lock:
            if self.timed and self.timed[0][0] <= time.monotonic():
                return heapq.heappop(self.timed)[2]
        return None

    def timers(self):
        """Ids of those that may end at any time."""
        with self.lock:
            return {subject.id for _, _, subject in self.timed}

    def hollow(self):
        """Ids of those that may be without processes."""
        with self.lock:
            paused = (subject for subject in self.free if subject.state == PAUSED)
            return {subject.id for subject in paused if subject.pid is None}

    def any_ended(self, chance):
        with self.lock:
            return chance.choice(self.ended) if self.ended else None

    def states(self):
        """id -> state, while nobody has taken any."""
        with self.lock:
            assert all(subject.state in (RUNNING, PAUSED) for subject in self.free)
            return {subject.id: subject.state for subject in self.free}
