"""The release gateway against its own `/openapi.json`, by schemathesis."""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "python"))

from gateway import KEY, Gateway  # noqa: E402

# More than schemathesis asks for, so that its creates succeed; most are gone within seconds.
MOST_SANDBOXES = 100


@pytest.fixture
def gateway_with():
    """Makes the gateway of a test, with that key or without any."""
    made = []

    def make(key):
        env = {"COPPICE_API_KEYS": key} if key else {}
        # Nothing ever waits in the pools that it makes up.
        flags = ["--max-sandboxes", str(MOST_SANDBOXES), "--pool-memory", "1"]
        flags += ["--agents", "admin"]
        made.append(Gateway(*flags, env=env))
        return made[-1].start(patience=600)

    yield make
    for gateway in made:
        gateway.remove()


def sandboxes(gateway, count):
    with gateway.http() as http:
        made = [
            http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 3600})
            for _ in range(count)
        ]
    return [answer.raise_for_status().json()["sandboxID"] for answer in made]


def drive(gateway, directory, key, *options):
    """By operation, the statuses that schemathesis saw; it has to find nothing wrong."""
    ids = {"running": sandboxes(gateway, 2), "doomed": sandboxes(gateway, 12)}
    ids["paused"] = sandboxes(gateway, 12)
    with gateway.http() as http:
        for id in ids["paused"]:
            http.post(f"/sandboxes/{id}/pause").raise_for_status()
    ids["paused"] += sandboxes(gateway, 12)
    with gateway.http() as http:
        path = f"/sandboxes/{ids['running'][0]}/snapshots"
        made = [http.post(path).raise_for_status().json() for _ in range(12)]
        ids["snapshots"] = [snapshot["snapshotID"] for snapshot in made]
        empty = {"bufferMin": 0, "bufferMax": 0, "poolMin": 0, "poolMax": 0}
        for n in range(12):
            pool = {"name": f"pool-{n}", "templateID": "base", "capacitySpec": empty}
            http.post("/pools", json=pool).raise_for_status()
        ids["pools"] = [f"pool-{n}" for n in range(12)]
        batch = {"replicas": 1, "templateID": "base", "timeout": 60}
        made = [http.post("/batches", json=batch).raise_for_status().json() for _ in range(12)]
        ids["batches"] = [batch["batchID"] for batch in made]
        hook = {"name": "x", "url": "https://hooks.invalid", "events": ["*"], "signatureSecret": "x"}
        for name, count in (("webhooks", 2), ("unhooked", 6)):
            made = [http.post("/events/webhooks", json=hook).raise_for_status() for _ in range(count)]
            ids[name] = [answer.json()["id"] for answer in made]
    # Each can be had once of each sandbox.
    now = datetime.datetime.now(datetime.timezone.utc)
    ids["later"] = [(now + datetime.timedelta(hours=n)).isoformat() for n in range(2, 12)]
    tables = [f"[dictionaries.{name}]\nvalues = {json.dumps(ids[name])}" for name in ids]
    tables.append(f"[auth.openapi.apiKey]\napi_key = {json.dumps(key)}")
    config = (HERE / "schemathesis.toml").read_text()
    (directory / "schemathesis.toml").write_text("\n\n".join([config, *tables]))
    document = f"{gateway.url}/openapi.json"
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", document, *options],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "NO_PROXY": "*", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    print(run.stdout)
    assert run.returncode == 0, "schemathesis found something"
    return answered(directory / "report.ndjson")


def test_the_gateway_keeps_to_its_document(gateway_with, tmp_path):
    gateway = gateway_with(KEY)
    seen = drive(gateway, tmp_path, KEY)
    wanted, never = successes(gateway), []
    for operation, statuses in wanted.items():
        print(f"{operation}: {sorted(seen.get(operation, []))}")
        never += [f"{operation} {status}" for status in statuses - seen.get(operation, set())]
    assert wanted and not never, f"no request succeeded of {never}"


def test_without_keys_it_does_too_and_takes_any(gateway_with, tmp_path):
    # That a wrong key is refused is the one thing that does not hold here.
    few = ["--phases=fuzzing", "--max-examples=4", "--exclude-checks=ignored_auth"]
    seen = drive(gateway_with(None), tmp_path, "any", *few)
    statuses = set().union(*seen.values())
    assert {200, 201, 204} <= statuses, statuses


def successes(gateway):
    """By operation, the statuses of success that the document speaks of."""
    with gateway.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
    # Read by schemathesis before anything else, and so not among its requests.
    del paths["/openapi.json"]
    # What has no end is not asked for.
    paths = {path: item for path, item in paths.items() if not path.endswith("/watch")}
    found = {
        f"{method.upper()} {path}": {int(s) for s in operation["responses"] if s[0] == "2"}
        for path, item in paths.items()
        for method, operation in item.items()
    }
    return {operation: statuses for operation, statuses in found.items() if statuses}


def answered(report):
    """By operation, the statuses that schemathesis saw."""
    seen = {}
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for case, exchange in recorder.get("interactions", {}).items():
            if (response := exchange.get("response")) and case in recorder["cases"]:
                asked = recorder["cases"][case]["value"]
                operation = f"{asked['method']} {asked['path']}"
                seen.setdefault(operation, set()).add(response["status_code"])
    return seen
