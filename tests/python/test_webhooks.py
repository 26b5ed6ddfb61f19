"""Webhooks in E2B's shape: deliveries that a receiver can check, that outlive its absence and the
gateway's, and that lead nowhere a tenant has no business."""

import base64
import hashlib
import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from e2b import Sandbox

from gateway import free_port

pytestmark = pytest.mark.plain("gateways of its own, whose transport has no part in it")

SECRET = "signature-secret-not-in-any-log-77ab"
LIFECYCLE = [f"sandbox.lifecycle.{name}" for name in ("created", "paused", "resumed", "killed")]


class Receiver:
    """Takes deliveries; `answers` are statuses of the next ones, 204 where there is none left."""

    def __init__(self):
        self.lock, self.taken, self.answers = threading.Lock(), [], []
        self.port, self.server, self.headers = free_port(), None, {}

    def start(self):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver.lock:
                    status = receiver.answers.pop(0) if receiver.answers else 204
                    named = {name.lower(): value for name, value in self.headers.items()}
                    receiver.taken.append((status, named, body, self.path))
                self.send_response(status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hook"

    def bodies(self, sandbox=None):
        """Of deliveries that were taken, one for each event."""
        with self.lock:
            taken = [json.loads(body) for status, _, body, _ in self.taken if status == 204]
        own = [body for body in taken if sandbox in (None, body["sandbox_id"])]
        return list({body["id"]: body for body in own}.values())

    def types(self, sandbox):
        return [body["type"] for body in self.bodies(sandbox)]


@pytest.fixture
def receiver():
    made = Receiver().start()
    yield made
    made.stop()


@pytest.fixture
def hooking(new_gateway, tmp_path):
    """A gateway whose webhooks may lead to this host."""

    def start(*flags, allow=("127.0.0.0/8",), **options):
        settings = tmp_path / "coppice.toml"
        settings.write_text(f"[events]\nwebhooks_allow = {json.dumps(list(allow))}\n")
        return new_gateway("--config", settings, *flags, **options).start()

    return start


def register(gateway, url, events=LIFECYCLE, **more):
    body = {"name": "mine", "url": url, "events": list(events), "signatureSecret": SECRET, **more}
    with gateway.http() as http:
        return http.post("/events/webhooks", json=body).raise_for_status().json()


def verified(secret, body, signature):
    """As E2B's documents do it, but for the alphabet, which is the one that its service uses."""
    digest = hashlib.sha256(secret.encode() + body).digest()
    return base64.b64encode(digest).decode().rstrip("=") == signature


def test_a_life_is_delivered_signed_and_in_e2bs_shape(hooking, receiver, eventually):
    gateway = hooking()
    hook = register(gateway, receiver.url)
    sandbox = Sandbox.create(metadata={"a": "b"}, **gateway.opts)
    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, **gateway.opts).kill()
    id = sandbox.sandbox_id
    eventually(lambda: len(receiver.types(id)) == 4)
    assert sorted(receiver.types(id)) == sorted(LIFECYCLE)
    for status, headers, body, path in receiver.taken:
        assert (status, path, headers["content-type"]) == (204, "/hook", "application/json")
        assert headers["e2b-webhook-id"] == hook["id"]
        assert headers["e2b-signature-version"] == "v1"
        assert verified(SECRET, body, headers["e2b-signature"])
        assert not verified("another", body, headers["e2b-signature"])
    assert len({headers["e2b-delivery-id"] for _, headers, _, _ in receiver.taken}) == 4
    by_type = {body["type"]: body for body in receiver.bodies(id)}
    created = by_type["sandbox.lifecycle.created"]
    for field, value in {
        "version": "v2",
        "sandbox_id": id,
        "sandboxId": id,
        "sandbox_template_id": "base",
        "sandbox_team_id": "default",
        "event_category": "lifecycle",
        "event_label": "create",
    }.items():
        assert created[field] == value
    assert created["event_data"]["sandbox_metadata"] == {"a": "b"}
    paused = by_type["sandbox.lifecycle.paused"]["event_data"]["execution"]
    assert paused["execution_time"] >= 0 and paused["vcpu_count"] > 0 and paused["memory_mb"] > 0
    with gateway.http() as http:
        page = http.get(f"/events/webhooks/{hook['id']}/deliveries").json()
        stats = http.get(f"/events/webhooks/{hook['id']}/stats").json()
        told = json.dumps([page, stats, http.get("/events/webhooks").json()])
    assert {group["eventType"] for group in page["data"]} == set(LIFECYCLE)
    (attempt,) = page["data"][0]["attempts"]
    assert (attempt["status"], attempt["responseHttpStatusCode"]) == ("success", 204)
    assert (stats["total"], stats["failed"]) == (4, 0)
    signatures = [headers["e2b-signature"] for _, headers, _, _ in receiver.taken]
    kept = (gateway.data_dir / "webhooks" / f"{hook['id']}.json").stat()
    assert kept.st_mode & 0o777 == 0o600
    for secret in [SECRET, *signatures]:
        assert secret not in told and secret not in gateway.log_tail(100_000)


