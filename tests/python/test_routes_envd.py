"""envd, on port 49983 of every sandbox: its routes and protocols, each by a small request."""

import base64
import gzip
import json
import struct

import pytest

from probes import Probes, expect

probes = Probes()
row = probes.row


@row("envd", "`GET /health`")
def healthy(at):
    assert expect(at.envd.get("/health"), 204).content == b""


@row("envd", "`GET /metrics`", "`GET /envs`")
def figures(at):
    assert expect(at.envd.get("/metrics"), 200).json()["mem_total"] == 1 << 30
    assert expect(at.envd.get("/envs"), 200).json()["E2B_SANDBOX_ID"] == at.id


@row("envd", "`GET /files`", "`POST /files`, multipart", "`POST /files`, octet-stream")
def transferring(at):
    form = {"file": ("/tmp/a/über.txt", b"form")}
    (written,) = expect(at.envd.post("/files", files=form), 200).json()
    assert written["path"] == "/tmp/a/über.txt"
    stream = {"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    body = gzip.compress(b"stream")
    path = {"path": "/tmp/stream"}
    expect(at.envd.post("/files", params=path, content=body, headers=stream), 200)
    assert expect(at.envd.get("/files", params={"path": written["path"]}), 200).text == "form"
    assert at.envd.get("/files", params=path).text == "stream"


@row("envd", "`POST /files/compose`")
def composing(at):
    body = {"source_paths": ["/etc/hostname"], "destination": "/tmp/composed"}
    expect(at.envd.post("/files/compose", json=body), 200)


@row("envd", "`Range`", "gzip on the way down")
def in_parts(at):
    at.sandbox.files.write("/tmp/digits", "0123456789" * 100)
    path = {"path": "/tmp/digits"}
    part = at.envd.get("/files", params=path, headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.text) == (206, "234")
    zipped = at.envd.get("/files", params=path, headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip" and len(zipped.text) == 1000


@row("envd", "`X-Metadata-*` on files")
def with_notes(at):
    headers = {"Content-Type": "application/octet-stream", "X-Metadata-Kind": "a b"}
    written = at.envd.post("/files", params={"path": "/tmp/m"}, content=b"x", headers=headers)
    assert expect(written, 200).json()[0]["metadata"] == {"kind": "a b"}


@row("envd", "unary calls as JSON", "unary calls as protobuf")
def unary(at):
    answer = at.envd.post("/filesystem.Filesystem/Stat", json={"path": "/etc/passwd"})
    assert expect(answer, 200).json()["entry"]["name"] == "passwd"
    # A StatRequest: field 1, a string.
    body, binary = b"\x0a\x0b/etc/passwd", {"Content-Type": "application/proto"}
    answer = at.envd.post("/filesystem.Filesystem/Stat", content=body, headers=binary)
    assert answer.status_code == 200 and b"passwd" in answer.content


def started(at, script, **headers):
    """The events of a command, by Connect's streaming protocol."""
    config = {"cmd": "/bin/sh", "args": ["-c", script]}
    message = json.dumps({"process": config, "stdin": False}).encode()
    answer = at.envd.post(
        "/process.Process/Start",
        content=struct.pack(">BI", 0, len(message)) + message,
        headers={"Content-Type": "application/connect+json", **headers},
    )
    body, found = expect(answer, 200).content, []
    while body:
        flags, size = struct.unpack(">BI", body[:5])
        found.append((flags, json.loads(body[5 : 5 + size])))
        body = body[5 + size :]
    return found


@row("envd", "streams", "`Connect-Timeout-Ms`", "`Keepalive-Ping-Interval`")
def streams(at):
    *events, (flags, _) = started(at, "echo out; exit 3")
    kinds = [next(iter(event["event"])) for _, event in events]
    assert (kinds, flags) == (["start", "data", "end"], 2)
    assert base64.b64decode(events[1][1]["event"]["data"]["stdout"]) == b"out\n"
    _, ended = started(at, "sleep 60", **{"Connect-Timeout-Ms": "300"})[-1]
    assert ended["error"]["code"] == "deadline_exceeded"
    quiet = started(at, "sleep 1.5", **{"Keepalive-Ping-Interval": "1"})
    assert any("keepalive" in event.get("event", {}) for _, event in quiet)


@row("envd", "commands as another user (`Authorization: Basic`)")
def as_another(at):
    root = "Basic " + base64.b64encode(b"root:").decode()
    events = started(at, "id -un", Authorization=root)
    assert base64.b64decode(events[1][1]["event"]["data"]["stdout"]) == b"root\n"


@row("envd", "its own routes closed to clients (`/init`, `/freeze`, ...)")
def closed(at):
    for path in ("/init", "/freeze", "/unfreeze", "/upgrade"):
        assert at.envd.post(path, json={}).status_code == 404


def test_it_is_there_or_said_not_to_be(attempt, probe):
    attempt(probe)
