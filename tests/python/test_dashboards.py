"""deploy/: what the dashboards and the alerts ask for is there, in a real Prometheus that looks at
a real gateway at work."""

import json
import math
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import CommandExitException, Sandbox
from websockets.sync.client import connect

from gateway import REPO
from hoststate import processes_of
from inside import serve
from prometheus import SHIPPED, Prometheus, promtool

pytestmark = [
    pytest.mark.local("starts a Prometheus beside a gateway of its own"),
    pytest.mark.plain("files, and a Prometheus that looks at a gateway by its address"),
]

BOARDS = {
    name: json.loads((REPO / "deploy" / "grafana" / f"coppice-{name}.json").read_text())
    for name in ("health", "arena")
}
# What is of no one family of ours.
OF_PROMETHEUS = {"up"}
# `label_values(metric, label)`: what a variable of a dashboard can be.
CHOICE = re.compile(r"label_values\((\w+), (\w+)\)")
# Which cannot be so here, and why. promtool tries them all the same.
NOT_HERE = {
    "CoppiceCertificateEnds": "there is no TLS",
    "CoppiceRacctOff": "Linux counts by cgroups",
    "CoppiceSeriesDropped": "takes more than a thousand sandboxes",
    "CoppiceExporterFails": "there are no exporters",
    "CoppiceEventsLost": "there are no exporters",
}
# Those of what the workload does that wait for nothing.
AT_ONCE = {
    f"Coppice{name}"
    for name in ("CreatesFail", "SandboxesFail", "Denied", "FailureStreak", "Thrash", "Repetition")
}


