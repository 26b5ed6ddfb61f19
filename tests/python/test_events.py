"""What happened, asked of the gateway: by E2B's API, as it happens, and by `coppice events`."""

import json
import re
import signal
import subprocess
import threading
import time

import httpx
import jsonschema
import pytest
from e2b import CommandExitException, Sandbox

from gateway import BINARY, KEY, REPO, coppice

pytestmark = [
    pytest.mark.local("starts and ends gateways of its own"),
    pytest.mark.plain("what is kept does not depend on how it is asked for"),
]

DOCUMENT = (REPO / "docs" / "events.md").read_text()
(SCHEMA,) = (
    json.loads(block)
    for block in re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.M | re.S)
    if "$schema" in block
)
RATES = "core-second=0.01,gib-second=0.001,paused-gib-hour=1"


@pytest.fixture
def own(new_gateway):
    return new_gateway("--pool", "", "--cost", RATES, env={"COPPICE_API_KEYS": KEY}).start()


def events(gateway, path="", **asked):
    with gateway.http() as http:
        answer = http.get(f"/events/sandboxes{path}", params=asked)
        answer.raise_for_status()
        return answer.json()


def types(found):
    return [event["type"] for event in found]


def asked(gateway, *argv, status=0):
    done = coppice("events", *argv, "--url", gateway.url, env={"COPPICE_API_KEY": KEY})
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def told(gateway, box, event, data, **more):
    with gateway.http() as http:
        body = {"type": event, "data": data, **more}
        answer = http.post(f"/sandboxes/{box.sandbox_id}/events", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]


def test_what_happened_is_told_after_the_end_and_by_the_next_gateway(own, eventually):
    with Sandbox.create(timeout=300, metadata={"user": "7"}, **own.opts) as box:
        path = f"/{box.sandbox_id}"
        box.commands.run("echo one")
        with pytest.raises(CommandExitException):
            box.commands.run("exit 3")
        box.pause()
        box.connect()
        ends = eventually(
            lambda: len(found := events(own, path, types="exec.completed")) == 2 and found
        )
        assert [end["eventData"]["exitCode"] for end in ends] == [3, 0]
        first = {"toolName": "search", "toolArgs": {"q": 1}, "agentId": "a-1"}
        call = told(own, box, "tool.invoked", first)
        done = {"toolName": "search", "result": "x", "durationMs": 5}
        told(own, box, "tool.completed", done, parentId=call)
    lives = events(own, path, types="sandbox.lifecycle.*", orderAsc=True, limit=100)
    told_of = [name.rsplit(".", 1)[1] for name in types(lives)]
    # What is connected to has a new timeout.
    assert [what for what in told_of if what != "updated"] == [
        "created",
        "paused",
        "resumed",
        "killed",
    ]
    killed = lives[-1]
    assert killed["eventData"]["reason"] == "user"
    assert killed["eventData"]["sandbox_metadata"] == {"user": "7"}
    execution = killed["eventData"]["execution"]
    assert execution["vcpu_count"] == 2 and execution["execution_time"] >= 0
    before = events(own, path, limit=1000)
    paged = [events(own, path, limit=1, offset=n)[0] for n in range(len(before))]
    assert [one["id"] for one in paged] == [one["id"] for one in before]

    own.end(signal.SIGKILL)
    with open(own.data_dir / "events" / "events.jsonl", "a") as file:
        file.write('{"timestamp":"2026-')
    own.start()
    after = events(own, path, limit=1000)
    assert {one["id"] for one in before} <= {one["id"] for one in after}
    with own.http() as http:
        assert http.get(f"/events/sandboxes/{'0' * 32}").status_code == 404
    own.end()
    lines = (own.data_dir / "events" / "events.jsonl").read_text().splitlines()
    read = [json.loads(line) for line in lines]
    for line in read:
        jsonschema.validate(line, SCHEMA)
    assert [line["data"] for line in read if line["type"] == "events.lost"] == [{"count": 1}]


