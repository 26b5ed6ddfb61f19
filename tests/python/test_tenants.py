"""Keys of a file: whose they are, what they are good for, and what is told of who did what."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from e2b import (
    AuthenticationException,
    NotFoundException,
    RateLimitException,
    Sandbox,
    SandboxException,
)

from gateway import BINARY, coppice

pytestmark = [
    pytest.mark.local("starts a gateway with a file of keys"),
    pytest.mark.plain("what keys are good for, however they come"),
]


class Keys:
    def __init__(self, path):
        self.path = path

    def run(self, *argv, status=0):
        done = coppice("key", argv[0], "--api-keys-file", self.path, *argv[1:])
        assert done.returncode == status, done.stderr
        return done

    def create(self, tenant, *more):
        key = self.run("create", "--tenant", tenant, *more).stdout.strip()
        assert key not in self.path.read_text()
        return key

    def id_of(self, note):
        rows = [line.split("\t") for line in self.run("list").stdout.splitlines()]
        (found,) = [row[0] for row in rows if row[5] == note]
        return found


class Tenants:
    """A gateway, the file of its keys, and what points the SDK there as somebody."""

    def __init__(self, new_gateway, directory):
        self.keys = Keys(directory / "keys.toml")
        self.one = self.keys.create("one", "--note", "of one")
        self.two = self.keys.create("two")
        self.admin = self.keys.create("one", "--scopes", "admin")
        self.looks = self.keys.create("one", "--scopes", "read")
        with self.keys.path.open("a") as file:
            file.write("\n[tenant.two]\nmax-sandboxes = 1\nmax-snapshots = 1\n")
        self.gateway = new_gateway("--api-keys-file", self.keys.path).start()

    def opts(self, key):
        return {**self.gateway.opts, "api_key": key}

    def http(self, key):
        return self.gateway.http(**{"X-API-Key": key})


@pytest.fixture
def tenants(new_gateway, short_dir):
    return Tenants(new_gateway, short_dir)


def test_tenants_are_strangers_before_and_after_a_restart(tenants):
    one, two = tenants.opts(tenants.one), tenants.opts(tenants.two)
    mine = Sandbox.create(**one, metadata={"whose": "one"})
    theirs = Sandbox.create(**two)
    for round in ("before", "after"):
        assert mine.commands.run(f"echo {round}").stdout == f"{round}\n"
        for ask in (
            lambda: Sandbox.connect(mine.sandbox_id, **two),
            lambda: Sandbox.get_info(mine.sandbox_id, **two),
            lambda: Sandbox.pause(mine.sandbox_id, **two),
            lambda: Sandbox.set_timeout(mine.sandbox_id, 5, **two),
            lambda: Sandbox.get_metrics(mine.sandbox_id, **two),
        ):
            with pytest.raises(NotFoundException):
                ask()
        assert not Sandbox.kill(mine.sandbox_id, **two)
        for opts, sandbox in ((one, mine), (two, theirs)):
            (listed,) = Sandbox.list(**opts).next_items()
            assert listed.sandbox_id == sandbox.sandbox_id
        tenants.gateway.end(signal.SIGKILL if round == "before" else signal.SIGTERM)
        tenants.gateway.start()
    assert Sandbox.kill(mine.sandbox_id, **one) and Sandbox.kill(theirs.sandbox_id, **two)


def test_a_tenant_that_has_all_it_may_is_told_so_and_the_others_are_not(tenants):
    two = tenants.opts(tenants.two)
    with Sandbox.create(**two):
        with pytest.raises(RateLimitException, match="tenant 'two' has 1 sandboxes"):
            Sandbox.create(**two, request_timeout=2)
        with tenants.http(tenants.two) as http:
            answer = http.post("/sandboxes", json={"templateID": "base"})
            assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
        with Sandbox.create(**tenants.opts(tenants.one)) as other:
            assert other.is_running()


def test_a_tenant_has_no_more_snapshots_than_it_may_before_and_after_a_restart(tenants):
    mine = Sandbox.create(**tenants.opts(tenants.two))
    theirs = Sandbox.create(**tenants.opts(tenants.one))
    kept = mine.create_snapshot()
    for round in ("before", "after"):
        with pytest.raises(RateLimitException, match="tenant 'two' has 1 snapshots"):
            mine.create_snapshot(request_timeout=2)
        with tenants.http(tenants.two) as http:
            answer = http.post(f"/sandboxes/{mine.sandbox_id}/snapshots")
            assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1, round
        assert theirs.create_snapshot().snapshot_id
        tenants.gateway.end(signal.SIGKILL)
        tenants.gateway.start()
    assert Sandbox.delete_snapshot(kept.snapshot_id, **tenants.opts(tenants.two)) is True
    assert mine.create_snapshot().snapshot_id


def test_a_key_is_good_for_its_scopes(tenants):
    with Sandbox.create(**tenants.opts(tenants.one)) as sandbox:
        looks = tenants.opts(tenants.looks)
        (listed,) = Sandbox.list(**looks).next_items()
        assert listed.sandbox_id == sandbox.sandbox_id
        for ask in (
            lambda: Sandbox.create(**looks),
            lambda: Sandbox.connect(sandbox.sandbox_id, **looks),
            lambda: Sandbox.kill(sandbox.sandbox_id, **looks),
        ):
            with pytest.raises(SandboxException, match="lacks the scope 'exec'"):
                ask()
        with tenants.http(tenants.looks) as http:
            told = http.get(f"/sandboxes/{sandbox.sandbox_id}").json()
            assert told["state"] == "running" and "envdAccessToken" not in told
    for key, status in ((None, 401), (tenants.one, 403), (tenants.admin, 200)):
        with tenants.http(key) as http:
            assert http.get("/metrics").status_code == status


def test_the_scraper_shows_its_key(tenants, tmp_path):
    key = tmp_path / "key"
    key.write_text(tenants.admin + "\n")
    scraper = Path(BINARY).parent / "metrics-scraper"
    if not scraper.exists():
        pytest.skip(f"there is no {scraper}")
    out = tmp_path / "figures"
    argv = [scraper, "--url", tenants.gateway.url, "--out", out, "--once", "--api-key-file", key]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert any(file.stat().st_size for file in out.iterdir())


def test_a_key_comes_and_goes_without_a_restart(tenants, eventually):
    def is_let_in(key):
        with tenants.http(key) as http:
            return http.get("/v2/sandboxes").status_code == 200

    key = tenants.keys.create("three", "--note", "third", "--expires", "1d")
    eventually(lambda: is_let_in(key), timeout=20)
    with pytest.raises(AuthenticationException):
        Sandbox.create(**tenants.opts("e2b_" + "0" * 40))
    tenants.keys.run("revoke", tenants.keys.id_of("third"))
    tenants.gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: not is_let_in(key), timeout=20)
    assert is_let_in(tenants.one)
    # What makes no sense is said, and changes nothing.
    with tenants.keys.path.open("a") as file:
        file.write("[[key]]\nid = 5\n")
    tenants.gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the API keys stay as they were" in tenants.gateway.log_tail(), timeout=20)
    assert is_let_in(tenants.one) and not is_let_in(key)
    tenants.keys.run("create", status=1)


def test_who_had_what_done_is_written_down_and_no_secret_is(tenants, eventually):
    sandbox = Sandbox.create(**tenants.opts(tenants.one))
    assert not Sandbox.kill(sandbox.sandbox_id, **tenants.opts(tenants.two))
    assert sandbox.kill()
    trails = [tenants.gateway.data_dir / "audit" / f"{name}.jsonl" for name in ("one", "two")]

    def read():
        text = "".join(trail.read_text() for trail in trails if trail.exists())
        return text.count("\n") == 3 and text

    text = eventually(read)
    lines = [json.loads(line) for line in text.splitlines()]
    key = tenants.keys.id_of("of one")
    told = [(line["tenant"], line["method"], line["status"]) for line in lines]
    assert told == [("one", "POST", 201), ("one", "DELETE", 204), ("two", "DELETE", 404)]
    assert lines[0]["made"] == [sandbox.sandbox_id] == [lines[1]["object"]]
    assert lines[0]["key"] == lines[1]["key"] == key != lines[2]["key"]
    assert all(line["source"].startswith("127.0.0.1:") for line in lines)
    secrets = (tenants.one, tenants.two, sandbox._envd_access_token)
    assert not any(secret in text for secret in secrets if secret)
    assert all(trail.stat().st_mode & 0o777 == 0o600 for trail in trails)
