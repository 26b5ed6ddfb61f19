"""What goes over the wire on port 49999, to the letter of what E2B's own server says."""

import json
import socket
import time
from contextlib import contextmanager

import httpx
import pytest

code_interpreter = pytest.importorskip("e2b_code_interpreter")

PORT = "49999"


@pytest.fixture
def ask(gateway, interpreter):
    """Requests to the interpreter's port, without key or token."""
    to = {"E2b-Sandbox-Id": interpreter.sandbox_id, "E2b-Sandbox-Port": PORT}
    with httpx.Client(base_url=gateway.url, headers=to, timeout=60) as client:
        yield client


def lines(answer):
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("\n") and "\n\n" not in answer.text
    said = [json.loads(line) for line in answer.text.splitlines()]
    return [line for line in said if line["type"] != "keepalive"]


def execute(ask, code, **more):
    return lines(ask.post("/execute", json={"code": code, **more}))


def test_lines_have_their_keys_and_their_order(ask):
    code = "import sys\nprint('a')\ndisplay(1)\nprint('b', file=sys.stderr)\n2"
    number, *outputs, end = execute(ask, code)
    assert set(number) == {"type", "execution_count"} and number["type"] == "number_of_executions"
    assert end == {"type": "end_of_execution"}
    by_type = {line["type"]: line for line in outputs}
    assert set(by_type["stdout"]) == set(by_type["stderr"]) == {"type", "text", "timestamp"}
    results = [line for line in outputs if line["type"] == "result"]
    assert results == [
        {"type": "result", "text": "1", "is_main_result": False, "extra": {}},
        {"type": "result", "text": "2", "is_main_result": True, "extra": {}},
    ]
    number, error, end = execute(ask, "1/0", context_id=None, language=None, env_vars=None)
    assert set(error) == {"type", "name", "value", "traceback"}
    assert all(isinstance(value, str) for value in error.values())


