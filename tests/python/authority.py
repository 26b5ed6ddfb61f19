"""A certificate authority that speaks ACME, and the DNS it looks at: Debian's `pebble`, which is Let's
Encrypt's own for tests, with a name server whose records are set over HTTP."""

import json
import os
import shutil
import ssl
import subprocess
import time
import urllib.request

from domain import free_port

HOOK = """#!/bin/sh
# Sets the record as it is told to, and keeps a diary.
set -eu
echo "$@" >>"$0.calls"
env >"$0.env"
. "$0.mood"
case $1 in present) call=set-txt ;; cleanup) call=clear-txt ;; esac
curl -sSf "http://127.0.0.1:PORT/$call" -d "{\\"host\\":\\"$2.\\",\\"value\\":\\"${value:-$3}\\"}"
"""


class Authority:
    """Runs in `base`; what it vouches for is good for so many seconds."""

    def __init__(self, base, lifetime=90 * 86400):
        assert shutil.which("pebble"), "the authority is missing: apt-get install pebble"
        self.base, self.ca = base, base / "server.pem"
        own = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        own += ["-addext", "basicConstraints=critical,CA:FALSE", "-days", "2", "-nodes"]
        files = ["-out", self.ca, "-keyout", base / "server-key.pem"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        made = ["openssl", "req", "-x509", *curve, *own, *files]
        subprocess.run(made, check=True, capture_output=True)
        self.port, self.manage, self.dns, dns_manage = (free_port() for _ in range(4))
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.manage}",
            "certificate": str(self.ca),
            "privateKey": str(base / "server-key.pem"),
            "httpPort": 1,
            "tlsPort": 1,
            "certificateValidityPeriod": lifetime,
        }
        (base / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self.hook = base / "hook"
        self.hook.write_text(HOOK.replace("PORT", str(dns_manage)))
        self.hook.chmod(0o700)
        self.mood("")
        listens = [f"-management=127.0.0.1:{dns_manage}", f"-dns01=127.0.0.1:{self.dns}"]
        self.names = self._run(
            ["pebble-challtestsrv", *listens, "-http01=", "-https01=", "-tlsalpn01="]
        )
        self.process = None

    def _run(self, argv, **env):
        with open(self.base / "authority.log", "ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **env})

    def start(self):
        # Proofs are looked at without a rest, and each anew. Unless it is told not to, it refuses
        # good nonces now and then.
        quick = {
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_AUTHZREUSE": "0",
            "PEBBLE_WFE_NONCEREJECT": "0",
        }
        config = ["-config", self.base / "pebble.json", "-dnsserver", f"127.0.0.1:{self.dns}"]
        self.process = self._run(["pebble", *config], **quick)
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.root()
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log()
                time.sleep(0.05)

    def root(self):
        """What its clients' clients are to trust, in PEM: another with every start."""
        trusting = ssl.create_default_context(cafile=self.ca)
        url = f"https://localhost:{self.manage}/roots/0"
        with urllib.request.urlopen(url, context=trusting, timeout=10) as answer:
            return answer.read().decode()

    def log(self):
        return (self.base / "authority.log").read_text()

    def mood(self, text):
        """What the hook does before it sets a record: a line of shell."""
        (self.base / "hook.mood").write_text(text + "\n")

    def calls(self):
        """What the hook was called with."""
        diary = self.base / "hook.calls"
        return [line.split() for line in diary.read_text().splitlines()] if diary.exists() else []

    @property
    def flags(self):
        url = f"https://localhost:{self.port}/dir"
        return ["--acme-directory", url, "--acme-hook", self.hook, "--acme-ca", self.ca]

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        self.stop()
        self.names.kill()
        self.names.wait()