def queries(board):
    """Each query, by its panel and its letter."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in board["panels"]
        for target in panel["targets"]
    }


def alerts():
    """The expression of each, in the order of the file."""
    text = (SHIPPED / "alerts.yml").read_text()
    return dict(re.findall(r"- alert: (\w+)\n +expr: (.+)\n", text))


def measured(expression):
    """What an alert compares with a number."""
    return re.fullmatch(r"(.+) [<>] [\d.]+", expression)[1]


def test_prometheus_takes_the_configuration_and_the_rules():
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_each_alert_fires_over_its_bound_and_not_below():
    promtool("test", "rules", "alerts_test.yml")
    text = (SHIPPED / "alerts_test.yml").read_text()
    tried = re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels:", text)
    assert tried == list(alerts())
    # Both sides in one series each: the other is not among those that are expected.
    for group in text.split("  - interval: ")[1:]:
        expected = re.findall(r"exp_labels: \{job: coppice, severity: \w+, instance: (\w+)", group)
        given = set(re.findall(r'instance="(\w+)"', group))
        assert len(expected) == 1 and given > set(expected), group


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_can_be_imported_anywhere(name):
    board = BOARDS[name]
    assert (board["schemaVersion"], board["uid"], board["id"]) == (39, f"coppice-{name}", None)
    assert board["refresh"] == {"health": "30s", "arena": "10s"}[name]
    variables = {one["name"]: one for one in board["templating"]["list"]}
    assert variables["DS_PROMETHEUS"]["type"] == "datasource"
    assert variables["DS_PROMETHEUS"]["query"] == "prometheus"
    assert variables["template"]["multi"] and variables["template"]["includeAll"]
    source = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
    places = set()
    for number, panel in enumerate(board["panels"], 1):
        assert panel["id"] == number and panel["description"]
        assert all(one["datasource"] == source for one in (panel, *panel["targets"]))
        at = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert max(x for x, _ in taken) < 24 and not taken & places, panel["title"]
        places |= taken
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
    assert used - {"__all", "__rate_interval"} == variables.keys()


def test_the_documentation_has_every_metric_and_label_that_is_asked_for():
    row = re.compile(r"^\| `(\w+)` \| (\w+) \|[^|]*\|([^|]*)\|", re.MULTILINE)
    known = {}
    for name, kind, labels in row.findall((REPO / "docs" / "metrics.md").read_text()):
        named = {*re.findall(r"`(\w+)`", labels), "job", "instance"}
        parts = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        known |= {name + part: named | ({"le"} if part == "_bucket" else set()) for part in parts}
    asked = [*alerts().values()]
    for board in BOARDS.values():
        asked += queries(board).values()
        asked += [f'{metric}{{{label}="x"}}' for metric, label in CHOICE.findall(json.dumps(board))]
    found = set()
    for expression in asked:
        for metric, labels in re.findall(
            r"\b((?:coppice|process)_\w+|up\b)(?:\{([^}]*)\})?", expression
        ):
            found.add(metric)
            if metric not in OF_PROMETHEUS:
                used = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", labels))
                assert metric in known and used <= known[metric], (metric, used, expression)
    assert len(found) > 30


def test_the_readme_says_what_to_do_about_each_alert_and_panel():
    text = (REPO / "deploy" / "README.md").read_text()
    for name in alerts():
        assert f"`{name}`" in text, name
    for board in BOARDS.values():
        for panel in board["panels"]:
            assert f"| {panel['title']} |" in text, panel["title"]


@pytest.fixture
def gateway_at_work(new_gateway, interpreter_template):
    flags = ["--pool", "base=1", "--sandbox-disk", "1024", "--max-sandboxes", "6"]
    return new_gateway(*flags).start()


@pytest.fixture
def prometheus(gateway_at_work):
    made = Prometheus(gateway_at_work.listen)
    try:
        yield made.start()
    finally:
        made.remove()


@pytest.fixture
def work(gateway_at_work):
    code_interpreter = pytest.importorskip("e2b_code_interpreter")
    opts = {"timeout": 300, **gateway_at_work.opts}
    interpreter, box = code_interpreter.Sandbox.create(**opts), Sandbox.create(**opts)
    box.commands.run("while :; do :; done", background=True, timeout=0)
    serve(box)
    routed = {"E2b-Sandbox-Id": box.sandbox_id, "E2b-Sandbox-Port": "8080"}
    url = f"ws://{gateway_at_work.listen}/ws"
    with connect(url, additional_headers=routed, proxy=None) as tunnel:
        yield Workload(gateway_at_work, interpreter, box, tunnel)


class Workload:
    """Something of all that the dashboards show, each time it is done."""

    COMMANDS = ("echo password=x", "exit 3", "timeout 0.01 sleep 5", "kill -9 $$")

    def __init__(self, gateway, interpreter, box, tunnel):
        self.gateway, self.opts = gateway, gateway.opts
        self.interpreter, self.box, self.tunnel = interpreter, box, tunnel

    def once(self):
        for language, code in (("python", "1"), ("bash", "echo 1"), ("python", "1/0")):
            self.interpreter.run_code(code, language=language)
        for _ in range(8):
            self.interpreter.run_code("1/0")
        self.interpreter.run_code("import os; os._exit(3)")
        for command in self.COMMANDS * 2:
            try:
                self.box.commands.run(command)
            except CommandExitException:
                pass
        self.box.files.write("/tmp/file", b"x" * 1_000_000)
        self.box.files.read("/tmp/file", format="bytes")
        self.tunnel.send("x" * 1000)
        self.tunnel.recv(timeout=10)
        with self.gateway.http() as http:
            assert http.get("/sandboxes/nobody").status_code == 404
            routed = {"E2b-Sandbox-Id": self.box.sandbox_id, "E2b-Sandbox-Port": "49983"}
            wrong = {"path": "/tmp/file", "signature": "v1_wrong"}
            assert http.get("/files", params=wrong, headers=routed).status_code == 401
            assert http.post("/init", headers=routed).status_code == 404
        with Sandbox.create(timeout=60, **self.opts) as doomed:
            (envd,) = processes_of(doomed.sandbox_id, "envd")
            os.kill(envd, signal.SIGKILL)
        # More than there is room for, all on their way at once.
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: self.short_life(), range(8)))
        assert True in made

    def short_life(self):
        # By hand: the SDK would wait for room.
        with self.gateway.http() as http:
            made = http.post("/v2/sandboxes", json={"templateID": "base", "timeout": 60})
            if made.status_code == 503:
                return False
            path = f"/sandboxes/{made.raise_for_status().json()['sandboxID']}"
            # To boot takes longer than to thaw, and is seen to be under way.
            http.post(f"{path}/pause", json={"memory": False}).raise_for_status()
            http.post(f"{path}/connect", json={"timeout": 60}).raise_for_status()
            http.delete(path).raise_for_status()
        return True


def substituted(query):
    """As Grafana asks, where everything is chosen."""
    text = query.replace("$__rate_interval", "1m")
    return text.replace("$instance", ".*").replace("$template", ".*")


@pytest.mark.timeout(180)
def test_a_workload_moves_every_panel_and_every_alert_off_zero(
    gateway_at_work, prometheus, work, eventually
):
    waiting = {
        f"{name}: {panel}": substituted(query)
        for name, board in BOARDS.items()
        for panel, query in queries(board).items()
    }
    waiting |= {alert: measured(what) for alert, what in alerts().items() if alert not in NOT_HERE}
    began = time.monotonic()
    while waiting:
        work.once()
        passed = time.monotonic() - began
        for what, query in list(waiting.items()):
            # What was off zero for a moment has been so.
            seen = prometheus.values(f"max_over_time(({query})[{math.ceil(passed)}s:500ms])")
            if any(value and math.isfinite(value) for value in seen):
                del waiting[what]
        late = "\n".join(f"{what}: {query}" for what, query in waiting.items())
        assert not late or passed < 90, late

    rules = prometheus.rules()
    assert sorted(rule["name"] for rule in rules) == sorted(alerts())
    assert all(rule["health"] == "ok" for rule in rules), rules
    for name in NOT_HERE:
        assert not any(prometheus.values(alerts()[name])), name
    eventually(lambda: prometheus.alerts("firing") >= AT_ONCE, timeout=10)
    choices = {"template": {"base", "code-interpreter-v1"}, "instance": {gateway_at_work.listen}}
    for metric, label in CHOICE.findall(json.dumps([*BOARDS.values()])):
        found = prometheus.ask(f"label/{label}/values", **{"match[]": metric})
        assert set(found) == choices[label]
    gateway_at_work.end()
    eventually(lambda: "CoppiceDown" in prometheus.alerts("pending"), timeout=10)
