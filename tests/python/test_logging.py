"""The gateway's log: to a file that is put aside and compressed, at any level while it runs, with the
request that each line is about, and by nobody waited for."""

import gzip
import json
import os
import re
import select
import signal

import pytest

from gateway import KEY, coppice

pytestmark = pytest.mark.plain("its log, whoever asks and however")

ASIDE = re.compile(r"coppice\.log\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{3}(\.gz)?")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}


@pytest.fixture
def logged(new_gateway, tmp_path):
    """Makes a gateway that logs to a file as well, in JSON."""

    def make(*flags, **options):
        path = tmp_path / "log" / "coppice.log"
        file = ["--enable-file-log", "--log-file-path", path, "--log-format=json"]
        gateway = new_gateway(*file, *flags, **options)
        gateway.file = path
        return gateway

    return make


def lines(path):
    read = gzip.open if path.suffix == ".gz" else open
    with read(path, "rt") as file:
        # The last may not be all there yet.
        return [json.loads(line) for line in file.read().split("\n")[:-1]]


def answered(path):
    return [line for line in lines(path) if line["fields"]["message"] == "answered"]


def flood(gateway, count):
    """So many requests, each of which is answered, and has a line of some 300 bytes."""
    names = f"X-Request-Id: {'x' * 64}\r\ntraceparent: {PARENT['traceparent']}"
    request = f"GET /health HTTP/1.1\r\nHost: {gateway.host}\r\n{names}\r\n\r\n".encode()
    with gateway.dial(timeout=30) as connection:
        for _ in range(count // 500):
            connection.sendall(request * 500)
            got = b""
            while got.count(b"HTTP/1.1 200") < 500 or not got.endswith(b"}"):
                got += connection.recv(1 << 16)


def test_the_file_is_put_aside_at_its_size_and_compressed_and_no_line_is_lost(logged, eventually):
    gateway = logged("--log-level=debug", "--log-max-size=1", "--log-max-backups=1").start()
    flood(gateway, 4000)
    aside = lambda: sorted(gateway.file.parent.glob("coppice.log.*"))  # noqa: E731
    count = lambda: sum(len(answered(path)) for path in [*aside(), gateway.file])  # noqa: E731
    eventually(lambda: [path.suffix for path in aside()] == [".gz"])
    eventually(lambda: count() >= 4000)
    (first,) = aside()
    assert ASIDE.fullmatch(first.name)
    assert 0.99 * (1 << 20) < len(gzip.decompress(first.read_bytes())) <= 1 << 20
    assert gateway.file.stat().st_size <= 1 << 20
    flood(gateway, 3500)
    # Only the youngest is kept.
    eventually(lambda: not first.exists() and [path.suffix for path in aside()] == [".gz"])
    assert gateway.file.stat().st_mode & 0o777 == 0o600
    # What a crash left is put right by the next start.
    gateway.end(signal.SIGKILL)
    (whole,) = aside()
    left = whole.with_name(f"{whole.name}.part")
    left.write_text("half of it")
    gateway.start()
    eventually(lambda: not left.exists())
    assert whole.exists()


def test_somebody_else_may_put_the_file_aside(logged, eventually):
    gateway = logged("--log-level=debug", "--log-max-size=0").start()
    asked = lambda path: {line.get("request_id") for line in answered(path)}  # noqa: E731
    with gateway.http() as http:
        http.get("/health", headers={"X-Request-Id": "before"})
        moved = gateway.file.with_suffix(".moved")
        gateway.file.rename(moved)
        http.get("/health", headers={"X-Request-Id": "meanwhile"})
        eventually(lambda: "meanwhile" in asked(moved))
        gateway.process.send_signal(signal.SIGHUP)
        eventually(gateway.file.exists)
        http.get("/health", headers={"X-Request-Id": "after"})
    eventually(lambda: "after" in asked(gateway.file))
    assert "before" in asked(moved) and "after" not in asked(moved)


def test_a_file_that_cannot_be_written_is_said_at_once(new_gateway):
    gateway = new_gateway("--enable-file-log", "--log-file-path", "/proc/coppice/coppice.log")
    gateway.spawn()
    assert gateway.process.wait(20) != 0
    gateway.process = None
    assert "log-file-path: cannot log to /proc/coppice/coppice.log" in gateway.log_tail()


def test_lines_say_which_request_and_which_trace_they_are_about(logged, eventually):
    gateway = logged("--log-level=debug").start()
    find = lambda id: [line for line in lines(gateway.file) if line.get("request_id") == id]  # noqa: E731
    ended = lambda id: [line for line in find(id) if line["fields"]["message"] == "answered"]  # noqa: E731
    with gateway.http() as http:
        named = http.post(
            "/v2/sandboxes",
            json={"templateID": "base", "timeout": 60},
            headers={"X-Request-Id": "my-own:1", **PARENT},
        )
        assert (named.status_code, named.headers["X-Request-Id"]) == (201, "my-own:1")
        (line,) = eventually(lambda: ended("my-own:1"))
        assert line["trace_id"] == TRACE and line["fields"]["route"] == "/v2/sandboxes"
        # A name that could be more than a name is not taken.
        for odd in ("two words", 'quo"ted', "x" * 65, "a\\n"):
            made = http.get("/health", headers={"X-Request-Id": odd}).headers["X-Request-Id"]
            assert re.fullmatch("[0-9a-f]{16}", made)
            (line,) = eventually(lambda made=made: ended(made))
            assert "trace_id" not in line
        id = named.json()["sandboxID"]
        to_port = {"E2b-Sandbox-Id": id, "E2b-Sandbox-Port": "9"}
        # On the way to a sandbox, what the gateway itself answers has it, and what it says of it.
        refused = http.get("/", headers={**to_port, "X-Request-Id": "to-9", **PARENT})
        assert (refused.status_code, refused.headers["X-Request-Id"]) == (502, "to-9")
        eventually(lambda: ended("to-9"))
        assert all(line["trace_id"] == TRACE for line in find("to-9"))
        http.delete(f"/sandboxes/{id}", headers={"X-Request-Id": "the-end"})
        eventually(lambda: ended("the-end"))
        # Also of what goes on in a task of its own.
        said = {line["fields"]["message"] for line in find("the-end")}
        assert "ending" in said, said
    assert '"request_id":"my-own:1"' in gateway.log_tail(10_000)


def test_lines_of_text_have_it_too_and_none_can_be_forged(new_gateway, eventually):
    gateway = new_gateway("--log-level=debug").start()
    with gateway.http() as http:
        http.get("/health", headers={"X-Request-Id": "in-text", **PARENT})
    wanted = f" request_id=in-text trace_id={TRACE}"
    eventually(lambda: wanted in gateway.log_tail(1000))
    assert all(
        re.match(r"\d{4}-\d\d-\d\dT|    ", line) for line in gateway.log_tail(10_000).splitlines()
    )


def test_the_level_is_set_while_it_runs_by_whoever_may(new_gateway, short_dir, eventually):
    plain, keys = "e2b_" + "1" * 40, short_dir / "keys.toml"
    of_acme = ["--tenant", "acme", "--scopes", "read,exec"]
    reader = coppice("key", "create", "--api-keys-file", keys, *of_acme).stdout.strip()
    gateway = new_gateway("--api-keys-file", keys, env={"COPPICE_API_KEYS": plain})
    gateway.start()
    settings = "/admin/log-level"
    with gateway.http(**{"X-API-Key": plain}) as http:
        assert http.get(settings).json() == {"level": "info"}
        http.get("/health", headers={"X-Request-Id": "quiet"})
        for level in ("trace", "debug"):
            answer = http.put(settings, json={"level": level})
            assert (answer.status_code, answer.json()) == (200, {"level": level})
            assert http.get(settings).json() == {"level": level}
        http.get("/health", headers={"X-Request-Id": "loud"})
        eventually(lambda: "loud" in gateway.log_tail())
        assert "quiet" not in gateway.log_tail(1000)
        assert "the log level was INFO and is TRACE" in gateway.log_tail(1000)
        for wrong in ({"level": "loud"}, {}, {"level": 3}, None):
            assert http.put(settings, json=wrong).status_code == 400
        # Whoever puts log files aside changes nothing else.
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: "SIGHUP: without TLS" in gateway.log_tail())
        assert http.get(settings).json() == {"level": "debug"}
    with gateway.http(**{"X-API-Key": reader}) as http:
        for answer in (http.get(settings), http.put(settings, json={"level": "error"})):
            assert answer.status_code == 403
    with gateway.http(**{"X-API-Key": None}) as http:
        for answer in (http.get(settings), http.put(settings, json={"level": "error"})):
            assert answer.status_code == 401
    audit = gateway.data_dir / "audit"
    line = lambda name: (audit / f"{name}.jsonl").read_text()  # noqa: E731
    eventually(lambda: line("default").count('"route":"/admin/log-level"') >= 2)
    refused = eventually(lambda: [json.loads(it) for it in line("acme").splitlines()])
    assert [(it["route"], it["status"]) for it in refused] == [(settings, 403)]


def test_nobody_waits_for_who_reads_standard_error(logged, tmp_path, eventually):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Open, so that there is somebody who might read.
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    prefix = ("sh", "-c", f'exec "$@" 2>{pipe}', "sh")
    gateway = logged("--log-level=debug", prefix=prefix).start()
    try:
        # More than the pipe and what may wait hold together.
        flood(gateway, 17_000)
        with gateway.http() as http:
            figures = http.get("/metrics", headers={"X-API-Key": KEY}).text
            lost = dict(re.findall(r'^coppice_log_lost_total\{to="(\w+)"\} (\d+)$', figures, re.M))
            assert int(lost["stderr"]) > 100 and int(lost["file"]) == 0, lost
        eventually(lambda: len(answered(gateway.file)) > 17_000)
        # Once somebody reads it is said what is missing.
        said = b""

        def told():
            nonlocal said
            while select.select([reader], [], [], 0)[0]:
                said = (said + os.read(reader, 1 << 20))[-(1 << 21) :]
            return b"standard error is slower than what is logged" in said

        eventually(told)
    finally:
        gateway.end()
        # What is started after it has no reader.
        gateway.prefix = ()
        os.close(reader)
