"""`/metrics` after a workload that is counted here too, and docs/metrics.md beside it."""

import re
import time

import pytest
from e2b import CommandExitException, Sandbox, SandboxException
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway import REPO

BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, float("inf")]
LANGUAGES = ("python", "javascript", "typescript", "bash", "r", "java", "other")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|[^|]*\|([^|]*)\|", re.MULTILINE)


def scrape(gateway):
    """Every sample, by its name and labels as they stand there."""
    with gateway.http() as http:
        answer = http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    samples = (sample for family in families for sample in family.samples)
    return {(named(it), *sorted(it.labels.items())): it.value for it in samples}


def named(sample):
    """The parser has every counter end in `_total`, and two of ours do not."""
    return sample.name.replace("_ns_sum_total", "_ns_sum")


class Figures:
    """A gateway's, asked anew each time."""

    def __init__(self, gateway):
        self.gateway = gateway

    def __call__(self, name, **labels):
        return scrape(self.gateway)[f"coppice_{name}", *sorted(labels.items())]

    def of(self, *names):
        found = scrape(self.gateway)
        return tuple(found[f"coppice_{name}",] for name in names)


KERNELS = ("kernels_alive", "kernel_spawns_total", "kernel_exits_total", "kernel_deaths_total")


@pytest.fixture
def figures(new_gateway):
    return Figures(new_gateway("--pool", "base=1").start())


def test_the_documentation_names_what_there_is_and_nothing_else(figures):
    with figures.gateway.http() as http:
        text = http.get("/metrics").text
    rows = ROW.findall((REPO / "docs" / "metrics.md").read_text())
    documented = {name: kind for name, kind, _ in rows}
    assert len(documented) == len(rows)
    assert documented == dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert re.findall(r"^# HELP (\w+) .", text, re.MULTILINE) == list(documented)
    labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # As it stands in `# TYPE`.
            of = [name for name in documented if named(sample).startswith(name)]
            labels.setdefault(max(of, key=len), set()).update(sample.labels.keys() - {"le"})
    assert labels == {name: set(re.findall(r"`(\w+)`", told)) for name, _, told in rows}


def test_openmetrics_is_told_to_who_asks_for_it(figures):
    asked = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"
    with figures.gateway.http(Accept=asked) as http:
        answer = http.get("/metrics")
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.headers["content-type"] == kind
    families = list(openmetrics.text_string_to_metric_families(answer.text))
    types = {family.name: family.type for family in families}
    assert types["coppice_sandboxes_created"] == "counter"
    assert types["coppice_execute_duration_seconds"] == "histogram"
    names = {sample.name for family in families for sample in family.samples}
    assert names == {name for name, *_ in scrape(figures.gateway)}


def histogram(figures, name):
    """Its count and sum, after its buckets have been found to fit."""
    found = scrape(figures.gateway)
    bounds = {
        float(dict(labels)["le"]): value
        for (sample, *labels), value in found.items()
        if sample == f"coppice_{name}_bucket"
    }
    assert list(bounds) == BOUNDS
    counts = list(bounds.values())
    assert counts == sorted(counts)
    assert counts[-1] == found[f"coppice_{name}_count",]
    return counts[-1], found[f"coppice_{name}_sum",]


