"""`/metrics` after a workload that is counted here too, and docs/metrics.md beside it."""

import os
import re
import subprocess
import time

import httpx
import pytest
from e2b import CommandExitException, Sandbox, SandboxException
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gateway import REPO
from hoststate import cpu_time_of

BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, float("inf")]
EXITS = ("0", "1-125", "124", "126-128", "129-255", "signal")
LANGUAGES = ("python", "javascript", "typescript", "bash", "r", "java", "other")
# What promtool has against the names, which others have chosen.
LINT = {
    "coppice_sandbox_create_ns_sum": {"abbreviated", "_total", "_sum"},
    "coppice_execute_ns_sum": {"abbreviated", "_total", "_sum"},
    "coppice_pool_total": {"_total"},
}
pytestmark = pytest.mark.plain("what the gateway tells of itself, which no SDK asks for")
ROW = re.compile(r"^\| `(\w+)` \| (\w+) \|[^|]*\|([^|]*)\|", re.MULTILINE)


def scrape(gateway):
    """Every sample, by its name and labels as they stand there."""
    with gateway.http() as http:
        answer = http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parsed(answer.text)


def parsed(text):
    families = text_string_to_metric_families(text)
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


EXPORTER = """[[events.exporters]]
name = "none"
kind = "program"
event_types = ["tool.*"]
[events.exporters.program]
path = "/bin/true"
"""


@pytest.fixture
def figures(new_gateway, tmp_path):
    settings = tmp_path / "coppice.toml"
    settings.write_text(EXPORTER)
    flags = ["--pool", "base=1", "--sandbox-disk", "1024", "--config", settings]
    return Figures(new_gateway(*flags).start())


def of_one(figures, sandbox):
    """What there is of a sandbox, by name."""
    label = ("sandbox", sandbox.sandbox_id[:12])
    every = scrape(figures.gateway).items()
    return {name: value for (name, *labels), value in every if label in labels}


def test_the_documentation_names_what_there_is_and_nothing_else(figures, eventually):
    sandbox = Sandbox.create(timeout=300, **figures.gateway.opts)
    # Its share of the CPU is known at the second look, its disk elsewhere than on btrfs later.
    eventually(lambda: len(of_one(figures, sandbox)) == 7, timeout=30)
    with figures.gateway.http() as http:
        text = http.get("/metrics").text
    rows = ROW.findall((REPO / "docs" / "metrics.md").read_text())
    documented = {name: kind for name, kind, _ in rows}
    assert len(documented) == len(rows)
    assert documented == dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert re.findall(r"^# HELP (\w+) .", text, re.MULTILINE) == list(documented)
    assert linted(text).keys() <= LINT.keys()
    labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # As it stands in `# TYPE`.
            of = [name for name in documented if named(sample).startswith(name)]
            labels.setdefault(max(of, key=len), set()).update(sample.labels.keys() - {"le"})
    expected = {name: set(re.findall(r"`(\w+)`", told)) for name, _, told in rows}
    # Without TLS there is no certificate.
    assert expected.pop("coppice_tls_certificate_expiry_timestamp_seconds") == set()
    assert labels == expected


def linted(text):
    """What promtool finds, by family; text that it cannot read fails."""
    argv = ["promtool", "check", "metrics"]
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=30)
    # 3: it has read it all, and something to say.
    assert done.returncode in (0, 3), done.stderr
    found = {}
    for line in done.stderr.splitlines():
        name, _, complaint = line.partition(" ")
        found.setdefault(name, []).append(complaint)
    return found


def test_openmetrics_is_told_to_who_asks_for_it(figures):
    asked = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"
    with figures.gateway.http(Accept=asked) as http:
        # A request counts when it is answered, and its route has no series before.
        http.get("/health")
        answer = http.get("/metrics")
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.headers["content-type"] == kind
    families = list(openmetrics.text_string_to_metric_families(answer.text))
    types = {family.name: family.type for family in families}
    assert types["coppice_sandboxes_created"] == "counter"
    assert types["coppice_execute_duration_seconds"] == "histogram"
    names = {sample.name for family in families for sample in family.samples}
    assert names == {name for name, *_ in scrape(figures.gateway)}


