"""What sandboxes use and what happened to them, as E2B's API tells both."""

import datetime
import json
import os
import signal
import time

import pytest
from e2b import AsyncSandbox, CommandExitException, Sandbox
from hoststate import processes_of

SPIN = "timeout {} sh -c 'while :; do :; done'"
FIELDS = {
    "timestamp",
    "timestampUnix",
    "cpuCount",
    "cpuUsedPct",
    "memUsed",
    "memTotal",
    "memCache",
    "diskUsed",
    "diskTotal",
}


@pytest.mark.sdk
def test_a_sandbox_tells_what_it_has_used(sandbox, eventually):
    sandbox.commands.run("head -c 40000000 /dev/urandom > /tmp/file")
    sandbox.commands.run(SPIN.format(12), background=True, timeout=30)
    busy = eventually(
        lambda: [one for one in sandbox.get_metrics() if one.cpu_used_pct > 20], timeout=30
    )[-1]
    # However much of a core it was given: never more than it has.
    assert busy.cpu_count == 2 and busy.cpu_used_pct < 230
    assert 0 < busy.mem_used < busy.mem_total == 1 << 30
    assert busy.disk_total > 0
    every = [one.timestamp for one in Sandbox.get_metrics(sandbox.sandbox_id)]
    assert every == sorted(every)
    now = datetime.datetime.now(datetime.timezone.utc)
    assert all(abs((at - now).total_seconds()) < 60 for at in every)
    assert [one.timestamp for one in sandbox.get_metrics(start=every[-1], end=every[-1])] == [
        every[-1]
    ]
    assert sandbox.get_metrics(start=now + datetime.timedelta(hours=1)) == []


@pytest.mark.sdk
async def test_so_does_one_of_the_asynchronous_half(sandbox, eventually):
    eventually(sandbox.get_metrics)
    again = await AsyncSandbox.connect(sandbox.sandbox_id)
    (first, *_) = await again.get_metrics()
    (same, *_) = await AsyncSandbox.get_metrics(sandbox.sandbox_id)
    assert first == same and first.cpu_count == 2


def test_all_fields_are_there_and_many_are_told_at_once(gateway, sandbox, eventually):
    id = sandbox.sandbox_id
    eventually(sandbox.get_metrics)
    with gateway.http() as http:
        one = http.get(f"/sandboxes/{id}/metrics").json()[0]
        assert one.keys() == FIELDS
        several = http.get("/sandboxes/metrics", params={"sandbox_ids": f"{id},{'0' * 32},x"})
        assert several.json()["sandboxes"].keys() == {id}
        assert several.json()["sandboxes"][id].keys() == FIELDS
        for wrong in ("", "?sandbox_ids=", "?sandbox_ids=" + ",".join([id] * 101)):
            assert http.get(f"/sandboxes/metrics{wrong}").status_code == 400, wrong
        assert http.get(f"/sandboxes/{'0' * 32}/metrics").status_code == 404
        assert http.get(f"/sandboxes/{id}/metrics?start=x").status_code == 400


def series(gateway, id):
    with gateway.http() as http:
        lines = http.get("/metrics").text.splitlines()
    label = f'sandbox="{id[:12]}"'
    return {line.split("{")[0]: float(line.split()[-1]) for line in lines if label in line}


@pytest.mark.plain("what one gateway leaves to the next")
def test_figures_go_on_after_a_restart_and_stand_still_in_a_pause(new_gateway, eventually):
    gateway = new_gateway().start()
    sandbox = Sandbox.create(timeout=300, **gateway.opts)
    id = sandbox.sandbox_id
    sandbox.commands.run(SPIN.format(3), background=True, timeout=30)
    spent = "coppice_sandbox_cpu_seconds_total"
    eventually(lambda: series(gateway, id).get(spent, 0) > 0.3)
    before = eventually(sandbox.get_metrics)
    cpu = series(gateway, id)[spent]
    gateway.end()
    gateway.start()
    after = sandbox.get_metrics()
    assert [one.timestamp for one in after][: len(before)] == [one.timestamp for one in before]
    assert series(gateway, id)[spent] >= cpu
    told = messages(gateway, id)
    assert told.count("created") == 1 and "taken over by a gateway that has begun" in told

    assert sandbox.pause()
    eventually(lambda: series(gateway, id).get("coppice_sandbox_cpu_percent") == 0)
    # What it spent between the last look before the pause and the pause is seen at the next one.
    time.sleep(3)
    count = len(sandbox.get_metrics())
    cpu = series(gateway, id)[spent]
    # Longer than from one sample of the history to the next.
    time.sleep(6)
    # The last of what it spent on being stopped may have been counted after the first look.
    assert len(sandbox.get_metrics()) == count and series(gateway, id)[spent] - cpu < 0.01
    sandbox.kill()
    assert series(gateway, id) == {}


def counters(gateway):
    """What has happened to sandboxes, by the names of the figures; what has not is left out."""
    with gateway.http() as http:
        lines = http.get("/metrics").text.splitlines()
    counted = (line.split() for line in lines if line.startswith("coppice_sandboxes_"))
    return {name: float(value) for name, value in counted if "_total" in name and float(value)}


