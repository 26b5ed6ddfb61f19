"""The gateway that is soaked: it is killed and started again, and now and then all clients hold
still while what there is is compared with what there should be."""

import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "python"), str(HERE.parent / "load")]

from gateway import KEY, Gateway  # noqa: E402
from hoststate import CGROUPS, SLOTS, HostState, assert_back_to, parent_of  # noqa: E402
from reference import GONE  # noqa: E402
from subjects import Snapshots, Subjects, Wrong  # noqa: E402
from wire import Wire  # noqa: E402

MOST = 120
POOL = 2
# For one request; more is being stuck.
PATIENCE = 30
# For a gateway to start, and for SIGTERM to end it.
STARTS, STOPS = 30, 6
# For what is removed in the background to be gone.
TIDY = 20
# Between one end of the gateway and the next (s).
GAP = (1, 6)
# One end in so many is SIGTERM.
TERMS = 4
# After all clients began something at the same time (s).
AMID = 0.06
AUDIT_EVERY = 40


class World:
    def __init__(self, chance, slack=1.0):
        """With `slack` times as much patience, for a machine that has much else to do."""
        self.chance, self.slack = chance, slack
        self.gateway = Gateway("--max-sandboxes", str(MOST), "--pool", f"base={POOL}")
        self.before = HostState.of(self.gateway)
        self.subjects, self.snapshots = Subjects(), Snapshots()
        # Grows before the gateway goes, so that whoever sees it unchanged was not cut off by that.
        self.epoch, self.restarts, self.audits = 0, 0, 0
        self.up = threading.Event()
        self.up_since = 0.0
        self.slowest_start = 0.0
        self.stop = threading.Event()
        self.failure = None
        # Clients in the middle of something, and whether they are to hold still.
        self.turns = threading.Condition()
        self.busy, self.hold = 0, False
        # Numbers of creates of which it is not known whether they made a sandbox.
        self.unknown = set()

    def fail(self, error):
        with self.turns:
            self.failure = self.failure or error
        self.stop.set()

    @contextmanager
    def turn(self):
        """While a client is in one, no audit begins."""
        with self.turns:
            held = self.turns.wait_for(
                lambda: not self.hold or self.stop.is_set(), 4 * PATIENCE * self.slack
            )
            if not held:
                raise Wrong("an audit does not end")
            self.busy += 1
        try:
            yield
        finally:
            with self.turns:
                self.busy -= 1
                self.turns.notify_all()

    def await_up(self):
        """Returns the epoch: as long as it is the same, it is the same gateway."""
        while True:
            epoch = self.epoch
            if not self.up.wait(2 * STARTS * self.slack):
                raise Wrong("the gateway does not come back")
            if epoch == self.epoch:
                return epoch

    def ask(self, method, path, body=None):
        """Status and JSON, or `None` where the gateway went meanwhile."""
        epoch = self.await_up()
        sent = b"" if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
        try:
            with Wire(self.gateway.address, patience=PATIENCE * self.slack) as wire:
                status, text = wire.ask(method, path, sent, **headers)
            if status == 503 and self.epoch != epoch:
                # By one that is about to go.
                return None
            return status, json.loads(text) if text else None
        except Exception as error:
            if self.epoch != epoch:
                return None
            raise Wrong(f"{method} {path}: {type(error).__name__} {error}") from error

    def surely(self, method, path, body=None):
        """As `ask` of what may be asked again, until it is answered."""
        deadline = time.monotonic() + 2 * STARTS * self.slack
        while time.monotonic() < deadline:
            if answered := self.ask(method, path, body):
                return answered
        raise Wrong(f"{method} {path}: not answered between restarts")

    def start(self):
        began = time.monotonic()
        self.gateway.start(patience=STARTS * self.slack)
        self.up_since = time.monotonic()
        self.slowest_start = max(self.slowest_start, self.up_since - began)
        self.up.set()

    def trouble(self):
        """Ends the gateway at random instants, and holds audits, until the run is over."""
        audited = time.monotonic()
        while not self.stop.wait(self.chance.uniform(*GAP)):
            if self.chance.random() < 0.5:
                with self.holding():
                    pass
                time.sleep(self.chance.uniform(0, AMID))
            by = signal.SIGTERM if self.chance.randrange(TERMS) == 0 else signal.SIGKILL
            self.up.clear()
            self.epoch += 1
            took = self.gateway.end(by, patience=STARTS * self.slack)
            if took > STOPS * self.slack:
                raise Wrong(f"{by.name} took the gateway {took:.1f} s")
            self.start()
            self.restarts += 1
            if time.monotonic() > audited + AUDIT_EVERY and not self.stop.is_set():
                self.audit()
                audited = time.monotonic()

    def audit(self):
        """Nothing is lost, nothing is left over."""
        with self.holding():
            self._end_unknown()
            self._compare_list()
            self._compare_host()
            self.audits += 1

    @contextmanager
    def holding(self):
        """All clients hold still, and begin together after it."""
        with self.turns:
            self.hold = True
            quiet = self.turns.wait_for(lambda: self.busy == 0, 3 * PATIENCE * self.slack)
        try:
            if not quiet:
                raise Wrong(f"{self.busy} clients are stuck")
            yield
        finally:
            with self.turns:
                self.hold = False
                self.turns.notify_all()

    def listed(self):
        found, token = {}, ""
        while token is not None:
            path = f"/v2/sandboxes?state=running,paused&limit=100{token}"
            with Wire(self.gateway.address, patience=PATIENCE * self.slack) as wire:
                wire.send("GET", path, **{"X-API-Key": KEY})
                answer = wire.answer()
                page, following = json.loads(answer.read()), answer.getheader("x-next-token")
            found |= {one["sandboxID"]: one for one in page}
            token = f"&nextToken={following}" if following else None
        return found

    def _end_unknown(self):
        """Those whose creates were cut off: they are there whole or not at all."""
        known = self.subjects.states().keys() | self.subjects.timers()
        for id, one in self.listed().items():
            number = int(one["metadata"]["soak"])
            if id not in known and number in self.unknown:
                status, _ = self.surely("DELETE", f"/sandboxes/{id}")
                if status != 204:
                    raise Wrong(f"{id}, of a create that was cut off, is not killed: {status}")
        self.unknown.clear()

    def _compare_list(self):
        known, ending = self.subjects.states(), self.subjects.timers()
        listed = {id: one["state"] for id, one in self.listed().items()}
        for id in (known.keys() | listed.keys()) - ending:
            ours, theirs = known.get(id, GONE), listed.get(id, GONE)
            if ours != theirs:
                raise Wrong(f"{id} is listed as {theirs}, and is {ours}", self._subject(id))

    def _subject(self, id):
        every = [*self.subjects.free, *self.subjects.ended]
        return next((subject for subject in every if subject.id == id), None)

    def _compare_host(self):
        """What is on the host is of the sandboxes there are, and of the pool."""
        deadline = time.monotonic() + TIDY * self.slack
        while wrong := self._of_no_sandbox():
            if time.monotonic() > deadline:
                raise Wrong(f"left over after {TIDY * self.slack:.0f} s: {wrong}")
            time.sleep(0.1)

    def _of_no_sandbox(self):
        known, ending = self.subjects.states().keys(), self.subjects.timers()
        home = self.gateway.data_dir / "sandboxes"
        directories = set(os.listdir(home))
        if lost := known - directories:
            raise Wrong(f"no directory: {lost}", self._subject(next(iter(lost))))
        # Of the pool, of which nobody knows yet.
        unready = {id for id in directories if not (home / id / "sandbox.json").exists()}
        orphans = directories - known - ending - unready
        slots = list(self._slots())
        # Those that may be paused with nothing but their files.
        hollow = self.subjects.hollow()
        wrong = []
        if orphans or len(unready) > POOL:
            wrong.append(f"directories {orphans | unready}")
        if len(slots) != len(set(slots)) or (set(slots) ^ directories) - hollow:
            wrong.append(f"slots {slots} for {directories}")
        cells = {path.name.removeprefix("coppice-") for path in self._cells()}
        if (cells ^ directories) - hollow or cells != set(slots):
            wrong.append(f"cgroups {cells} for {directories} and {slots}")
        if trash := os.listdir(self.gateway.data_dir / "trash"):
            wrong.append(f"trash {trash}")
        return wrong + list(self._strange(HostState.of(self.gateway).things, directories))

    def _strange(self, things, directories):
        """What names a sandbox that is not there, or a slot that nobody has."""
        inside = re.compile(re.escape(f"{self.gateway.data_dir}/sandboxes/") + "([^/ ]+)")
        for kind in ("mount", "unix socket", "loop device"):
            for thing in things[kind]:
                if set(inside.findall(thing)) - directories:
                    yield f"{kind} {thing}"
        for process in things["process"]:
            if process != "spawner of the gateway" and not self._is_inside(process, directories):
                yield f"process {process}"
        link = re.compile(r"coppice[0-9]+")
        taken = {f"coppice{slot.name}" for slot in SLOTS.glob("[0-9]*")}
        ours = {f"coppice{slot.name}" for slot in SLOTS.glob("[0-9]*") if self._is_ours(slot)}
        links = set(filter(link.fullmatch, things["network link"]))
        if wrong := (links - taken) | (ours - links):
            yield f"links {wrong}, of slots {ours}"
        if wrong := set(link.findall(" ".join(things["nftables entry"]))) - taken:
            yield f"rules for {wrong}"

    def _is_inside(self, process, directories):
        """It is in the cgroup of a sandbox that is there; a process is told by its pid first."""
        try:
            cgroups = Path(f"/proc/{int(process.split()[0])}/cgroup").read_text()
        except ValueError:
            return False
        except OSError:
            # Gone meanwhile.
            return True
        return bool(set(re.findall("coppice-([0-9a-f]{32})", cgroups)) & directories)

    def _is_ours(self, slot):
        return self._said(slot)["data_dir"] == str(self.gateway.data_dir)

    def _said(self, slot):
        try:
            return json.loads(slot.read_text())
        except FileNotFoundError:
            # Given back meanwhile.
            return {"data_dir": None}

    def _slots(self):
        for slot in SLOTS.glob("[0-9]*"):
            said = self._said(slot)
            if said["data_dir"] == str(self.gateway.data_dir):
                yield said["id"].replace("-", "")

    def _cells(self):
        for parent in self.parents():
            yield from parent.glob("coppice-*")

    def parents(self):
        """The cgroup that holds all of its sandboxes', in every hierarchy."""
        roots = [CGROUPS, *CGROUPS.iterdir()]
        places = [root / parent_of(self.gateway) for root in roots]
        return [place for place in places if place.is_dir()]

    def end_snapshots(self):
        """All that are listed: those that are known, and those whose making was cut off."""
        known = {id for id, _ in self.snapshots.all}
        deadline = time.monotonic() + TIDY * self.slack
        while listed := self.surely("GET", "/snapshots?limit=100")[1]:
            for one in listed:
                known.discard(one["snapshotID"])
                status, said = self.surely("DELETE", f"/templates/{one['snapshotID']}")
                # What is made from it has been killed, and may take a moment to be gone.
                if status != 204 and (status != 400 or time.monotonic() > deadline):
                    raise Wrong(f"snapshot {one['snapshotID']} cannot be deleted: {said}")
        if known:
            raise Wrong(f"snapshots are lost: {known}")

    def finish(self):
        """The last audit, and then nothing of anything may be left."""
        self.audit()
        for id in self.subjects.states():
            status, _ = self.surely("DELETE", f"/sandboxes/{id}")
            if status != 204:
                raise Wrong(f"{id} cannot be killed: {status}", self._subject(id))
        self.end_snapshots()
        self.gateway.end()
        self.gateway.down()
        assert_back_to(self.before, self.gateway)
