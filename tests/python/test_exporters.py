"""Events reach a real Postgres, a server that takes them as Axiom does, and programs; what is down for
a while gets them later, each once or again by the same id, whoever is killed meanwhile."""

import json
import signal
import socket
import time
from collections import Counter

import pytest
from e2b import Sandbox

from postgres import PASSWORD, Postgres
from receiver import Receiver

pytestmark = pytest.mark.plain("gateways of its own, whose transport has no part in it")

TOKEN = "xaat-not-in-any-log-91c2"
# The seed's, letter by letter.
SLOW = """-- Find slow executions
SELECT sandbox_id, data->>'command', data->>'durationMs'
FROM sandbox_events
WHERE event_type = 'exec.completed'
  AND (data->>'durationMs')::int > 5000
ORDER BY created_at DESC
LIMIT 20;"""
COSTS = """-- Calculate costs per sandbox
SELECT sandbox_id, SUM((data->>'cost')::numeric) as total_cost
FROM sandbox_events
WHERE event_type = 'cost.runtime'
  AND created_at > NOW() - INTERVAL '24 hours'
GROUP BY sandbox_id
ORDER BY total_cost DESC;"""


@pytest.fixture(scope="module")
def postgres(host):
    server = Postgres().start()
    yield server
    server.remove()


@pytest.fixture
def receiver():
    made = Receiver(lambda request: {"ingested": len(request["body"]), "failed": 0}).start()
    yield made
    made.stop()


@pytest.fixture
def settings(tmp_path):
    """Writes a file of settings: exporters as tuples of name, kind, what is common, and its table."""

    def write(*exporters):
        parts = []
        for name, kind, common, table in exporters:
            common = {"name": name, "kind": kind, **common}
            parts.append("[[events.exporters]]\n" + lines(common))
            parts.append(f"[events.exporters.{kind}]\n" + lines(table))
        path = tmp_path / "coppice.toml"
        path.write_text("\n".join(parts))
        return ["--config", path]

    def lines(table):
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())

    return write


def in_a_file(directory, name, text):
    path = directory / name
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


def lived(gateway, count=1):
    """So many sandboxes that have begun and ended, by their ids."""
    ids = []
    for _ in range(count):
        with Sandbox.create(**gateway.opts) as sandbox:
            ids.append(sandbox.sandbox_id)
    return ids


def figure(gateway, name, exporter):
    with gateway.http() as http:
        for line in http.get("/metrics").text.splitlines():
            if line.startswith(f'coppice_exporter_{name}{{exporter="{exporter}"}} '):
                return float(line.split()[-1])
    raise AssertionError(name)


def has_all(rows, ids, types=("sandbox.created", "sandbox.started", "sandbox.terminated")):
    """Whether there is one of each type of each sandbox in (id, type) pairs, and no two of one."""
    counted = Counter(row for row in rows if row[1] in types and row[0] in ids)
    assert max(counted.values(), default=1) == 1, counted
    return set(counted) == {(one, kind) for one in ids for kind in types}


def rows(postgres, table):
    return postgres.ask(f"SELECT sandbox_id, event_type FROM {table}") if postgres.has(table) else []