def test_requests_are_counted_by_route_and_no_path_is_a_label(figures):
    with figures.gateway.http() as http:
        for path in ("/sandboxes/nobody/metrics", "/sandboxes/no-one", "/hush/path", "/hush"):
            http.get(path)
        http.post("/v2/sandboxes", content=b"{")
    name, request = "coppice_http_request_duration_seconds_count", {"code": "4xx"}
    found = scrape(figures.gateway)

    def count(method, route):
        labels = {**request, "method": method, "route": route}
        return found.get((name, *sorted(labels.items())))

    assert count("GET", "/sandboxes/{id}/metrics") == count("GET", "/sandboxes/{id}") == 1
    assert count("POST", "/v2/sandboxes") == 1 and count("GET", "none") == 2
    with figures.gateway.http() as http:
        assert "hush" not in http.get("/metrics").text


def test_figures_take_a_key_where_there_are_any_but_for_a_listener_of_their_own(
    new_gateway, eventually
):
    key = "e2b_" + "1" * 40
    gateway = new_gateway("--metrics-listen", "127.0.0.1:0", env={"COPPICE_API_KEYS": key}).start()
    told = re.compile(r"metrics on (http://127.0.0.1:\d+)/metrics")
    (alone,) = eventually(lambda: told.findall(gateway.log_tail()))
    for given, status in ((None, 401), ("e2b_" + "2" * 40, 401), (key, 200)):
        with gateway.http(**{"X-API-Key": given}) as http:
            assert http.get("/metrics").status_code == status, given
    with httpx.Client(base_url=alone) as http:
        found = parsed(http.get("/metrics").text)
        for reason in ("no_key", "wrong_key"):
            assert found["coppice_denied_total", ("reason", reason)] == 1
        answer = http.get("/metrics")
        assert answer.headers["content-encoding"] == "gzip"
        assert "coppice_uptime_seconds" in answer.text
        plain = http.get("/metrics", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert http.post("/metrics").status_code == 405
        for path in ("/", "/health", "/sandboxes", "/v2/sandboxes", "/openapi.json"):
            assert http.get(path).status_code == 404, path
        routed = {"E2b-Sandbox-Id": "0" * 32, "E2b-Sandbox-Port": "49983", "X-API-Key": key}
        assert http.get("/health", headers=routed).json()["code"] == 404
    warning = "can be reached from elsewhere, and whoever reaches it reads what sandboxes there are"
    assert warning not in gateway.log_tail()
    gateway.end()
    gateway.flags = ("--metrics-listen", "0.0.0.0:0")
    gateway.start()
    assert warning in gateway.log_tail()


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
    ended = {"reason": "deadline"}
    eventually(lambda: figures("sandboxes_ended_total", **ended) == 1, timeout=20)

    assert figures.of("sandboxes_alive", "sandboxes_created_total") == (1, 3)
    assert figures.of("sandboxes_killed_total") == (1,)
    assert figures.of("sandboxes_paused_total", "sandboxes_resumed_total") == (1, 1)
    for what in ("pause", "resume"):
        count, total = histogram(figures, f"sandbox_{what}_duration_seconds")
        assert count == 1 and total > 0
    assert figures("sandboxes_ended_total", reason="user") == 1
    assert figures("sandboxes_ended_total", reason="envd_died") == 0
    assert figures("create_failures_total", reason="no_template") == 1
    assert figures("create_failures_total", reason="capacity") == 0
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
    exits = [figures("command_exits_total", exit=exit) for exit in EXITS]
    assert exits == [2, 1, 0, 0, 0, 1]
    assert 0.3 <= histogram(figures, "command_duration_seconds")[1] < asked
    for status in (124, 127, 200):
        with pytest.raises(CommandExitException):
            kept.commands.run(f"exit {status}")
    eventually(lambda: histogram(figures, "command_duration_seconds")[0] == 7)
    exits = [figures("command_exits_total", exit=exit) for exit in EXITS]
    assert exits == [2, 1, 1, 1, 1, 1]
    assert figures("report_gaps_total") == 0

    # Four times the same is once too often.
    assert figures("repetitions_total", op="command") == 0
    for _ in range(3):
        kept.commands.run("true")
    eventually(lambda: figures("repetitions_total", op="command") == 1)
    assert figures("commands_alive") == 0
    command = kept.commands.run("sleep 60", background=True)
    eventually(lambda: figures("commands_alive") == 1)
    command.kill()
    eventually(lambda: figures("commands_alive") == 0)


def test_what_goes_through_is_counted_to_the_byte_and_who_is_refused_too(figures, eventually):
    sandbox = Sandbox.create(timeout=300, **figures.gateway.opts)

    def carried(route):
        return [figures("proxy_bytes_total", route=route, direction=way) for way in ("in", "out")]

    content = os.urandom(1_000_000)
    routed = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    token = {"X-Access-Token": sandbox._envd_access_token}
    path = {"path": "/tmp/file", "username": "user"}
    kind = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
    with figures.gateway.http(**routed) as http:
        assert carried("files") == [0, 0]
        written = http.post("/files", params=path, content=content, headers={**token, **kind})
        assert written.status_code == 200
        eventually(lambda: carried("files") == [len(content), len(written.content)])
        read = http.get("/files", params=path, headers={**token, **kind})
        assert read.content == content
        told = len(written.content) + len(content)
        eventually(lambda: carried("files") == [len(content), told])
        assert http.get("/files", params=path).status_code == 401
        assert http.post("/init", json={}, headers=token).status_code == 404
    for reason in ("wrong_token", "internal"):
        assert figures("denied_total", reason=reason) == 1

    assert figures("proxy_requests_open", route="commands") == 0
    before = carried("commands")
    command = sandbox.commands.run("head -c 100000 /dev/zero; sleep 60", background=True)
    eventually(lambda: figures("proxy_requests_open", route="commands") == 1)
    # As Base64 it is a third more.
    eventually(lambda: carried("commands")[1] - before[1] > 100_000)
    command.kill()
    eventually(lambda: figures("proxy_requests_open", route="commands") == 0)
    with figures.gateway.dial():
        eventually(lambda: figures("connections_open") >= 2)
    assert figures("connections_total") > figures("connections_open") > 0


@pytest.mark.timeout(180)
def test_a_sandbox_has_its_own_figures_for_as_long_as_it_is_there(figures, eventually):
    busy, idle = (Sandbox.create(timeout=300, **figures.gateway.opts) for _ in range(2))
    percent = "coppice_sandbox_cpu_percent"
    for cores in (1, 2):
        command = "exec timeout 100 sh -c 'while :; do :; done'"
        busy.commands.run(command, background=True, timeout=0)
        eventually(lambda: of_one(figures, busy).get(percent, 0) > 5, timeout=15)
        # What it is given of the cores is the machine's to say: the kernel has counted it too.
        eventually(lambda: is_told_as_it_is(figures, busy, cores), timeout=60)
    eventually(lambda: of_one(figures, idle).get(percent, 100) < 1, timeout=15)
    found = of_one(figures, busy)
    assert found["coppice_sandbox_cpu_seconds_total"] > 0.1
    assert 0 < found["coppice_sandbox_memory_bytes"] < 1 << 30
    assert found["coppice_sandbox_memory_limit_bytes"] == 1 << 30
    assert found["coppice_sandbox_disk_limit_bytes"] == 1 << 30
    # envd, on Linux each of its threads, timeout and the shell.
    assert 3 <= found["coppice_sandbox_processes"] < 100
    assert busy.pause()
    eventually(lambda: of_one(figures, busy)[percent] == 0, timeout=15)
    assert busy.kill()
    assert of_one(figures, busy) == {} and of_one(figures, idle) != {}
    assert figures("sandbox_series_dropped") == 0


def is_told_as_it_is(figures, sandbox, cores):
    """Whether a sandbox's share of the CPU was right for some looks of the sampler, while so many
    processes could each have had a core."""
    label = f'sandbox="{sandbox.sandbox_id[:12]}"'
    told = re.compile(rf"^coppice_sandbox_cpu_(\w+){{{label}.* (\S+)$", re.MULTILINE)
    looks, cpu_before = [], None
    with figures.gateway.http() as http:
        while len(looks) < 4:
            found = dict(told.findall(http.get("/metrics").text))
            kernel, now = cpu_time_of(sandbox.sandbox_id), time.monotonic()
            cpu, share = float(found["seconds_total"]), float(found["percent"]) / 100
            if cpu_before not in (None, cpu):
                # The look was between the last scrape and this one.
                looks.append((cpu, share, kernel, (before + now) / 2))
            cpu_before, before = cpu, now
            time.sleep(0.05)
    (first, _, kernel, began), (last, _, kernel_at_last, ended) = looks[0], looks[-1]
    spent, passed = last - first, ended - began
    # If that is what it had of the time between them, the looks were so far apart.
    steps = zip(looks, looks[1:], strict=False)
    apart = sum((cpu - before) / share for (before, *_), (cpu, share, *_) in steps)
    shares = [share for _, share, *_ in looks]
    print(f"{cores} busy, {shares}: {apart:.2f} s of {passed:.2f} s; {spent:.2f} s of CPU")
    counted = kernel_at_last - kernel
    right = abs(apart / passed - 1) < 0.1 and abs(spent - counted) < 0.1 * passed * cores
    return right and max(shares) < 1.1 * cores


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

    assert figures("execute_error_ratio") == pytest.approx(errors / len(runs))
    assert figures("execute_failure_streak") == 0
    assert 0 < figures("execute_last_ok_age_seconds") < asked + 60
    # The code "1" has been run once.
    for _ in range(4):
        sandbox.run_code("1")
    for _ in range(2):
        sandbox.run_code("1/0")
    eventually(lambda: figures("execute_failure_streak") == 2)
    assert figures("execute_error_ratio") == pytest.approx((errors + 2) / (len(runs) + 6))
    assert figures("repetitions_total", op="code") == 2
    assert figures("proxy_bytes_total", route="code", direction="in") > 0

    context = sandbox.create_code_context()
    eventually(lambda: figures.of(*KERNELS) == (3, 4, 1, 1))
    sandbox.restart_code_context(context)
    eventually(lambda: figures.of(*KERNELS) == (3, 5, 2, 1))
    sandbox.remove_code_context(context)
    eventually(lambda: figures.of(*KERNELS) == (2, 5, 3, 1))

    # The next gateway has the kernels, and nothing of what they did before.
    gateway.end()
    gateway.start()
    # Looked at before the first who asks is answered.
    assert of_one(figures, sandbox)["coppice_sandbox_memory_bytes"] > 0
    eventually(lambda: figures("kernels_alive") == 2)
    assert figures.of(*KERNELS) == (2, 0, 0, 0)
    assert figures.of("execute_requests_total", "execute_errors_total") == (0, 0)
    sandbox = code_interpreter.Sandbox.connect(sandbox.sandbox_id, **gateway.opts)
    assert sandbox.run_code("1/0").error.name == "ZeroDivisionError"
    eventually(lambda: figures.of("execute_requests_total", "execute_errors_total") == (1, 1))
    sandbox.kill()
    eventually(lambda: figures.of(*KERNELS) == (0, 0, 2, 0))
    assert figures.of("sandboxes_alive", "sandboxes_killed_total") == (0, 1)
