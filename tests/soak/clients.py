"""A client: one random operation after the other, each of them checked."""

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from asks import LONG, Asks
from reference import DONE, GONE, LOST, PAUSED, RUNNING, STATES, possible, reasons
from subjects import Subject, Wrong
from world import World

# How many there are to be, about.
FEW, MANY = 36, 56
# Of which so many may wait for their time to be over.
TIMED = 16
# Timeouts of those that end by themselves, and how late they may: the machine is busy.
SHORT, LATE = (2, 6), 5
# For one that lost its first process to be gone.
DYING = 20

# How often, by one another.
WEIGHTS = {
    "run": 30,
    "pause": 14,
    "connect": 14,
    "resume": 3,
    "timeout": 6,
    "look": 4,
    "race": 16,
    "create": 8,
    "kill": 6,
    "timer": 4,
    "halt": 2,
    "snapshot": 2,
    "branch": 2,
    "forget": 1.5,
    "fork": 1.5,
    "ghost": 1,
    "murder": 0.5,
}
RACES = ["pause", "pause", "connect", "connect", "run", "run", "resume", "timeout", "kill"]


class Client(Asks, threading.Thread):
    def __init__(self, world: World, number, seed):
        super().__init__(name=f"client {number}", daemon=True)
        self.world, self.chance = world, random.Random(f"{seed} {number}")
        self.numbers = iter(range(number, 1 << 40, 1000))
        self.racers = ThreadPoolExecutor(3, thread_name_prefix=f"{self.name} racer")
        self.counts, self.lost, self.refused = Counter(), 0, 0
        self.slowest = (0.0, "none")

    def run(self):
        try:
            while not self.world.stop.is_set():
                self.world.await_up()
                with self.world.turn():
                    if not self.world.stop.is_set():
                        self.once()
        except Exception as error:
            self.world.fail(error)
        finally:
            self.racers.shutdown(wait=False)

    def once(self):
        subjects = self.world.subjects
        if due := subjects.take_due():
            return self.doing("deadline", self.look_at_timer, due)
        if subjects.count < FEW:
            return self.doing("create", self.create)
        names = list(WEIGHTS)
        name = self.chance.choices(names, WEIGHTS.values())[0]
        if name == "timer" and len(subjects.timed) >= TIMED:
            name = "run"
        if name in ("create", "timer", "branch", "fork") and subjects.count > MANY:
            name = "kill"
        if name in ("branch", "forget") and not self.world.snapshots.all:
            name = "snapshot"
        if name in ("create", "timer", "branch", "forget", "ghost"):
            return self.doing(name, getattr(self, name))
        subject = subjects.take(self.chance)
        if subject is None:
            # Others are busy with every one.
            time.sleep(0.01)
            return None
        try:
            if name == "look":
                self.doing(name, self.look, subject)
                self.doing("why", self.why, subject, self.world.epoch)
            elif name in ("race", "murder"):
                self.doing(name, getattr(self, name), subject)
            else:
                self.doing(name, self.one, subject, name)
        finally:
            subjects.give_back(subject)

    def doing(self, name, what, *given):
        began = time.monotonic()
        try:
            what(*given)
        except Wrong as wrong:
            wrong.subject = wrong.subject or next(iter(given), None)
            raise
        self.counts[name] += 1
        self.slowest = max(self.slowest, (time.monotonic() - began, name))

    # Operations.

    def create(self, apart=False, **more):
        """With more than others have; one that stays apart is left to the caller."""
        number = next(self.numbers)
        auto = {
            "autoPause": self.chance.random() < 0.3,
            "autoResume": {"enabled": self.chance.random() < 0.2},
        }
        metadata = {"soak": str(number), **more.pop("metadata", {})}
        wanted = {"templateID": "base", "timeout": LONG, "metadata": metadata}
        asked = {**wanted, **auto, **more}
        answered = self.world.ask("POST", "/v2/sandboxes", asked)
        if answered is None:
            self.world.unknown.add(number)
            self.lost += 1
            return None
        status, made = answered
        if status != 201:
            raise Wrong(f"create: {status} {made}")
        subject = Subject(made, number, asked["autoResume"]["enabled"], asked["autoPause"])
        self.world.subjects.add(subject)
        subject.note(f"made: {asked}")
        if apart:
            return subject
        script = "sleep 1000000 </dev/null >/dev/null 2>&1 & echo $!"
        outcome, output = self.command(subject, script)
        subject.note(f"its process: {outcome} {output}")
        if outcome == DONE:
            subject.pid = int(output)
        elif outcome != LOST:
            raise Wrong(f"the first command: {outcome}", subject)
        self.world.subjects.give_back(subject)
        return None

    def branch(self):
        """One made from a snapshot has the files that were there then."""
        snapshot = self.world.snapshots.take(self.chance)
        if snapshot is None:
            return
        id, (ran, maybe) = snapshot
        try:
            subject = self.create(apart=True, templateID=id)
        finally:
            self.world.snapshots.put(snapshot)
        if subject:
            subject.ran, subject.maybe = set(ran), set(maybe)
            self.together(subject, ["run"])
            self.world.subjects.give_back(subject)

    def forget(self):
        """A snapshot is deleted, unless something is made from it."""
        snapshot = self.world.snapshots.take(self.chance)
        if snapshot is None:
            return
        status = self._status("DELETE", f"/templates/{snapshot[0]}")
        if status == LOST:
            status, _ = self.world.surely("DELETE", f"/templates/{snapshot[0]}")
            status = 204 if status == 404 else status
        if status == 400:
            # Sandboxes that were made from it are there.
            return self.world.snapshots.put(snapshot)
        if status != 204:
            raise Wrong(f"snapshot {snapshot[0]} is not deleted: {status}")
        answered = self.world.ask("POST", "/v2/sandboxes", {"templateID": snapshot[0]})
        if answered and answered[0] != 404:
            raise Wrong(f"a create from a snapshot that was deleted: {answered}")

    def one(self, subject, operation):
        if operation == "halt" and subject.auto_resume:
            # Nothing wakes it then, and that it is paused is all that is known of it.
            operation = "pause"
        self.together(subject, [operation])

    def race(self, subject):
        self.together(subject, self.chance.choices(RACES, k=self.chance.choice([2, 2, 3])))

    def together(self, subject, operations):
        woken = {"run": "wake"} if subject.auto_resume else {}
        operations = [woken.get(operation, operation) for operation in operations]
        before, epoch = subject.state, self.world.epoch
        if len(operations) == 1:
            asked = [(operations[0], self.call(subject, operations[0]))]
        else:
            subject.note(f"at once: {operations}")
            answers = self.racers.map(lambda one: self.call(subject, one), operations)
            asked = list(zip(operations, answers, strict=True))
        self.lost += sum(answer == LOST for _, answer in asked)
        may_be = possible(before, asked)
        if not may_be:
            raise Wrong(f"{before}, and then {asked}", subject)
        if len(may_be) == 1 and len(asked) == 1:
            (subject.state,) = may_be
        else:
            self.look(subject, may_be)
        subject.reasons = reasons(before, subject.reasons, asked)
        if subject.state == GONE:
            self.why(subject, epoch)

    def look(self, subject, may_be=None):
        """What it is, which has to be one of those."""
        status, shown = self.world.surely("GET", f"/sandboxes/{subject.id}")
        found = shown["state"] if status == 200 else GONE if status == 404 else status
        subject.note(f"seen as {found}")
        if found not in (may_be or {subject.state}):
            raise Wrong(f"it is {found}, and may be {may_be or subject.state}", subject)
        subject.state = found

    def why(self, subject, ended_in):
        """Its status has one of its reasons. A gateway remembers those that ended in its time:
        `ended_in` is an epoch no later than the end."""
        status, shown = self.world.surely("GET", f"/v1/sandboxes/{subject.id}")
        if status == 404 and subject.state == GONE and self.world.epoch != ended_in:
            return
        if status != 200:
            raise Wrong(f"its status: {status} {shown}", subject)
        found = shown["status"]
        state, reason = found["state"], found.get("reason")
        subject.note(f"its status: {state}, {reason}")
        known = subject.reasons | ({None} if subject.state == RUNNING else set())
        if state not in STATES[subject.state] or reason not in known:
            raise Wrong(f"{subject.state} for {subject.reasons} is told as {found}", subject)

    def ghost(self):
        """One that has ended is gone for good."""
        subject = self.world.subjects.any_ended(self.chance)
        if subject is None:
            return
        operation = self.chance.choice(["pause", "connect", "resume", "timeout", "kill", "run"])
        answer = self.call(subject, operation)
        if not possible(GONE, [(operation, answer)]):
            raise Wrong(f"it has ended, and then {operation}: {answer}", subject)

    def timer(self):
        """One that ends, or is paused, by itself; some of them are renewed before."""
        seconds = self.chance.randint(*SHORT)
        idle = self.chance.random() < 0.3
        # One that is woken runs for as long as it was made for, which is too short for others.
        more = {"timeout": seconds, "autoResume": {"enabled": False}}
        if idle:
            more = {"metadata": {"coppice.idleTimeout": str(seconds)}}
        began, epoch = time.monotonic(), self.world.epoch
        subject = self.create(apart=True, **more)
        if subject is None:
            return
        subject.made_in, subject.idle = epoch, idle
        subject.due = (began + seconds, time.monotonic() + seconds)
        subject.renewed = not idle and self.chance.random() < 0.5
        if subject.renewed:
            at = subject.due[0] - self.chance.choice([0.0, 0.05, 0.5, 1.0])
        else:
            at = subject.due[1] + LATE * self.world.slack
        self.world.subjects.leave(at, subject)

    def look_at_timer(self, subject):
        if subject.renewed:
            return self.renew(subject)
        # Nobody looks at deadlines while there is no gateway, and it begins to be idle with a new one.
        long_enough = self.world.up_since + LATE * self.world.slack + (SHORT[1] if subject.idle else 0)
        if time.monotonic() < long_enough:
            return self.world.subjects.leave(long_enough, subject)
        epoch = subject.made_in
        self.look(subject, {PAUSED} if subject.auto_pause or subject.idle else {GONE})
        subject.reasons = {"idle" if subject.idle else "deadline"}
        self.why(subject, epoch)
        if subject.idle:
            # It would be paused again while others use it.
            self.together(subject, ["kill"])
        self.settle(subject)

    def renew(self, subject):
        answer = self.call(subject, "timeout")
        over = time.monotonic() >= subject.due[0]
        if answer == LOST:
            # Again: it may have been renewed, and then it has to be there.
            return self.world.subjects.leave(time.monotonic(), subject)
        if answer in (404, 409) and over:
            # As it would be without.
            subject.renewed = False
            return self.world.subjects.leave(subject.due[1] + LATE * self.world.slack, subject)
        if answer != 204:
            early = subject.due[0] - time.monotonic()
            raise Wrong(f"renewed {early:.2f} s before its time is over: {answer}", subject)
        self.settle(subject)

    def settle(self, subject):
        """From here on it is as any other."""
        subject.due = None
        self.world.subjects.give_back(subject)

    def murder(self, subject):
        """Its first process is killed from outside. One that is paused keeps its files, and stays."""
        if subject.state == PAUSED and subject.auto_resume:
            # Nothing would wake it any more.
            return self.together(subject, ["connect"])
        cells = [parent / f"coppice-{subject.id}" for parent in self.world.parents()]
        epoch = self.world.epoch
        for pid in {pid for cell in cells for pid in pids(cell / "envd/cgroup.procs")}:
            subject.note(f"kill -9 {pid}, of envd")
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        if subject.state == PAUSED:
            subject.pid = None
            if self.chance.random() < 0.5:
                return self.revived(subject)
            subject.reasons = subject.reasons | {"envd_died"}
            return self.bereaved(subject)
        deadline = time.monotonic() + DYING * self.world.slack
        while subject.state != GONE:
            if time.monotonic() > deadline:
                raise Wrong(f"without envd it lives on for {DYING * self.world.slack:.0f} s", subject)
            self.look(subject, {subject.state, GONE})
            time.sleep(0.05)
        subject.reasons = {"envd_died"}
        self.why(subject, epoch)

    def revived(self, subject):
        """Connected to at once: whether the gateway has heard of the death or not, it goes on with
        its files."""
        epoch = self.world.epoch
        answer = self.call(subject, "connect")
        if answer == LOST:
            self.lost += 1
            # Of one that was about to go on the next gateway may hear of the death first.
            self.look(subject, {RUNNING, PAUSED, GONE})
            subject.reasons = subject.reasons | {"user", "envd_died"}
            return self.why(subject, epoch) if subject.state == GONE else None
        if answer != 201:
            raise Wrong(f"without envd it is connected to: {answer}", subject)
        subject.state, subject.reasons = RUNNING, {"user"}
        return self.together(subject, ["run"])

    def bereaved(self, subject):
        """Paused, with its files alone."""
        deadline = time.monotonic() + DYING * self.world.slack
        while True:
            status, shown = self.world.surely("GET", f"/sandboxes/{subject.id}")
            if status != 200 or shown["state"] != PAUSED or time.monotonic() > deadline:
                raise Wrong(f"without envd, {DYING * self.world.slack:.0f} s later: {status} {shown}", subject)
            if shown.get("pauseMode") == "filesystem":
                return subject.note("has its files alone")
            time.sleep(0.05)


def pids(procs: Path):
    """Of a cgroup, which may go meanwhile."""
    try:
        return list(map(int, procs.read_text().split()))
    except OSError:
        return []
