"""What a gateway tells of sandboxes' lives, held against what was done with them, against its own
metrics, and against what each cost as a whole."""

import json
import signal
from collections import Counter, defaultdict
from datetime import datetime
from decimal import Decimal

import pytest
from e2b import CommandExitException, Sandbox, SandboxException

pytestmark = [
    pytest.mark.local("reads the file of events of a gateway of its own"),
    pytest.mark.plain("what is told of a sandbox does not depend on how it is reached"),
]

# Nothing of it comes out even.
COST = "core-second=0.000007919,gib-second=0.000001009,paused-gib-hour=0.001000003"
EXITS = {0: "0", 124: "124", -1: "signal", 126: "126-128", 127: "126-128", 128: "126-128"}


class Told:
    """The file of events of a gateway, one after the other."""

    def __init__(self, gateway):
        self.gateway = gateway

    def all(self):
        # What is behind the last line's end is being written.
        lines = (self.gateway.data_dir / "events" / "events.jsonl").read_text().split("\n")[:-1]
        events, seen = [], set()
        for line in lines:
            event = json.loads(line, parse_float=Decimal)
            if event["type"] == "events.lost":
                continue
            event["at"] = datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00"))
            # What was told twice has one id.
            if event["id"] not in seen:
                seen.add(event["id"])
                events.append(event)
        return events

    def of(self, sandbox, prefix=""):
        own = [event for event in self.all() if event["sandboxId"] == sandbox]
        return [event for event in own if event["type"].startswith(prefix)]

    def ended(self, sandbox):
        return any(event["type"] == "cost.total" for event in self.of(sandbox))


@pytest.fixture
def told(new_gateway):
    return Told(new_gateway("--pool", "", "--cost", COST, "--resource-events", "1").start())


def metrics(gateway):
    with gateway.http() as http:
        lines = http.get("/metrics").text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: Decimal(value) for name, value in pairs}


def millis(start, end):
    return round((end["at"] - start["at"]).total_seconds() * 1000)


def exit_of(code):
    if code in EXITS:
        return EXITS[code]
    return "1-125" if code < 126 else "129-255"


def replay(events):
    """State of each sandbox, and the counters of the metrics, by nothing but the events."""
    states, counters = {}, Counter()
    for event in events:
        kind, data = event["type"], event["data"]
        if kind == "sandbox.started":
            states[event["sandboxId"]] = "running"
            counters["coppice_sandboxes_created_total"] += 1
            counters["coppice_sandbox_create_ns_sum"] += data["tookNs"]
        elif kind in ("sandbox.paused", "sandbox.resumed"):
            done = kind.removeprefix("sandbox.")
            states[event["sandboxId"]] = {"paused": "paused", "resumed": "running"}[done]
            counters[f"coppice_sandboxes_{done}_total"] += 1
        elif kind == "sandbox.adopted":
            states[event["sandboxId"]] = data["state"]
        elif kind == "sandbox.failed":
            counters[f'coppice_create_failures_total{{reason="{data["reason"]}"}}'] += 1
        elif kind == "sandbox.terminated":
            states.pop(event["sandboxId"], None)
            counters[f'coppice_sandboxes_ended_total{{reason="{data["reason"]}"}}'] += 1
            counters["coppice_sandboxes_killed_total"] += data["reason"] == "user"
        elif kind == "exec.completed":
            counters[f'coppice_command_exits_total{{exit="{exit_of(data["exitCode"])}"}}'] += 1
            counters["coppice_command_duration_seconds_count"] += 1
        elif kind == "exec.started" and data.get("repeated"):
            counters['coppice_repetitions_total{op="command"}'] += 1
    return states, counters


FAMILIES = (
    "coppice_sandboxes_created_total",
    "coppice_sandboxes_killed_total",
    "coppice_sandboxes_paused_total",
    "coppice_sandboxes_resumed_total",
    "coppice_sandboxes_ended_total",
    "coppice_create_failures_total",
    "coppice_sandbox_create_ns_sum",
    "coppice_command_exits_total",
    "coppice_command_duration_seconds_count",
    'coppice_repetitions_total{op="command"}',
)


def agree(told, events):
    """Replayed, events are what the metrics count and what the gateway lists."""
    states, counters = replay(events)
    figures = metrics(told.gateway)
    counted = {name: value for name, value in figures.items() if name.startswith(FAMILIES)}
    assert counted == {name: counters[name] for name in counted}
    assert set(counters) <= set(counted)
    with told.gateway.http() as http:
        listed = http.get("/v2/sandboxes?state=running,paused").json()
    assert {one["sandboxID"]: one["state"] for one in listed} == states
    return figures


def is_a_life(events):
    """In order, each with what it came of, and with times that fit its neighbours'."""
    known, last, sums = {}, None, Counter()
    assert [event["type"] for event in events[:2]] == ["sandbox.created", "sandbox.started"]
    assert "parentId" not in events[0]
    created = events[0]["id"]
    for event in events:
        kind, data = event["type"], event["data"]
        parent = known.get(event.get("parentId"))
        if kind != "sandbox.created" and kind.startswith(("sandbox.", "cost.", "resource.")):
            assert parent, event
        if kind == "sandbox.paused":
            assert parent["type"] in ("sandbox.started", "sandbox.resumed")
            assert data["runtimeDurationMs"] == millis(parent, event)
            sums["ran"] += data["runtimeDurationMs"]
        elif kind == "sandbox.resumed":
            assert parent["type"] == "sandbox.paused"
            assert data["pausedDurationMs"] == millis(parent, event)
            sums["stood"] += data["pausedDurationMs"]
        elif kind == "sandbox.terminated":
            assert parent["id"] == created
            sums["stood" if last["type"] == "sandbox.paused" else "ran"] += millis(last, event)
            assert data["totalRuntimeMs"] == sums["ran"]
            assert data["totalPausedMs"] == sums["stood"]
        elif kind == "exec.completed":
            assert parent["type"] == "exec.started"
        if kind in ("sandbox.started", "sandbox.paused", "sandbox.resumed"):
            last = event
        known[event["id"]] = event