def test_postgres_has_what_happened_and_the_samples_queries_work(
    new_gateway, postgres, settings, tmp_path, eventually
):
    table = {
        "connection_string_file": in_a_file(tmp_path, "url", postgres.url),
        "ca_file": str(postgres.ca),
    }
    common = {"flush_interval_ms": 200, "event_types": ["sandbox.*", "exec.*", "cost.*"]}
    gateway = new_gateway(*settings(("db", "postgres", common, table))).start()
    with Sandbox.create(**gateway.opts) as sandbox:
        sandbox.commands.run("true")
    eventually(lambda: has_all(rows(postgres, "sandbox_events"), [sandbox.sandbox_id]), timeout=20)
    types = {kind for _, kind in rows(postgres, "sandbox_events")}
    assert not any(kind.startswith(("resource.", "file.")) for kind in types), types
    # One that has taken long, of the columns that those who write queries know.
    postgres.ask(
        "INSERT INTO sandbox_events (event_id, sandbox_id, event_type, created_at, data) VALUES "
        "(gen_random_uuid(), 'sb_slow', 'exec.completed', now(), "
        '\'{"command":"npm test","exitCode":0,"durationMs":5001}\'), '
        "(gen_random_uuid(), 'sb_slow', 'cost.runtime', now(), '{\"cost\":0.25}'), "
        "(gen_random_uuid(), 'sb_slow', 'cost.runtime', now(), '{\"cost\":0.5}')"
    )
    assert postgres.ask(SLOW) == [("sb_slow", "npm test", "5001")]
    assert ("sb_slow", "0.75") in postgres.ask(COSTS)
    assert PASSWORD not in gateway.log_tail(10_000)
    assert figure(gateway, "sent_events_total", "db") >= 3


def test_nothing_is_lost_while_postgres_and_the_gateway_are_killed_and_started(
    new_gateway, postgres, settings, tmp_path, eventually
):
    table = {
        "connection_string_file": in_a_file(tmp_path, "url", postgres.url),
        "ca_file": str(postgres.ca),
        "table_name": "killed",
    }
    common = {"flush_interval_ms": 50, "batch_size": 3, "event_types": ["sandbox.*"]}
    gateway = new_gateway(*settings(("db", "postgres", common, table))).start()
    ids = lived(gateway, 2)
    eventually(lambda: has_all(rows(postgres, "killed"), ids), timeout=20)
    postgres.kill()
    ids += lived(gateway, 3)
    eventually(lambda: figure(gateway, "waiting_events", "db") >= 9)
    eventually(lambda: figure(gateway, "retries_total", "db") >= 1)
    gateway.end(signal.SIGKILL)
    gateway.start()
    ids += lived(gateway, 2)
    postgres.start()
    eventually(lambda: has_all(rows(postgres, "killed"), ids), timeout=40)
    # And in the middle of being taken.
    ids += lived(gateway, 2)
    postgres.kill()
    postgres.start()
    ids += lived(gateway, 1)
    assert gateway.end() < 5
    gateway.start()
    eventually(lambda: has_all(rows(postgres, "killed"), ids), timeout=40)
    eventually(lambda: figure(gateway, "waiting_events", "db") == 0)
    assert figure(gateway, "dropped_events_total", "db") == 0
    assert PASSWORD not in gateway.log_tail(10_000)


def test_a_server_that_fails_and_recovers_has_all_and_what_it_had_by_the_same_ids(
    new_gateway, receiver, settings, tmp_path, eventually
):
    token = in_a_file(tmp_path, "token", TOKEN)
    table = {"url": f"http://127.0.0.1:{receiver.port}", "dataset": "events", "token_file": token}
    common = {"flush_interval_ms": 50, "event_types": ["sandbox.*"]}
    gateway = new_gateway(*settings(("ax", "axiom", common, table))).start()
    # The first request it has taken in spite of what it says.
    receiver.answers += [500, 503, 401]
    ids = lived(gateway, 2)

    def arrived():
        events = [event for body in receiver.bodies() for event in body]
        return has_all({(it["sandboxId"], it["type"], it["id"])[:2] for it in events}, ids)

    eventually(arrived, timeout=20)
    receiver.stop()
    ids += lived(gateway, 2)
    eventually(lambda: figure(gateway, "waiting_events", "ax") >= 6)
    receiver.start()
    eventually(arrived, timeout=40)
    requests = receiver.requests
    assert {one["path"] for one in requests} == {"/v1/datasets/events/ingest"}
    assert {one["headers"]["authorization"] for one in requests} == {f"Bearer {TOKEN}"}
    again = {event["id"] for event in receiver.bodies(500)[0]}
    taken = {event["id"]: event for body in receiver.bodies() for event in body}
    assert again and again <= taken.keys()
    assert all(event["_time"] == event["timestamp"] for event in taken.values())
    # What the server says of a failure had it.
    log = gateway.log_tail(10_000)
    assert "events do not arrive" in log and TOKEN not in log


