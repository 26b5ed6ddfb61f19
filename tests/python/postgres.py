"""A Postgres of Debian's that runs for a test, over TLS and with a password, and is killed and started
again as the test likes."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from gateway import free_port

PASSWORD = "not-in-any-log-7f3a"
# Its processes end with the first, and nothing is brought to the disk.
OPTIONS = {"fsync": "off", "shared_buffers": "16MB", "max_connections": "20"}


class Postgres:
    def __init__(self):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        assert found, "Postgres is missing: apt-get install postgresql"
        self.bin, self.process = found[-1].parent, None
        self.base = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
        self.port = free_port()
        user = pwd.getpwnam("postgres")
        self.as_user = dict(user=user.pw_uid, group=user.pw_gid, extra_groups=[], cwd="/")
        self.ca, key = self.base / "server.pem", self.base / "server.key"
        own = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        end = ["-addext", "basicConstraints=critical,CA:FALSE", "-out", self.ca, "-keyout", key]
        subprocess.run(["openssl", "req", "-x509", *curve, *own, *end], check=True, capture_output=True)
        word = self.base / "password"
        word.write_text(PASSWORD)
        for path in (self.base, self.ca, key, word):
            os.chown(path, user.pw_uid, user.pw_gid)
        self.base.chmod(0o755)
        asked = ["-U", "postgres", "-A", "scram-sha-256", f"--pwfile={word}", "-E", "UTF8"]
        made = [self.bin / "initdb", "-D", self.base / "data", "-N", "--locale=C", *asked]
        subprocess.run(made, check=True, capture_output=True, **self.as_user)
        word.unlink()

    @property
    def url(self):
        """With the password in it."""
        return f"postgresql://postgres:{PASSWORD}@localhost:{self.port}/postgres?sslmode=require"

    def start(self, patience=20):
        options = {
            **OPTIONS,
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.base,
            "ssl": "on",
            "ssl_cert_file": self.ca,
            "ssl_key_file": self.base / "server.key",
        }
        argv = [self.bin / "postgres", "-D", self.base / "data"]
        argv += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with open(self.base / "log", "ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, **self.as_user)
        deadline = time.monotonic() + patience
        while self._ask("SELECT 1").returncode != 0:
            late = self.process.poll() is not None or time.monotonic() > deadline
            assert not late, (self.base / "log").read_text()
            time.sleep(0.05)
        return self

    def _ask(self, query):
        # By the socket, which speaks no TLS.
        argv = [self.bin / "psql", "-XAtq", "-h", self.base, "-p", str(self.port), "-U", "postgres"]
        env = {"PGPASSWORD": PASSWORD, "PATH": os.environ["PATH"], "PGTZ": "UTC"}
        argv += ["-F", "\t", "-c", query]
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20)

    def ask(self, query):
        """Rows, as texts."""
        done = self._ask(query)
        assert done.returncode == 0, done.stderr
        return [tuple(line.split("\t")) for line in done.stdout.splitlines()]

    def has(self, table):
        return self.ask(f"SELECT to_regclass('{table}') IS NOT NULL") == [("t",)]

    def kill(self):
        """Without a goodbye to anybody, and without writing out what it has in memory."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(20)
        self.process = None

    def remove(self):
        if self.process:
            self.kill()
        shutil.rmtree(self.base)
