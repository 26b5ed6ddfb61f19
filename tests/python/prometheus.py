"""A Prometheus as deploy/prometheus sets it up, which runs for a test and looks each half second."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from gateway import REPO, free_port

SHIPPED = REPO / "deploy" / "prometheus"
INTERVAL = "500ms"


def promtool(*argv):
    done = subprocess.run(["promtool", *argv], cwd=SHIPPED, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Prometheus:
    """The server, with a port and a directory of its own, and what its API answers."""

    def __init__(self, target):
        self.base = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
        self.process = None
        config = self.base / "config"
        shutil.copytree(SHIPPED, config)
        (config / "targets" / "local.yml").write_text(f'- targets: ["{target}"]\n')
        text = (config / "prometheus.yml").read_text()
        assert text.count("_interval: 15s") == 2
        hurried = text.replace("_interval: 15s", f"_interval: {INTERVAL}")
        (config / "prometheus.yml").write_text(hurried)

    def start(self, patience=20):
        address = f"127.0.0.1:{free_port()}"
        argv = ["prometheus", f"--config.file={self.base}/config/prometheus.yml"]
        argv += [f"--storage.tsdb.path={self.base}/data", f"--web.listen-address={address}"]
        with open(self.base / "log", "wb") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        self.http = httpx.Client(base_url=f"http://{address}", timeout=10, trust_env=False)
        deadline = time.monotonic() + patience
        while not self._is_ready():
            late = self.process.poll() is not None or time.monotonic() > deadline
            assert not late, (self.base / "log").read_text()
            time.sleep(0.05)
        return self

    def _is_ready(self):
        try:
            return self.http.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def ask(self, path, **params):
        answer = self.http.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", (params, answer)
        return answer["data"]

    def values(self, query):
        """Of each series there is now."""
        return [float(one["value"][1]) for one in self.ask("query", query=query)["result"]]

    def rules(self):
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def alerts(self, state):
        """Those that are `pending` or `firing`."""
        every = self.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in every if one["state"] == state}

    def remove(self):
        if self.process:
            self.process.terminate()
            self.process.wait(20)
            self.http.close()
        shutil.rmtree(self.base)