def test_sandboxes_and_commands_are_counted(figures, eventually):
    opts = figures.gateway.opts
    began = time.monotonic()
    kept, killed, short = (Sandbox.create(timeout=300, **opts) for _ in range(3))
    asked = time.monotonic() - began
    with pytest.raises(SandboxException, match="404"):
        Sandbox.create(template="nobody-has-it", **opts)
    assert killed.pause() and not killed.pause()
    states = [figures("sandboxes", state=state) for state in ("running", "paused")]
    assert (*figures.of("sandboxes_alive"), *states) == (3, 2, 1)
    killed.connect()
    assert killed.kill()
    assert not killed.kill()
    short.set_timeout(1)
    ended = {"reason": "timed_out"}
    eventually(lambda: figures("sandboxes_ended_total", **ended) == 1, timeout=20)

    assert figures.of("sandboxes_alive", "sandboxes_created_total") == (1, 3)
    assert figures.of("sandboxes_killed_total") == (1,)
    assert figures.of("sandboxes_paused_total", "sandboxes_resumed_total") == (1, 1)
    for what in ("pause", "resume"):
        count, total = histogram(figures, f"sandbox_{what}_duration_seconds")
        assert count == 1 and total > 0
    assert figures("sandboxes_ended_total", reason="killed") == 1
    assert figures("sandboxes_ended_total", reason="envd_died") == 0
    assert figures("create_failures_total", reason="no_template") == 1
    assert figures("create_failures_total", reason="full") == 0
    spent = figures("sandbox_create_ns_sum") / 1e9
    count, total = histogram(figures, "sandbox_create_duration_seconds")
    assert count == 3 and 0 < spent < asked and total == pytest.approx(spent)

    began = time.monotonic()
    for command in ("true", "sleep 0.3", "exit 3", "kill -9 $$"):
        try:
            kept.commands.run(command)
        except CommandExitException as failed:
            assert command not in ("true", "sleep 0.3"), failed
    asked = time.monotonic() - began
    eventually(lambda: histogram(figures, "command_duration_seconds")[0] == 4)
    exits = [figures("command_exits_total", exit=exit) for exit in ("zero", "nonzero", "signal")]
    assert exits == [2, 1, 1]
    assert 0.3 <= histogram(figures, "command_duration_seconds")[1] < asked
    assert figures("report_gaps_total") == 0


@pytest.mark.timeout(180)
def test_runs_and_kernels_are_counted(figures, eventually, interpreter_template):
    code_interpreter = pytest.importorskip("e2b_code_interpreter")
    gateway = figures.gateway
    sandbox = code_interpreter.Sandbox.create(timeout=300, **gateway.opts)
    assert figures.of(*KERNELS) == (0, 0, 0, 0)
    runs = [
        ("print(1)", "python", False),
        ("import time; time.sleep(1.2)", "python", False),
        ("1/0", "python", True),
        ("echo 1", "bash", False),
        ("import os; os._exit(3)", "python", True),
        ("1", "python", False),
    ]
    began = time.monotonic()
    for code, language, fails in runs:
        run = sandbox.run_code(code, language=language)
        assert bool(run.error) == fails, run
    routed = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999"}
    with gateway.http(**routed) as http:
        assert http.post("/execute", content=b"{").status_code == 400
        assert http.get("/execute").status_code == 405
        assert http.get("/contexts").status_code == 200
    asked = time.monotonic() - began

    # What was refused is a request, and no execution.
    assert figures("execute_requests_total") == len(runs) + 1
    count, total = histogram(figures, "execute_duration_seconds")
    spent = figures("execute_ns_sum") / 1e9
    assert count == len(runs) + 1 and total == pytest.approx(spent) and 1.2 < spent < asked
    errors = sum(fails for *_, fails in runs)
    eventually(lambda: figures("execute_errors_total") == errors)
    found = {name: figures("execute_by_language_total", language=name) for name in LANGUAGES}
    assert found == {name: sum(name == used for _, used, _ in runs) for name in LANGUAGES}
    # Two of Python, as one died, and one of Bash.
    eventually(lambda: figures.of(*KERNELS) == (2, 3, 1, 1))

    context = sandbox.create_code_context()
    eventually(lambda: figures.of(*KERNELS) == (3, 4, 1, 1))
    sandbox.restart_code_context(context)
    eventually(lambda: figures.of(*KERNELS) == (3, 5, 2, 1))
    sandbox.remove_code_context(context)
    eventually(lambda: figures.of(*KERNELS) == (2, 5, 3, 1))

    # The next gateway has the kernels, and nothing of what they did before.
    gateway.end()
    gateway.start()
    eventually(lambda: figures("kernels_alive") == 2)
    assert figures.of(*KERNELS) == (2, 0, 0, 0)
    assert figures.of("execute_requests_total", "execute_errors_total") == (0, 0)
    sandbox = code_interpreter.Sandbox.connect(sandbox.sandbox_id, **gateway.opts)
    assert sandbox.run_code("1/0").error.name == "ZeroDivisionError"
    eventually(lambda: figures.of("execute_requests_total", "execute_errors_total") == (1, 1))
    sandbox.kill()
    eventually(lambda: figures.of(*KERNELS) == (0, 0, 2, 0))
    assert figures.of("sandboxes_alive", "sandboxes_killed_total") == (0, 1)