def test_health_and_contexts_are_as_the_contract_says(ask):
    assert (ask.get("/health").status_code, ask.get("/health").text) == (200, '"OK"')
    made = ask.post("/contexts", json={})
    assert made.status_code == 200 and set(made.json()) == {"id", "language", "cwd"}
    context = f"/contexts/{made.json()['id']}"
    assert made.json() in ask.get("/contexts").json()
    for answer in [ask.post(f"{context}/restart"), ask.delete(context)]:
        assert (answer.status_code, answer.text) == (200, "null")
    for answer in [ask.post(f"{context}/restart"), ask.delete(context)]:
        assert answer.status_code == 404 and answer.text == f"Context {made.json()['id']} not found"
    assert ask.post("/execute?source=ci", json={"code": "1"}).status_code == 200
    cors = ask.get("/health", headers={"Origin": "https://page.example"})
    assert cors.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "body, status, text",
    [
        ({"code": "1", "context_id": "x", "language": "python"}, 400, "Only one of context_id or "),
        ({"code": "1", "context_id": "x"}, 404, "Context x not found"),
        ({"code": "1", "language": "cobol"}, 500, "no such kernel: cobol"),
        ({"code": "1", "env_vars": {"A": "\0"}}, 400, "env_vars"),
        ({"code": "1", "env_vars": {"A=B": "1"}}, 400, "env_vars"),
        ({"code": "1", "env_vars": {"A": 1}}, 400, "invalid request body"),
        ({"code": 1}, 400, "invalid request body"),
        ({}, 400, "invalid request body"),
        ("{", 400, "invalid request body"),
        ("", 400, "invalid request body"),
        (b"\xff\xfe", 400, "invalid request body"),
        ({"code": "x" * 20_000_000}, 413, "longer than 16 MiB"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_requests_are_refused_in_plain_text_and_the_kernel_is_unharmed(
    ask, body, status, text
):
    before = execute(ask, "1")[0]["execution_count"]
    body = body if isinstance(body, (str, bytes)) else json.dumps(body)
    answer = ask.post("/execute", content=body)
    assert (answer.status_code, text in answer.text) == (status, True), answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    assert execute(ask, "1")[0]["execution_count"] == before + 1


def test_long_code_runs(ask):
    assert execute(ask, f"len({'x' * 10_000_000!r})")[1]["text"] == "10000000"


def test_unknown_routes_and_methods_are_refused(ask):
    for method, path, status in [
        ("GET", "/", 404),
        ("GET", "/files", 404),
        ("POST", "/init", 404),
        ("POST", "/warm", 404),
        ("GET", "/execute", 405),
        ("DELETE", "/contexts", 405),
    ]:
        assert ask.request(method, path).status_code == status, path


def test_nobody_reaches_it_by_another_port_or_takes_its_place(gateway, ask, interpreter):
    to_envd = {"E2b-Sandbox-Id": interpreter.sandbox_id, "E2b-Sandbox-Port": "49983"}
    forged = {**to_envd, "Coppice-Code": "1"}
    answer = httpx.get(f"{gateway.url}/contexts", headers=forged)
    assert answer.status_code in (401, 404), answer.text
    interpreter.commands.run("python3 -m http.server 49999 --bind 127.0.0.1", background=True)
    time.sleep(0.5)
    assert ask.get("/health").text == '"OK"'


def test_without_kernels_the_port_is_anybodys(gateway, sandbox, http, eventually):
    to = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": PORT}
    assert http.get("/health", headers=to).status_code == 502
    sandbox.commands.run("echo mine > health; python3 -m http.server 49999", background=True)
    eventually(lambda: http.get("/health", headers=to).text == "mine\n", timeout=10)


@contextmanager
def by_hand(gateway, interpreter, code):
    """A request whose client reads when it likes."""
    with posted(gateway, interpreter, "/execute", {"code": code}) as client:
        yield client


@contextmanager
def posted(gateway, interpreter, path, content):
    body = json.dumps(content).encode()
    with gateway.connect(timeout=30) as client:
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {gateway.host}\r\n"
            f"E2b-Sandbox-Id: {interpreter.sandbox_id}\r\nE2b-Sandbox-Port: {PORT}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        yield client


def whole(answer):
    """The body of a chunked answer, as far as it has come."""
    at, body = answer.find(b"\r\n\r\n") + 4, []
    while (end := answer.find(b"\r\n", at)) > 0:
        at = end + 4 + int(answer[at:end], 16)
        body.append(answer[end + 2 : at - 2])
    return b"".join(body)


def test_headers_come_before_output_and_before_ones_turn(gateway, interpreter):
    with (
        by_hand(gateway, interpreter, "import time; time.sleep(3)") as first,
        by_hand(gateway, interpreter, "1") as second,
    ):
        began = time.monotonic()
        for client in (first, second):
            assert client.recv(12) == b"HTTP/1.1 200"
        assert time.monotonic() - began < 2.5


def test_a_context_whose_client_has_gone_before_it_was_told_of_it_goes_too(
    gateway, interpreter, ask, eventually
):
    def number():
        return len(ask.get("/contexts").json())

    before = number()
    with posted(gateway, interpreter, "/contexts", {}):
        eventually(lambda: number() == before + 1, timeout=10, every=0.01)
    eventually(lambda: number() == before, timeout=10)


def test_silence_is_broken_every_five_seconds(ask):
    began, heard = time.monotonic(), []
    body = {"code": "import time; time.sleep(14)"}
    with ask.stream("POST", "/execute", json=body) as answer:
        for line in answer.iter_lines():
            heard.append((json.loads(line)["type"], round(time.monotonic() - began)))
    kinds = [kind for kind, _ in heard]
    assert kinds[0] == "number_of_executions" and kinds[-1] == "end_of_execution"
    assert len(kinds) >= 4 and set(kinds[1:-1]) == {"keepalive"}
    # A busy machine may make them later, and fewer, but not more.
    assert heard[1][1] >= 4 and heard[2][1] >= 9


@pytest.mark.linux("looks at the kernel by /proc")
def test_a_client_that_does_not_read_loses_nothing_and_costs_little(gateway, interpreter, ask):
    """The kernel waits for it, and envd holds next to nothing meanwhile."""
    code = "n = 0\nwhile n < 30_000: n += 1; print(n, 'x' * 1000, flush=n % 100 == 0)"
    with by_hand(gateway, interpreter, code) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        status = "cat /proc/$(pgrep -f ipykernel_launcher | head -1)/stat | cut -d' ' -f3"
        deadline = time.monotonic() + 20
        while interpreter.commands.run(status, user="root").stdout.strip() != "T":
            assert time.monotonic() < deadline, "the kernel does not wait"
        held = interpreter.commands.run("grep VmRSS /proc/1/status || true", user="root").stdout
        text = b""
        while b"end_of_execution" not in text[-1000:]:
            part = client.recv(1 << 20)
            assert part
            text += part
    said = [json.loads(line) for line in whole(text).splitlines()]
    printed = "".join(line["text"] for line in said if line["type"] == "stdout")
    numbers = [int(line.split()[0]) for line in printed.splitlines()]
    assert numbers == list(range(1, 30_001)), held


def test_what_a_kernel_says_to_nobody_is_dropped(ask):
    execute(ask, """
import threading, time
def chatter():
    while not stop.wait(0.001): print("x" * 10_000)
stop = threading.Event(); threading.Thread(target=chatter).start()
""")
    time.sleep(2)
    number, *_, end = execute(ask, "stop.set()")
    assert end == {"type": "end_of_execution"}
    assert execute(ask, "print('quiet')")[1]["text"] == "quiet\n"
