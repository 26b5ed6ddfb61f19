"""What is asked of one sandbox: each gives an answer as the reference knows it."""

import base64
import json
import struct

from reference import CUT, DONE, LOST
from subjects import Subject, Wrong
from world import PATIENCE
from wire import Wire

# Longer than any run is short of, and than a pause of this machine.
LONG = 7200


class Asks:
    """Of a client, which has a `world`, a `chance` and its own `numbers`."""

    def call(self, subject, operation):
        answer = getattr(self, f"_{operation}")(subject)
        subject.note(f"{operation}: {answer}")
        return answer

    def _status(self, method, path, body=None, subject=None):
        answered = self.world.ask(method, path, body)
        if answered is None:
            return LOST
        status, said = answered
        if status == 503:
            self.refused += 1
        if status >= 500 and subject:
            subject.note(f"{status}: {said}")
        return status

    def _pause(self, subject):
        return self._status("POST", f"/sandboxes/{subject.id}/pause", subject=subject)

    def _connect(self, subject):
        version = self.chance.choice(["", "/v2"])
        path = f"{version}/sandboxes/{subject.id}/connect"
        return self._status("POST", path, {"timeout": LONG}, subject)

    def _resume(self, subject):
        return self._status("POST", f"/sandboxes/{subject.id}/resume", {"timeout": LONG})

    def _timeout(self, subject):
        return self._status("POST", f"/sandboxes/{subject.id}/timeout", {"timeout": LONG})

    def _kill(self, subject):
        return self._status("DELETE", f"/sandboxes/{subject.id}")

    def _halt(self, subject):
        # Whatever becomes of it.
        subject.pid = None
        path = f"/sandboxes/{subject.id}/pause"
        return self._status("POST", path, {"memory": False}, subject)

    def _snapshot(self, subject):
        answered = self.world.ask("POST", f"/sandboxes/{subject.id}/snapshots", {})
        if answered is None:
            return LOST
        status, made = answered
        if status == 201:
            files = (frozenset(subject.ran), frozenset(subject.maybe))
            self.world.snapshots.put((made["snapshotID"], files))
        return status

    def _fork(self, subject):
        count = self.chance.choice([1, 1, 2])
        asked = {"count": count, "timeout": LONG}
        answered = self.world.ask("POST", f"/sandboxes/{subject.id}/fork", asked)
        if answered is None:
            # They have its metadata.
            self.world.unknown.add(subject.number)
            return LOST
        status, made = answered
        if status == 201:
            if len(made) != count or not all(one.get("sandbox") for one in made):
                raise Wrong(f"forks: {made}", subject)
            for one in made:
                fork = Subject(one["sandbox"], subject.number, subject.auto_resume, subject.auto_pause)
                fork.ran, fork.maybe = set(subject.ran), set(subject.maybe)
                fork.note(f"forked of {subject.id}")
                self.world.subjects.add(fork)
                self.world.subjects.give_back(fork)
        return status

    def _run(self, subject):
        """Adds a line to a file, and reads all of it back."""
        number, before = next(self.numbers), set(subject.ran)
        subject.maybe.add(number)
        alive = f"kill -0 {subject.pid}" if subject.pid else "true"
        outcome, output = self.command(subject, f"echo {number} >> log; {alive} && cat log")
        if outcome == DONE:
            found = list(map(int, output.split()))
            subject.ran.add(number)
            subject.maybe.discard(number)
            if len(found) != len(set(found)):
                raise Wrong("a command was run twice", subject)
            if missing := before - set(found):
                raise Wrong(f"commands are forgotten: {missing}", subject)
            # In this order, as others move theirs from one to the other meanwhile.
            if others := (set(found) - subject.maybe) - subject.ran:
                raise Wrong(f"commands nobody ran: {others}", subject)
        return outcome

    _wake = _run

    def command(self, subject, script):
        """Its output with `DONE`, or what became of it instead."""
        epoch = self.world.await_up()
        message = {"process": {"cmd": "/bin/sh", "args": ["-c", script]}, "stdin": False}
        message = json.dumps(message).encode()
        headers = {"Content-Type": "application/connect+json", **subject.routing()}
        begun = False
        try:
            with Wire(self.world.gateway.address, patience=PATIENCE * self.world.slack) as wire:
                sent = struct.pack(">BI", 0, len(message)) + message
                wire.send("POST", "/process.Process/Start", sent, **headers)
                answer = wire.answer()
                if answer.status != 200:
                    answer.read()
                    return (LOST if self.world.epoch != epoch else answer.status), ""
                begun = True
                return self.outcome(answer.read(), subject)
        except TimeoutError as error:
            raise Wrong(f"a command hangs: {error}", subject) from error
        except Wrong:
            raise
        except Exception as error:
            if self.world.epoch != epoch:
                return LOST, ""
            # Resets may come before the head of the answer is read.
            subject.note(f"cut {'in the middle' if begun else 'at the start'}: {error!r}")
            return CUT, ""

    def outcome(self, stream, subject):
        output, end, trailer = b"", None, None
        while stream:
            flag, size = struct.unpack(">BI", stream[:5])
            message, stream = json.loads(stream[5 : 5 + size]), stream[5 + size :]
            event = message.get("event", {})
            output += base64.b64decode(event.get("data", {}).get("stdout", ""))
            end = event.get("end", end)
            if flag == 2:
                trailer = message
        if trailer != {} or end is None:
            subject.note(f"cut by {trailer}")
            return CUT, ""
        if not end.get("exited") or end.get("exitCode"):
            raise Wrong(f"a command ended with {end}: {output!r}", subject)
        return DONE, output.decode()