def costs_add_up(events):
    parts, totals = defaultdict(Decimal), {}
    for event in events:
        if event["type"] in ("cost.runtime", "cost.storage"):
            parts[event["sandboxId"]] += event["data"]["cost"]
        elif event["type"] == "cost.total":
            totals[event["sandboxId"]] = event["data"]["sandboxCost"]
    assert totals and {sandbox: parts[sandbox] for sandbox in totals} == totals
    assert all(total > 0 for total in totals.values())


def test_whatever_is_done_is_told_and_replayed_gives_the_state_and_the_counters(told, eventually):
    opts = told.gateway.opts
    box = Sandbox.create(timeout=120, metadata={"who": "me"}, **opts)
    box.commands.run("echo hello")
    with pytest.raises(CommandExitException):
        box.commands.run("exit 3")
    for _ in range(4):
        box.commands.run("true")
    box.set_timeout(300)
    for _ in range(2):
        box.pause()
        box.connect(timeout=300)
    box.files.write("/tmp/a", "x")
    short = Sandbox.create(timeout=1, **opts)
    paused = Sandbox.create(timeout=120, **opts)
    paused.pause()
    with pytest.raises(SandboxException):
        Sandbox.create("nobody-s", timeout=120, **opts)
    box.kill()
    assert not box.kill()
    eventually(lambda: told.ended(box.sandbox_id) and told.ended(short.sandbox_id))

    events = told.of(box.sandbox_id)
    kinds, cost = [event["type"] for event in events], "cost."
    # Its envd tells of them in its own time.
    inside = [kind for kind in kinds if kind.startswith("exec.")]
    assert inside == 6 * ["exec.started", "exec.completed"]
    assert [kind for kind in kinds if kind.startswith(("sandbox.", cost))] == [
        "sandbox.created",
        "sandbox.started",
        "sandbox.updated",
        *2 * ["sandbox.paused", cost + "runtime", "sandbox.resumed", cost + "storage"],
        "sandbox.terminated",
        cost + "runtime",
        cost + "total",
    ]
    assert events[0]["data"]["image"] == "base" and events[0]["data"]["metadata"] == {"who": "me"}
    assert events[0]["data"]["resources"]["cpuCount"] >= 1
    assert events[1]["data"]["startupDurationMs"] == events[1]["data"]["tookNs"] // 1_000_000
    (ended,) = told.of(short.sandbox_id, "sandbox.terminated")
    assert ended["data"]["reason"] == "deadline"
    # A tenth of a second late is what a busy machine makes of it.
    assert 990 <= ended["data"]["totalRuntimeMs"] < 5000
    for sandbox in (box, short, paused):
        is_a_life(told.of(sandbox.sandbox_id))
    (failed,) = (event for event in told.all() if event["type"] == "sandbox.failed")
    assert (failed["template"], failed["data"]) == ("nobody-s", {"reason": "no_template"})
    costs_add_up(told.all())

    figures = agree(told, told.all())
    kinds = Counter(event["type"] for event in told.all())
    for kind, count in kinds.items():
        if not kind.startswith("resource."):
            assert figures[f'coppice_events_total{{type="{kind}"}}'] == count, kind
    assert all(v == 0 for name, v in figures.items() if name.startswith("coppice_events_lost"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_lives_that_outlast_a_gateway_are_told_to_their_ends(told, eventually, how):
    opts = told.gateway.opts
    running, paused, short = (Sandbox.create(timeout=t, **opts) for t in (120, 120, 2))
    running.pause()
    running.connect(timeout=120)
    paused.pause()
    ids = [box.sandbox_id for box in (running, paused, short)]
    # Whatever kills a gateway takes what it has not written yet.
    eventually(lambda: len(told.of(ids[1], "cost.")) == 1)
    told.gateway.end(how)
    before = len(told.all())
    told.gateway.start()
    eventually(lambda: told.ended(ids[2]))
    states = {event["sandboxId"]: event["data"]["state"] for event in told.all()[before:]
              if event["type"] == "sandbox.adopted"}
    assert {ids[0]: "running", ids[1]: "paused"}.items() <= states.items()
    paused.connect(timeout=120)
    for box in (running, paused):
        box.kill()
    eventually(lambda: all(map(told.ended, ids)))
    for sandbox in ids:
        is_a_life(told.of(sandbox))
    costs_add_up(told.all())
    # Counters begin anew with a gateway.
    agree(told, told.all()[before:])


def test_what_sandboxes_use_is_told_while_they_run(told, eventually):
    with Sandbox.create(timeout=120, **told.gateway.opts) as box:
        box.commands.run("timeout 30 sh -c 'while :; do :; done'", background=True)
        used = eventually(lambda: [
            event for event in told.of(box.sandbox_id, "resource.cpu")
            if event["data"]["cpuPercent"] > 5
        ])
        assert used[0]["data"]["cores"] >= 1
        memory = told.of(box.sandbox_id, "resource.memory")[-1]["data"]
        assert 0 < memory["memoryUsedMb"] < memory["memoryLimitMb"]
        (start,) = told.of(box.sandbox_id, "sandbox.started")
        assert used[0]["parentId"] == start["id"]
