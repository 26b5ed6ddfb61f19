"""envd's Connect protocol on the wire, in both codecs, as other clients than the SDK speak it."""

import base64
import json
import struct

import pytest
from e2b.envd.filesystem import filesystem_pb
from e2b.envd.process import process_pb
from protobuf import Oneof


@pytest.fixture
def envd(gateway, sandbox):
    routing = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
        "Connect-Protocol-Version": "1",
    }
    with gateway.http(**routing) as http:
        yield http


def envelope(message, flag=0):
    return struct.pack(">BI", flag, len(message)) + message


def frames(body):
    """The flag and the payload of each envelope in a body."""
    found = []
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        found.append((flag, body[5 : 5 + size]))
        body = body[5 + size :]
    return found


def start(envd, **request):
    """Starts a process in the JSON codec; gives its events and the end-stream frame."""
    answer = envd.post(
        "/process.Process/Start",
        content=envelope(json.dumps({"stdin": False, **request}).encode()),
        headers={"Content-Type": "application/connect+json"},
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/connect+json"
    assert "content-encoding" not in answer.headers and "content-length" not in answer.headers
    *events, (flag, end) = frames(answer.content)
    assert flag == 2 and all(flag == 0 for flag, _ in events)
    return [json.loads(event)["event"] for _, event in events], json.loads(end)


def test_a_stream_starts_with_start_and_ends_with_an_end_frame(envd):
    script = ["-c", "printf out; printf err >&2"]
    events, end = start(envd, process={"cmd": "/bin/sh", "args": script})
    assert events[0].keys() == {"start"} and events[0]["start"]["pid"] >= 1
    data = [event["data"] for event in events[1:-1]]
    assert {"stdout": base64.b64encode(b"out").decode()} in data
    assert {"stderr": base64.b64encode(b"err").decode()} in data
    assert events[-1] == {"end": {"exited": True, "status": "exit status 0"}}
    assert end == {}


def test_an_exit_code_and_a_signal_are_told_apart(envd):
    events, _ = start(envd, process={"cmd": "/bin/sh", "args": ["-c", "exit 3"]})
    assert events[-1]["end"] == {
        "exitCode": 3,
        "exited": True,
        "status": "exit status 3",
        "error": "exit status 3",
    }
    events, _ = start(envd, process={"cmd": "/bin/sh", "args": ["-c", "kill -9 $$"]})
    assert events[-1]["end"] == {
        "exitCode": -1,
        "status": "signal: killed",
        "error": "signal: killed",
    }


def test_errors_of_a_stream_come_in_its_end_frame(envd):
    for process, code in (
        ({"cmd": "/bin/true", "cwd": "/no/such/place"}, "invalid_argument"),
        ({"cmd": "/no/such/program"}, "invalid_argument"),
    ):
        events, end = start(envd, process=process)
        assert events == []
        assert end["error"]["code"] == code and end["error"]["message"]


def test_errors_of_a_unary_call_have_their_status(envd):
    for method, request, status, code in (
        ("process.Process/SendSignal", {"process": {"pid": 987654}, "signal": 9}, 404, "not_found"),
        ("filesystem.Filesystem/Stat", {"path": "/missing"}, 404, "not_found"),
        ("filesystem.Filesystem/MakeDir", {"path": "/etc"}, 409, "already_exists"),
        ("filesystem.Filesystem/ListDir", {"path": "/etc/passwd"}, 400, "invalid_argument"),
        ("filesystem.Filesystem/GetWatcherEvents", {"watcherId": "none"}, 404, "not_found"),
    ):
        answer = envd.post(f"/{method}", json=request)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["message"]


def test_an_unknown_user_is_unauthenticated(envd):
    basic = base64.b64encode(b"nobody-of-that-name:").decode()
    answer = envd.post(
        "/filesystem.Filesystem/Stat",
        json={"path": "/"},
        headers={"Authorization": f"Basic {basic}"},
    )
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


def test_a_tag_names_a_process_and_a_terminated_one_says_so(envd):
    request = {"process": {"cmd": "/bin/sleep", "args": ["60"]}, "tag": "mine", "stdin": False}
    with envd.stream(
        "POST",
        "/process.Process/Start",
        content=envelope(json.dumps(request).encode()),
        headers={"Content-Type": "application/connect+json"},
    ) as answer:
        pieces = answer.iter_raw()
        body = next(pieces)
        (listed,) = envd.post("/process.Process/List", json={}).json()["processes"]
        assert listed["tag"] == "mine" and listed["config"]["cmd"] == "/bin/sleep"
        signal = {"process": {"tag": "mine"}, "signal": "SIGNAL_SIGTERM"}
        assert envd.post("/process.Process/SendSignal", json=signal).json() == {}
        body += b"".join(pieces)
    end = json.loads(frames(body)[-2][1])["event"]["end"]
    assert (end["exitCode"], end["status"]) == (-1, "signal: terminated")


def test_keepalives_come_when_nothing_else_does(envd):
    answer = envd.post(
        "/process.Process/Start",
        content=envelope(b'{"process":{"cmd":"/bin/sleep","args":["2.5"]},"stdin":false}'),
        headers={"Content-Type": "application/connect+json", "Keepalive-Ping-Interval": "1"},
    )
    events = [json.loads(payload)["event"] for flag, payload in frames(answer.content) if flag == 0]
    assert [list(event) for event in events] == [["start"], ["keepalive"], ["keepalive"], ["end"]]


def test_a_timeout_header_ends_process_and_stream(envd):
    answer = envd.post(
        "/process.Process/Start",
        content=envelope(b'{"process":{"cmd":"/bin/sleep","args":["60"]},"stdin":false}'),
        headers={"Content-Type": "application/connect+json", "Connect-Timeout-Ms": "500"},
    )
    assert json.loads(frames(answer.content)[-1][1])["error"]["code"] == "deadline_exceeded"
    assert envd.post("/process.Process/List", json={}).json() == {}


def test_the_binary_codec_speaks_the_same(envd):
    def call(method, request, response):
        answer = envd.post(
            f"/{method}", content=request.to_binary(), headers={"Content-Type": "application/proto"}
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/proto"
        return response.from_binary(answer.content)

    stat = filesystem_pb.StatRequest(path="/etc/passwd")
    entry = call("filesystem.Filesystem/Stat", stat, filesystem_pb.StatResponse).entry
    assert (entry.name, entry.owner, entry.permissions) == ("passwd", "root", "-rw-r--r--")

    config = process_pb.ProcessConfig(cmd="/bin/sh", args=["-c", "printf out; kill -9 $$"])
    answer = envd.post(
        "/process.Process/Start",
        content=envelope(process_pb.StartRequest(process=config, stdin=False).to_binary()),
        headers={"Content-Type": "application/connect+proto"},
    )
    assert answer.headers["content-type"] == "application/connect+proto"
    *messages, (flag, end) = frames(answer.content)
    events = [process_pb.StartResponse.from_binary(message).event.event for _, message in messages]
    assert (flag, json.loads(end)) == (2, {})
    assert [event.field for event in events] == ["start", "data", "end"]
    assert events[1].value.output == Oneof("stdout", b"out")
    assert events[2].value.exit_code == -1
    assert (
        call("process.Process/List", process_pb.ListRequest(), process_pb.ListResponse).processes
        == []
    )


def test_what_is_not_of_the_protocol_is_refused(envd):
    json_type = {"Content-Type": "application/json"}
    stream_type = {"Content-Type": "application/connect+json"}
    assert envd.post("/process.Process/List", content=b"{", headers=json_type).status_code == 400
    assert envd.post("/process.Process/NoSuchMethod", json={}).status_code in (404, 501)
    assert (
        envd.post(
            "/process.Process/List", content=b"x", headers={"Content-Type": "text/x"}
        ).status_code
        == 415
    )
    for body in (
        b"",
        b"\0\0",
        envelope(b"{"),
        struct.pack(">BI", 0, 0xFFFFFFFF),
        envelope(b"{}", 1),
    ):
        answer = envd.post("/process.Process/Start", content=body, headers=stream_type)
        assert answer.status_code == 200
        flag, end = frames(answer.content)[-1]
        assert flag == 2 and json.loads(end)["error"]["code"]
    assert envd.post("/process.Process/List", json={}).json() == {}


def test_envds_own_rest_answers(envd, sandbox):
    assert envd.get("/health").status_code == 204
    metrics = envd.get("/metrics").json()
    assert {
        "ts",
        "cpu_count",
        "cpu_used_pct",
        "mem_total",
        "mem_used",
        "disk_used",
        "disk_total",
    } <= metrics.keys()
    assert (metrics["cpu_count"], metrics["mem_total"]) == (2, 1 << 30)
    assert envd.get("/envs").json()["E2B_SANDBOX_ID"] == sandbox.sandbox_id
