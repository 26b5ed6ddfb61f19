"""The release gateway against its own `/openapi.json`, by schemathesis."""

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


@pytest.fixture(scope="module")
def gateway():
    gateway = Gateway("--max-sandboxes", str(MOST_SANDBOXES), env={"COPPICE_API_KEYS": KEY})
    try:
        yield gateway.start(patience=600)
    finally:
        gateway.remove()


def sandboxes(gateway, count):
    with gateway.http() as http:
        made = [
            http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 3600})
            for _ in range(count)
        ]
    return [answer.raise_for_status().json()["sandboxID"] for answer in made]


def test_the_gateway_keeps_to_its_document(gateway, tmp_path):
    ids = {"running": sandboxes(gateway, 2), "doomed": sandboxes(gateway, 12)}
    tables = [f"[dictionaries.{name}]\nvalues = {json.dumps(ids[name])}" for name in ids]
    config = (HERE / "schemathesis.toml").read_text()
    (tmp_path / "schemathesis.toml").write_text("\n\n".join([config, *tables]))
    run = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/openapi.json"],
        cwd=tmp_path,
        env={"E2B_API_KEY": KEY, "PATH": "/usr/bin:/bin", "NO_PROXY": "*", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    print(run.stdout)
    assert run.returncode == 0, "schemathesis found something"

    seen = answered(tmp_path / "report.ndjson")
    wanted, never = successes(gateway), []
    for operation, statuses in wanted.items():
        print(f"{operation}: {sorted(seen.get(operation, []))}")
        never += [f"{operation} {status}" for status in statuses - seen.get(operation, set())]
    assert wanted and not never, f"no request succeeded of {never}"


def successes(gateway):
    """By operation, the statuses of success that the document speaks of."""
    with gateway.http() as http:
        paths = http.get("/openapi.json").json()["paths"]
    # Read by schemathesis before anything else, and so not among its requests.
    del paths["/openapi.json"]
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
