"""What clients do in a sandbox becomes events, by the file that a gateway keeps of them."""

import json

import pytest
from e2b import CommandExitException, NotFoundException, Sandbox, TimeoutException
from e2b.connection_config import ConnectionConfig

from inside import serve

pytestmark = [
    pytest.mark.local("reads the file of events of a gateway of its own"),
    pytest.mark.plain("what is told of a sandbox does not depend on how it is reached"),
]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture
def told(new_gateway):
    return Told(new_gateway("--pool", "").start())


class Told:
    def __init__(self, gateway):
        self.gateway = gateway

    def text(self):
        file = self.gateway.data_dir / "events" / "events.jsonl"
        return file.read_text() if file.exists() else ""

    def of(self, sandbox, *types):
        # What is behind the last line's end is being written.
        events = [json.loads(line) for line in self.text().split("\n")[:-1]]
        own = [event for event in events if event.get("sandboxId") == sandbox.sandbox_id]
        # What one gateway has told the next may tell again, as the same event.
        own = {event["id"]: event for event in own}.values()
        return [event for event in own if event["type"] in types]


def test_commands_are_told_with_their_words_output_and_end(told, eventually):
    with Sandbox.create(timeout=120, **told.gateway.opts) as box:
        box.commands.run("echo out; echo err >&2", cwd="/tmp")
        with pytest.raises(CommandExitException):
            box.commands.run("exit 3")
        with pytest.raises(TimeoutException):
            box.commands.run("sleep 60", timeout=1)
        with pytest.raises(Exception, match="does not exist"):
            box.commands.run("true", cwd="/nowhere")
        box.commands.run("head -c 100000 /dev/zero | tr '\\0' x")
        ends = ("exec.completed", "exec.timed_out", "exec.failed")
        eventually(lambda: len(told.of(box, *ends)) == 6)
        events = told.of(box, "exec.started", *ends)
        started = {e["id"]: e for e in events if e["type"] == "exec.started"}
        assert [e["data"]["command"] for e in started.values()][:2] == [
            "echo out; echo err >&2",
            "exit 3",
        ]
        ended = {e["data"]["command"]: e for e in events if e["type"] == "exec.completed"}
        first, second, killed, long = (ended[e["data"]["command"]] for e in started.values())
        assert started[first["parentId"]]["data"]["cwd"] == "/tmp"
        data = first["data"]
        assert (data["exitCode"], data["stdout"], data["stderr"]) == (0, "out\n", "err\n")
        assert second["data"]["exitCode"] == 3
        assert killed["data"]["exitCode"] == -1 and 900 <= killed["data"]["durationMs"] < 30_000
        assert long["data"]["stdout"] == "x" * 4096
        # Told when its process is gone, which its client does not wait for.
        (timed_out,) = (e for e in events if e["type"] == "exec.timed_out")
        assert timed_out["parentId"] == killed["parentId"]
        assert 900 <= timed_out["data"]["timeoutMs"] <= 1000
        assert timed_out["data"]["signal"] == "SIGKILL"
        (failed,) = (e for e in events if e["type"] == "exec.failed")
        assert "/nowhere" in failed["data"]["error"]


def test_secrets_are_in_no_event_and_are_counted(told, eventually):
    key = "sk-0123456789abcdefghijklmnop"
    with Sandbox.create(timeout=120, **told.gateway.opts) as box:
        # The second is where the output is cut.
        box.commands.run(f"echo {key}; printf '%4089s %s' x {key} >&2")
        box.files.write(f"/tmp/{key}", "x")
        eventually(lambda: told.of(box, "file.created"))
        (end,) = told.of(box, "exec.completed")
        assert end["data"]["stdout"] == "[redacted:openai-key]\n"
        assert end["data"]["stderr"].strip() == "x [redacted:openai-key]"
        (made,) = told.of(box, "file.created")
        assert made["data"] == {"path": "/tmp/[redacted:openai-key]", "sizeBytes": 1}
        assert "sk-0" not in told.text()
    with told.gateway.http() as http:
        metrics = http.get("/metrics").text
    hits = next(line for line in metrics.splitlines() if 'hits_total{pattern="openai-key"}' in line)
    assert int(hits.split()[-1]) >= 4


