"""`metrics-scraper` beside a gateway: what it writes down of the demonstration, from the first look
to Ctrl-C, with the gateway away for a while.

What is recorded stays in target/e2e/recording, for who builds the site of it.
"""

import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from gateway import BINARY, KEY, REPO

pytest.importorskip("e2b_code_interpreter")
pytestmark = [
    pytest.mark.local("watches a gateway of its own"),
    pytest.mark.plain("the scraper, whose TLS its own tests are of"),
]

SCRAPER = BINARY.parent / "metrics-scraper"
RECORDING = REPO / "target" / "e2e" / "recording"
SANDBOXES = 4
CELLS = 7
DOCUMENT = (REPO / "docs" / "metrics-jsonl.md").read_text()
_, SCHEMA = map(json.loads, re.findall(r"^```json\n(.*?)^```", DOCUMENT, re.M | re.S))


def lines(directory):
    """What is recorded, each line as the schema has it."""
    text = "".join(file.read_text() for file in sorted(directory.glob("*.jsonl")))
    assert text.endswith("\n") or not text
    found = [json.loads(line) for line in text.splitlines()]
    for line in found:
        jsonschema.validate(line, SCHEMA)
    return found


def scrape(directory, *flags, **how):
    command = [SCRAPER, "--out", directory, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, **how)


class Watch:
    """`metrics-scraper --interval 1` on a terminal of its own."""

    def __init__(self, url, directory):
        self.told = ""
        self.master, terminal = pty.openpty()
        argv = [SCRAPER, "--url", url, "--out", directory, "--interval", "1"]
        self.process = subprocess.Popen(argv, stdin=terminal, stderr=terminal)
        os.close(terminal)
        os.set_blocking(self.master, False)

    def says(self, wanted):
        """Whether it has said that by now."""
        try:
            while data := os.read(self.master, 1 << 16):
                self.told += data.decode()
        except OSError:
            # Nothing more is there yet.
            pass
        return re.search(wanted, self.told, re.DOTALL)

    def end(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


@pytest.fixture
def watched(new_gateway, interpreter_template):
    """A gateway as it is by default: with a pool for one."""
    return new_gateway("--pool", f"{interpreter_template}=1").start()


@pytest.fixture
def watch(watched):
    shutil.rmtree(RECORDING, ignore_errors=True)
    watch = Watch(watched.url, RECORDING)
    yield watch
    if watch.process.poll() is None:
        watch.process.kill()
        watch.process.wait()
    os.close(watch.master)


def demonstrate(gateway):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", REPO / "tools" / "demo-notebook.sh", str(SANDBOXES)]
    env = {**os.environ, "PATH": path, **gateway.settings}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(150)
def test_the_demonstration_is_written_down_with_a_gap_where_the_gateway_was_away(
    watched, watch, eventually
):
    eventually(lambda: watch.says(r"\d\d:\d\d:\d\dZ  0 alive, 0 kernels, 0 created; 1 samples"))
    another = scrape(RECORDING, "--once", "--url", watched.url)
    assert another.returncode == 1 and "another writes there" in another.stderr
    demonstrate(watched)
    eventually(lambda: lines(RECORDING)[-1]["alive"] == 0, timeout=10)
    watched.end()
    gone = len(lines(RECORDING))
    # At an interval of a second, three missed ones are a gap to who reads it.
    eventually(lambda: watch.says("(nobody there.*){4}"), timeout=20)
    assert len(lines(RECORDING)) == gone
    watched.start()
    eventually(lambda: watch.says("there again; nothing is known since"), timeout=30)
    eventually(lambda: len(lines(RECORDING)) >= gone + 3, timeout=10)
    assert watch.end() == 0

    recorded = lines(RECORDING)
    before, after = recorded[:gone], recorded[gone:]
    last = before[-1]
    cells = SANDBOXES * CELLS
    assert (last["created"], last["killed"], last["execs"]) == (SANDBOXES, SANDBOXES, cells)
    assert last["errors"] == SANDBOXES and sum(last["exec"]) == cells
    assert sum(last["create"]) == SANDBOXES
    assert max(line["alive"] for line in before) == SANDBOXES
    assert max(line["kernels"] for line in before) >= SANDBOXES
    assert max(line["pool"][2] for line in before) == 1
    seen = {box for line in before for box in line.get("boxes", {})}
    assert len(seen) == SANDBOXES
    assert all(line["every"] == 1 for line in recorded)
    assert after[0]["at"] - last["at"] > 2500
    assert after[0]["up"] < last["up"] and after[0]["created"] == 0


def test_one_look_takes_a_key_leaves_whole_lines_and_fails_where_there_is_no_gateway(
    new_gateway, tmp_path
):
    gateway = new_gateway(env={"COPPICE_API_KEYS": KEY}).start()
    # Made if need be.
    out = tmp_path / "below" / "metrics"
    refused = scrape(out, "--once", "--url", gateway.url)
    assert refused.returncode == 1 and "401" in refused.stderr
    (tmp_path / "key").write_text(f"{KEY}\n")
    with_key = ("--once", "--url", gateway.url, "--api-key-file", tmp_path / "key")
    # What a power cut has left.
    out.joinpath("2026-01-01.jsonl").write_text('{"v":1,"at":17')
    done = scrape(out, *with_key)
    assert done.returncode == 0 and "14 bytes of it are removed" in done.stderr
    (line,) = lines(out)
    assert line["every"] == 0 and len(json.dumps(line, separators=(",", ":"))) < 300

    # No room but for the beginning of the next.
    most = 50 + max(file.stat().st_size for file in out.glob("*.jsonl"))
    full = scrape(
        out,
        *with_key,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert full.returncode == 1 and "only a part of the line fits" in full.stderr
    assert lines(out) == [line]

    gateway.end()
    gone = scrape(out, *with_key)
    assert gone.returncode == 1 and gateway.url in gone.stderr
    assert lines(out) == [line]
