"""Sandboxes that the binary of the commit before has made go on under this one.

`COPPICE_PREVIOUS_BIN` names that binary; `sh tools/previous.sh` builds it. Where what the two
say to envd, or how they write their records, was changed on purpose so that they cannot, the
changelog has to say so, and the sandboxes are ended with a reason and leave nothing.
"""

import json
import os
import signal
import time
from datetime import timedelta

import pytest
from e2b import Sandbox, SandboxState

from gateway import BINARY, REPO
from hoststate import HostState, assert_back_to, processes_of
from test_pause import TICKING, ticks

PREVIOUS = os.environ.get("COPPICE_PREVIOUS_BIN")
pytestmark = [
    pytest.mark.skipif(
        not PREVIOUS, reason="COPPICE_PREVIOUS_BIN names no binary of the commit before"
    ),
    pytest.mark.plain("what one gateway leaves to the next"),
]


@pytest.fixture
def old(new_gateway):
    """A gateway of the commit before, and what the host was like before it."""
    gateway = new_gateway(binary=PREVIOUS)
    gateway.before = HostState.of(gateway)
    return gateway.start()


def spoken(gateway, sandbox):
    """The version of a sandbox's record, and of what is said to its envd."""
    record = gateway.data_dir / "sandboxes" / sandbox.sandbox_id / "sandbox.json"
    record = json.loads(record.read_text())
    return record["protocol"]


def declared(protocol):
    """Whether the changelog has it that sandboxes of before cannot go on."""
    unreleased = (REPO / "CHANGELOG.md").read_text().split("\n## ")[1]
    return f"envd protocol {protocol}" in unreleased


def ticking(gateway, **options):
    sandbox = Sandbox.create(timeout=300, **options, **gateway.opts)
    handle = sandbox.commands.run(TICKING, background=True, timeout=0)
    sandbox.commands.run("until [ -s /tmp/ticks ]; do sleep 0.01; done")
    sandbox.files.write("note", "kept")
    return sandbox, handle.pid


@pytest.mark.timeout(180)
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_new_binary_goes_on_with_the_sandboxes_of_the_one_before(
    old, sig, eventually, interpreter_template
):
    gateway = old
    running, pid = ticking(gateway, metadata={"a": "b"}, envs={"MINE": "yes"})
    paused, paused_pid = ticking(gateway)
    paused.pause()
    stopped = time.time()
    interpreter = pytest.importorskip("e2b_code_interpreter").Sandbox
    kernel = interpreter.create(interpreter_template, timeout=300, **gateway.opts)
    kernel.run_code("kept = [1, 2]")
    made = [running, paused, kernel]
    infos = [sandbox.get_info() for sandbox in made]
    before = spoken(gateway, running)

    gateway.end(sig)
    gateway.binary = BINARY
    gateway.start()
    with Sandbox.create(timeout=60, **gateway.opts) as new:
        now = spoken(gateway, new)
    if now != before:
        pytest.skip(ended_as_declared(gateway, made, before, now, eventually))

    assert [sandbox.get_info() for sandbox in made] == infos
    assert [sandbox.is_running() for sandbox in made] == [True, False, True]
    assert [process.pid for process in running.commands.list()] == [pid]
    assert running.files.read("note") == "kept"
    assert running.commands.run("echo $MINE").stdout == "yes\n"
    seen = len(ticks(running))
    eventually(lambda: len(ticks(running)) > seen)
    assert running.commands.connect(pid).kill() is True
    assert kernel.run_code("kept + [3]").text == "[1, 2, 3]"

    resumed = time.time()
    again = Sandbox.connect(paused.sandbox_id, timeout=300, **gateway.opts)
    eventually(lambda: ticks(again)[-1] > resumed)
    assert not [tick for tick in ticks(again) if stopped < tick < resumed]
    assert again.files.read("note") == "kept"
    assert [process.pid for process in again.commands.list()] == [paused_pid]
    # And once more, now by the new one.
    assert running.pause() is True
    assert running.get_info().state == SandboxState.PAUSED
    assert running.connect().commands.run("echo on").stdout == "on\n"
    assert all(sandbox.kill() for sandbox in made)
    gateway.end()
    gateway.down()
    assert_back_to(gateway.before, gateway)


def ended_as_declared(gateway, made, before, now, eventually):
    """What is to be seen instead where the two do not understand each other, as a reason."""
    assert declared(now), (
        f"the commit before spoke protocol {before} to envd and this one {now}, so its sandboxes "
        f"are ended by an upgrade. If that is meant, the changelog has to say `envd protocol {now}`"
    )
    for sandbox in made:
        eventually(lambda sandbox=sandbox: not processes_of(sandbox.sandbox_id), timeout=20)
        assert sandbox.sandbox_id in gateway.log_tail(1000)
        assert sandbox.kill() is False
    gateway.end()
    gateway.down()
    assert_back_to(gateway.before, gateway)
    return f"the protocol was raised from {before} to {now}, as the changelog says: all were ended"


def test_a_deadline_is_the_same_instant_to_both(old, eventually):
    sandbox = Sandbox.create(timeout=300, **old.opts)
    sandbox.set_timeout(4)
    ends = sandbox.get_info().end_at
    old.end(signal.SIGKILL)
    old.binary = BINARY
    old.start()
    if not sandbox.is_running():
        pytest.skip("the other test says why it does not go on")
    assert abs(sandbox.get_info().end_at - ends) < timedelta(milliseconds=1)
    eventually(lambda: not sandbox.is_running(), timeout=8)
    assert time.time() >= ends.timestamp() - 0.01