def test_files_are_told_by_what_became_of_them(told, eventually):
    with Sandbox.create(timeout=120, **told.gateway.opts) as box:
        box.files.write("/tmp/a", "one")
        box.files.write("/tmp/a", b"x" * 1_000_000)
        assert len(box.files.read("/tmp/a")) == 1_000_000
        box.files.rename("/tmp/a", "/tmp/b")
        box.files.make_dir("/tmp/c")
        box.files.remove("/tmp/b")
        box.files.remove("/tmp/never-there")
        with pytest.raises(NotFoundException):
            box.files.read("/tmp/b")
        types = ("file.created", "file.modified", "file.read", "file.deleted")
        eventually(lambda: len(told.of(box, *types)) == 7)
        assert [(e["type"], *e["data"].values()) for e in told.of(box, *types)] == [
            ("file.created", "/tmp/a", 3),
            ("file.modified", "/tmp/a", 1_000_000),
            ("file.read", "/tmp/a", 1_000_000),
            ("file.deleted", "/tmp/a"),
            ("file.created", "/tmp/b", 1_000_000),
            ("file.created", "/tmp/c/", 0),
            ("file.deleted", "/tmp/b"),
        ]


@pytest.fixture
def traced(monkeypatch):
    """All requests of sandboxes made from then on have that header, as instrumented ones do."""
    own = ConnectionConfig.sandbox_headers

    def by(traceparent):
        def headers(config):
            return {**own.fget(config), "traceparent": traceparent}

        monkeypatch.setattr(ConnectionConfig, "sandbox_headers", property(headers))
        return {"headers": {"traceparent": traceparent}}

    return by


def test_a_trace_goes_through_to_the_program_and_its_events(told, traced, eventually):
    opts = told.gateway.opts
    with Sandbox.create(timeout=120, **traced(TRACEPARENT), **opts) as box:
        assert box.commands.run("echo $TRACEPARENT").stdout == f"{TRACEPARENT}\n"
        mine = box.commands.run("echo $TRACEPARENT", envs={"TRACEPARENT": "mine"}).stdout
        assert mine == "mine\n"
        box.files.write("/tmp/a", "x")
        eventually(lambda: told.of(box, "file.created"))
        types = ("sandbox.created", "exec.started", "exec.completed", "file.created")
        events = told.of(box, *types)
        assert len(events) == 6
        assert {event.get("traceId") for event in events} == {TRACE}
    with Sandbox.create(timeout=120, **traced(TRACEPARENT.upper()), **opts) as box:
        assert box.commands.run("echo $TRACEPARENT").stdout == "\n"
        eventually(lambda: told.of(box, "exec.completed"))
        assert not any("traceId" in e for e in told.of(box, "exec.completed", "sandbox.created"))


def test_a_port_is_exposed_by_its_first_use_and_closed_when_it_is_over(told, eventually):
    with Sandbox.create(timeout=120, **told.gateway.opts) as box:
        routed = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "8080"}
        with told.gateway.http() as http:
            assert http.get("/", headers=routed).status_code == 502
            serve(box)
            for _ in range(3):
                assert http.get("/", headers=routed).status_code < 500
        assert not told.of(box, "port.closed")
    types = ("port.exposed", "port.closed")
    eventually(lambda: len(told.of(box, *types)) == 2)
    exposed, closed = told.of(box, *types)
    name = f"8080-{box.sandbox_id}."
    assert exposed["data"]["port"] == closed["data"]["port"] == 8080
    assert exposed["data"]["url"].startswith(f"http://{name}")
    assert closed["parentId"] == exposed["id"]


def test_what_ended_while_no_gateway_ran_is_told_by_the_next(told, eventually):
    box = Sandbox.create(timeout=120, **told.gateway.opts)
    box.commands.run("sleep 2; echo done", background=True)
    eventually(lambda: told.of(box, "exec.started"))
    told.gateway.end()
    told.gateway.start()
    eventually(lambda: told.of(box, "exec.completed"), timeout=20)
    (started,) = told.of(box, "exec.started")
    (end,) = told.of(box, "exec.completed")
    assert end["parentId"] == started["id"] and end["data"]["stdout"] == "done\n"
    assert end["data"]["command"] == "sleep 2; echo done"
    box.kill()