@pytest.mark.plain("what one gateway leaves to the next")
def test_a_kill_of_the_gateway_makes_no_figure_jump(new_gateway, eventually):
    gateway = new_gateway().start()
    sandbox, doomed = (Sandbox.create(timeout=300, **gateway.opts) for _ in range(2))
    id, spent = sandbox.sandbox_id, "coppice_sandbox_cpu_seconds_total"
    sandbox.commands.run(SPIN.format(60), background=True, timeout=60)
    eventually(lambda: series(gateway, id).get(spent, 0) > 0.3, timeout=30)
    before = eventually(sandbox.get_metrics, timeout=30)
    assert counters(gateway) == {"coppice_sandboxes_created_total": 2}
    # Whoever is told to end writes all it knows.
    gateway.end()
    gateway.start()
    for _ in range(2):
        count, asked = series(gateway, id)[spent], time.monotonic()
        gateway.end(signal.SIGKILL)
        gateway.start()
        now = eventually(lambda: series(gateway, id).get(spent), timeout=30)
        cores = len(os.sched_getaffinity(0))
        assert count <= now <= count + (time.monotonic() - asked + 1) * cores
        # What is gone is what was looked at since it was last written.
        after = sandbox.get_metrics()
        assert [one.timestamp for one in after][: len(before)] == [one.timestamp for one in before]
        assert all(one.cpu_used_pct <= 100 * cores + 50 for one in after), after
        # Those it found are none that it has made.
        assert counters(gateway) == {}
    # The size of its disk is found in the time that others leave over.
    same = lambda: series(gateway, id).keys() == series(gateway, doomed.sandbox_id).keys()
    eventually(same, timeout=40)
    # What ended while there was no gateway is counted once, by the next one.
    gateway.end(signal.SIGKILL)
    for pid in processes_of(doomed.sandbox_id, "envd"):
        os.kill(pid, signal.SIGKILL)
    gateway.start()
    ended = 'coppice_sandboxes_ended_total{reason="envd_died"}'
    assert counters(gateway) == {ended: 1}
    assert series(gateway, doomed.sandbox_id) == {}


def entries(gateway, id, **query):
    with gateway.http() as http:
        answer = http.get(f"/v2/sandboxes/{id}/logs", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["logs"]


def messages(gateway, id, **query):
    return [entry["message"] for entry in entries(gateway, id, **query)]


def test_what_happened_to_a_sandbox_is_in_its_log(gateway, sandbox, eventually):
    id = sandbox.sandbox_id
    sandbox.commands.run("true")
    with pytest.raises(CommandExitException):
        sandbox.commands.run("exit 3")
    eventually(lambda: messages(gateway, id).count("command ended") == 2)
    assert sandbox.pause()
    sandbox.connect()
    told = [it for it in entries(gateway, id) if it["fields"]["logger"] != "envd"]
    assert all(set(one) == {"timestamp", "message", "level", "fields"} for one in told)
    times = [one["timestamp"] for one in told]
    assert times == sorted(set(times))
    shown = [one["message"] for one in told if one["level"] != "debug"]
    assert shown[0] == "created" and shown[-2:] == ["paused", "resumed"]
    (failed,) = [it for it in told if it["level"] == "warn"]
    assert failed["fields"]["exitCode"] == "3" and failed["fields"]["logger"] == "sandbox"

    millis = round(datetime.datetime.fromisoformat(times[1]).timestamp() * 1000)
    assert times[0] not in [it["timestamp"] for it in entries(gateway, id, cursor=millis)]
    back = entries(gateway, id, cursor=millis, direction="backward")
    assert [it["timestamp"] for it in back if it["timestamp"] in times] == [times[1], times[0]]
    assert messages(gateway, id, limit=1) == ["created"]
    assert set(messages(gateway, id, search="command en")) == {"command ended"}
    assert "paused" not in messages(gateway, id, level="warn")
    with gateway.http() as http:
        elder = http.get(f"/sandboxes/{id}/logs").json()
        for entry, line in zip(elder["logEntries"], elder["logs"], strict=True):
            read = json.loads(line["line"])
            assert line["timestamp"] == entry["timestamp"]
            assert (read["level"], read["message"]) == (entry["level"], entry["message"])
        after = http.get(f"/sandboxes/{id}/logs", params={"start": millis + 1}).json()["logs"]
        assert times[1] not in [it["timestamp"] for it in after]
        for wrong in ("direction=up", "level=loud", "limit=0", "limit=1001", "cursor=-1"):
            assert http.get(f"/v2/sandboxes/{id}/logs?{wrong}").status_code == 400, wrong
        for version in ("", "/v2"):
            path = f"{version}/sandboxes/{'0' * 32}/logs"
            assert http.get(path).status_code == 404
    sandbox.kill()
    # One that has ended is remembered.
    ended = eventually(
        lambda: [it for it in entries(gateway, id) if it["message"] == "ended"], timeout=10
    )
    assert ended[0]["fields"]["reason"] == "user"