def test_a_receiver_that_fails_goes_away_and_comes_back_gets_all_of_it(
    hooking, receiver, eventually
):
    gateway = hooking()
    receiver.answers = [500, 503]
    hook = register(gateway, receiver.url, ["sandbox.lifecycle.*"])
    ids = [lived(gateway)]
    eventually(lambda: "sandbox.lifecycle.killed" in receiver.types(ids[0]))
    with gateway.http() as http:
        page = http.get(
            f"/events/webhooks/{hook['id']}/deliveries", params={"deliveryStatus": "failed"}
        ).json()
    failed = [attempt for group in page["data"] for attempt in group["attempts"]]
    assert {attempt["errorClass"] for attempt in failed} == {"http_error"}
    assert {attempt["responseHttpStatusCode"] for attempt in failed} == {500, 503}
    receiver.stop()
    ids.append(lived(gateway))
    # Down, and then the gateway too, the hard way.
    spool = gateway.data_dir / "webhooks" / f"{hook['id']}.spool"

    def kept():
        lines = b"".join(one.read_bytes() for one in spool.glob("*.seg")).decode().splitlines()
        return any(ids[1] in line and "lifecycle.killed" in line for line in lines)

    eventually(kept)
    gateway.end(signal.SIGKILL)
    gateway.start()
    ids.append(lived(gateway))
    receiver.start()
    for id in ids:
        wanted = {"sandbox.lifecycle.created", "sandbox.lifecycle.killed"}
        eventually(lambda id=id: wanted <= set(receiver.types(id)), timeout=40)
        # Of each there is one, however often it came.
        assert len(receiver.types(id)) == len(set(receiver.types(id)))


def lived(gateway):
    with Sandbox.create(**gateway.opts) as sandbox:
        pass
    return sandbox.sandbox_id


def test_nobody_is_led_inside_or_on_and_what_is_off_is_off(hooking, receiver, eventually):
    gateway = hooking(allow=())
    with gateway.http() as http:
        for url in [receiver.url, "http://localhost:3000/", "http://[::1]/", "http://10.0.0.1/"]:
            body = {"name": "x", "url": url, "events": ["*"], "signatureSecret": "x"}
            refused = http.post("/events/webhooks", json=body)
            assert refused.status_code == 400 and "webhooks_allow" in refused.json()["message"]
    # By a name it is seen when there is something to send: this host's own leads to itself.
    import socket

    name = socket.gethostname()
    led = register(gateway, f"http://{name}:{receiver.port}/", ["sandbox.lifecycle.created"])
    lived(gateway)

    def first_error():
        with gateway.http() as http:
            page = http.get(f"/events/webhooks/{led['id']}/deliveries").json()["data"]
        return page and page[0]["attempts"][0]["errorClass"]

    assert eventually(first_error) == "dns_error"
    gateway.end()
    assert receiver.taken == []


def test_a_redirect_is_not_followed_and_a_change_takes_effect(hooking, receiver, eventually):
    gateway = hooking()
    receiver.headers = {"Location": "/elsewhere"}
    receiver.answers = [307]
    hook = register(gateway, receiver.url, ["sandbox.lifecycle.created"])
    path = f"/events/webhooks/{hook['id']}"
    first = lived(gateway)
    eventually(lambda: receiver.types(first))
    assert {path for *_, path in receiver.taken} == {"/hook"}
    assert [status for status, *_ in receiver.taken] == [307, 204]
    with gateway.http() as http:
        http.patch(path, json={"enabled": False}).raise_for_status()
        silent = lived(gateway)
        changed = {"enabled": True, "events": ["exec.*"]}
        http.patch(path, json=changed).raise_for_status()
        with Sandbox.create(**gateway.opts) as sandbox:
            sandbox.commands.run("true")
        eventually(lambda: "exec.completed" in receiver.types(sandbox.sandbox_id))
        assert set(receiver.types(sandbox.sandbox_id)) == {"exec.started", "exec.completed"}
        assert receiver.types(silent) == []
        assert http.delete(path).status_code == 200
    last = lived(gateway)
    gateway.end()
    assert receiver.types(last) == []
    assert list((gateway.data_dir / "webhooks").iterdir()) == []