def test_what_a_server_will_never_take_does_not_hold_up_the_rest(
    new_gateway, receiver, settings, tmp_path, eventually
):
    table = {"url": f"http://127.0.0.1:{receiver.port}", "dataset": "d", "token_env": "TOKEN"}
    common = {"batch_size": 100, "flush_interval_ms": 300, "event_types": ["sandbox.*"]}
    gateway = new_gateway(*settings(("ax", "axiom", common, table)), env={"TOKEN": TOKEN}).start()
    receiver.answers += [400] * 2
    ids = lived(gateway, 2)

    def arrived():
        events = [event for body in receiver.bodies() for event in body]
        return {it["sandboxId"] for it in events} == set(ids)

    eventually(arrived, timeout=20)
    assert [len(body) for body in receiver.bodies(400)] == sorted(
        (len(body) for body in receiver.bodies(400)), reverse=True
    )


def test_a_program_is_started_for_each_event_as_its_user(
    new_gateway, settings, short_dir, eventually
):
    said = short_dir / "said"
    said.mkdir()
    said.chmod(0o777)
    short_dir.chmod(0o755)
    script = short_dir / "program"
    script.write_text(
        "#!/bin/sh\n"
        f"id -un >{said}/user; env >{said}/env; cat >>{said}/events\n"
        f"[ -e {said}/mended ] || exit 75\n"
    )
    script.chmod(0o755)
    common = {"event_types": ["sandbox.created", "sandbox.terminated"]}
    table = {"path": str(script), "at_once": 1}
    flags = settings(("mail", "program", common, table))
    gateway = new_gateway(*flags, env={"SECRET": "s3cret"}).start()
    ids = lived(gateway)
    eventually(lambda: figure(gateway, "retries_total", "mail") >= 1)
    (said / "mended").touch()

    def heard():
        lines = (said / "events").read_text().splitlines()
        events = {event["id"]: event for event in map(json.loads, lines)}
        return has_all(
            [(it["sandboxId"], it["type"]) for it in events.values()],
            ids,
            ("sandbox.created", "sandbox.terminated"),
        )

    eventually(heard, timeout=20)
    assert (said / "user").read_text() == "nobody\n"
    environment = (said / "env").read_text()
    assert "COPPICE_EVENT_ID=" in environment and "s3cret" not in environment


def test_one_that_never_answers_costs_no_request_and_no_stop_anything(
    new_gateway, settings, tmp_path, eventually
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://me@127.0.0.1:{port}/x?sslmode=disable"
        token = in_a_file(tmp_path, "token", TOKEN)
        flags = settings(
            ("db", "postgres", {"flush_interval_ms": 0}, {"connection_string": url}),
            (
                "ax",
                "axiom",
                {"flush_interval_ms": 0},
                {"url": f"http://127.0.0.1:{port}", "dataset": "d", "token_file": token},
            ),
            ("sleep", "program", {}, {"path": "/bin/sleep", "args": ["60"], "timeout_ms": 60000}),
        )
        gateway = new_gateway(*flags).start()
        (id,) = lived(gateway)
        eventually(lambda: figure(gateway, "waiting_events", "db") >= 3)
        began = time.monotonic()
        lived(gateway)
        assert time.monotonic() - began < 5
        assert gateway.end() < 5
    for name in ("db", "ax", "sleep"):
        spool = gateway.data_dir / "events" / "spool" / name
        assert any(id in segment.read_text() for segment in spool.glob("*.seg")), name


def test_settings_that_are_not_known_are_refused_with_their_name(new_gateway, settings):
    flags = settings(("db", "postgres", {"batchSize": 1}, {"connection_string_env": "URL"}))
    gateway = new_gateway(*flags)
    gateway.spawn()
    assert gateway.process.wait(20) != 0
    assert "unknown field `batchSize`" in gateway.log_tail()
    gateway.process = None
