"""A gateway whose tenants do not trust each other."""

import shutil
import tempfile
from pathlib import Path

from e2b import Sandbox

from gateway import Gateway, coppice


class Tenant:
    """Somebody with a key, one sandbox that runs, and a snapshot of it."""

    def __init__(self, gateway, key):
        self.gateway, self.key = gateway, key
        self.opts = {**gateway.opts, "api_key": key}
        self.sandbox = Sandbox.create(**self.opts, timeout=600)
        self.sandbox.files.write("/home/user/secret", "secret")
        with self.http() as http:
            made = http.post(f"/sandboxes/{self.id}/snapshots", json={})
            assert made.status_code == 201, made.text
            self.snapshot = made.json()["snapshotID"]

    @property
    def id(self):
        return self.sandbox.sandbox_id

    @property
    def token(self):
        return self.sandbox._envd_access_token

    def http(self, **headers):
        return self.gateway.http(**{"X-API-Key": self.key, **headers})


class Strangers:
    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
        self.file = self.directory / "keys.toml"
        one, two = (self.create_key("--tenant", name) for name in ("one", "two"))
        self.looks = self.create_key("--tenant", "one", "--scopes", "read")
        self.gateway = Gateway("--api-keys-file", self.file).start(patience=600)
        self.one, self.two = Tenant(self.gateway, one), Tenant(self.gateway, two)

    def create_key(self, *more):
        done = coppice("key", "create", "--api-keys-file", self.file, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.gateway.remove()
        shutil.rmtree(self.directory)