class Tail:
    """`coppice events tail --json` and what it has said so far."""

    def __init__(self, gateway, *argv):
        argv = [BINARY, "events", "tail", "--json", "--url", gateway.url, *argv]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, env={"COPPICE_API_KEY": KEY}, text=True
        )
        self.told = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        self.told.extend(map(json.loads, self.process.stdout))

    def commands(self):
        return [event["eventData"]["command"] for event in self.told]

    def end(self):
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(10) == 0


def test_tail_misses_nothing_and_repeats_nothing_across_a_restart(own, eventually):
    box = Sandbox.create(timeout=300, **own.opts)
    tail = Tail(own, "--types", "exec.started", "--since", "1h")
    box.commands.run("echo 1")
    eventually(lambda: tail.commands() == ["echo 1"])
    own.end()
    own.start()
    for n in range(2, 5):
        box.commands.run(f"echo {n}")
    eventually(lambda: len(tail.told) >= 4, timeout=20)
    box.commands.run("echo 5")
    eventually(lambda: len(tail.told) >= 5)
    assert tail.commands() == [f"echo {n}" for n in range(1, 6)]
    tail.end()
    box.kill()


def test_who_watches_goes_on_where_they_were_and_hears_the_end(own, eventually):
    box = Sandbox.create(timeout=300, **own.opts)
    ids = [told(own, box, "tool.failed", {"toolName": str(n), "error": "x"}) for n in range(5)]
    seen, ended = [], threading.Event()

    def watch():
        headers = {"X-API-Key": KEY, "Last-Event-ID": ids[1]}
        params = {"types": "tool.*", "sandboxId": box.sandbox_id}
        url = f"{own.url}/events/sandboxes/watch"
        with httpx.stream("GET", url, params=params, headers=headers, timeout=30) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    seen.append(line.removeprefix("id: "))
        # Without an error: the stream has its end.
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    eventually(lambda: seen == ids[2:])
    ids.append(told(own, box, "tool.failed", {"toolName": "5", "error": "x"}))
    eventually(lambda: seen == ids[2:])
    began = time.monotonic()
    own.end()
    assert ended.wait(5) and time.monotonic() - began < 8
    own.start()
    Sandbox.kill(box.sandbox_id, **own.opts)


def test_costs_errors_and_actions_are_told_on_the_command_line(own, eventually):
    with Sandbox.create(timeout=300, **own.opts) as box:
        for code in (0, 0, 0, 7):
            try:
                box.commands.run(f"exit {code}")
            except CommandExitException:
                assert code
        call = told(own, box, "tool.invoked", {"toolName": "search", "agentId": "a-1"})
        told(own, box, "tool.failed", {"toolName": "search", "error": "no"}, parentId=call)
        told(own, box, "tool.invoked", {"toolName": "other", "agentId": "a-2"})
        ends = {"types": "exec.completed", "limit": 100}
        eventually(lambda: len(events(own, f"/{box.sandbox_id}", **ends)) == 4)
    errors = json.loads(asked(own, "errors", "--json", status=2))
    assert (errors["windows"][0]["commands"], errors["windows"][0]["failed"]) == (4, 1)
    assert "25.0%  too many" in asked(own, "errors", status=2)
    asked(own, "errors", "--threshold", "30")
    actions = asked(own, "audit", "--agent", "a-1", "--json").splitlines()
    assert types(map(json.loads, actions)) == ["tool.invoked", "tool.failed"]
    actions = asked(own, "audit", "--sandbox", box.sandbox_id)
    assert "exit 7 after" in actions and "a-2" in actions and "sandbox.lifecycle.killed" in actions
    costs = json.loads(asked(own, "cost", "--json"))
    (row,) = [row for row in costs["sandboxes"] if row["sandboxId"] == box.sandbox_id]
    # Two cores and a GiB.
    per_ms = (2 * 0.01 + 0.001) / 1000
    assert row["runtimeMs"] > 0
    assert abs(row["totalCost"] - row["runtimeMs"] * per_ms) <= per_ms
    assert costs["all"]["totalCost"] == row["totalCost"]
    assert box.sandbox_id in asked(own, "cost")
    refused = coppice("events", "tail", "--url", own.url, env={"COPPICE_API_KEY": KEY[:-1] + "1"})
    assert refused.returncode == 1 and "401" in refused.stderr
