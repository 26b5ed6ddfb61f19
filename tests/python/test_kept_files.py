"""What a sandbox's files survive: pauses that keep nothing else, a gateway and a host that go."""

import json
import os
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import e2b
import pytest
from e2b import NotFoundException, Sandbox, SandboxException, SandboxQuery, SandboxState

from hoststate import HostState, assert_back_to, processes_of

pytestmark = pytest.mark.plain("what stays on a disk")

# Hard links, holes, modes, owners, times, and what is hidden of the template.
FURNISH = """set -e
cd ~
mkdir -p tree/below; echo text > tree/file; ln tree/file tree/below/same; ln -s ../file tree/below/link
truncate -s 1G tree/sparse; echo end >> tree/sparse
sudo install -m 4711 -o root -g user /bin/true tree/setuid
touch -d '2001-02-03 04:05:06.789' tree/below; mkfifo tree/fifo
sudo rm -rf /usr/share/doc /etc/os-release; sudo mkdir /usr/share/doc; sudo touch /usr/share/doc/new
sudo setcap cap_net_raw=ep tree/below/../setuid 2>/dev/null || true
"""
# What of it is to be the same: all but inodes.
DESCRIBE = """cd ~; find tree -printf '%p %M %U:%G %s %b %n %l %T@\\n' | sort
ls -A /usr/share/doc; ls /etc/os-release 2>&1; md5sum tree/file; tail -c 4 tree/sparse
getcap tree/setuid 2>/dev/null || true"""


def furnished(sandbox):
    sandbox.commands.run(FURNISH)
    return described(sandbox)


def described(sandbox):
    return sandbox.commands.run(DESCRIBE).stdout


def record_of(gateway, sandbox):
    return Path(gateway.data_dir) / "sandboxes" / sandbox.sandbox_id / "sandbox.json"


def reboot(gateway, *sandboxes):
    """As far as sandboxes can see: the gateway and all processes are gone, the kernel is another."""
    gateway.end(signal.SIGKILL)
    for sandbox in sandboxes:
        pids = processes_of(sandbox.sandbox_id)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while processes_of(sandbox.sandbox_id):
            time.sleep(0.02)
        path = record_of(gateway, sandbox)
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"boot": "another"}))
    gateway.start()


@pytest.fixture
def own(new_gateway):
    """A gateway of the test's own, and what the host looked like before it."""
    gateway = new_gateway()
    gateway.before = HostState.of(gateway)
    return gateway.start()


def create(gateway, **options):
    return Sandbox.create(timeout=300, **options, **gateway.opts)


def shown(gateway, sandbox):
    with gateway.http() as http:
        return http.get(f"/sandboxes/{sandbox.sandbox_id}").json()


@pytest.fixture
def until_durable(eventually):
    return lambda gateway, box: eventually(lambda: "durableAt" in shown(gateway, box), timeout=60)


def test_a_pause_without_memory_keeps_the_files_and_nothing_else(own, eventually):
    sandbox = create(own, metadata={"a": "b"}, envs={"MINE": "yes"})
    before = furnished(sandbox)
    info = sandbox.get_info()
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    assert sandbox.pause(keep_memory=False) is True
    assert not processes_of(sandbox.sandbox_id)
    assert sandbox.pause(keep_memory=False) is False
    told = shown(own, sandbox)
    assert (told["state"], told["pauseMode"]) == ("paused", "filesystem")
    again = Sandbox.connect(sandbox.sandbox_id, timeout=300, **own.opts)
    assert again.sandbox_id == sandbox.sandbox_id and "pauseMode" not in shown(own, sandbox)
    assert described(again) == before
    assert again.get_info().metadata == info.metadata
    # Whoever had it before needs nothing new.
    assert sandbox.commands.run("echo $MINE; hostname").stdout == f"yes\n{sandbox.sandbox_id}\n"
    assert not [it for it in sandbox.commands.list() if "sleep" in (it.cmd, *it.args)]
    for _ in range(3):
        assert sandbox.pause(keep_memory=False) is True
        Sandbox.connect(sandbox.sandbox_id, timeout=300, **own.opts)
    assert described(sandbox) == before
    sandbox.files.write("later", "kept too")
    sandbox.pause()
    assert shown(own, sandbox)["pauseMode"] == "full"
    Sandbox.connect(sandbox.sandbox_id, **own.opts)
    assert sandbox.files.read("later") == "kept too"
    assert sandbox.kill() is True
    own.end()
    own.down()
    assert_back_to(own.before, own)


def test_a_paused_sandbox_can_be_booted_from_its_files_rather_than_go_on(own):
    sandbox = create(own)
    handle = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    sandbox.files.write("note", "kept")
    sandbox.pause()
    again = Sandbox.connect(sandbox.sandbox_id, on_resume="reboot", **own.opts)
    assert again.files.read("note") == "kept"
    assert handle.pid not in [it.pid for it in again.commands.list()]
    # One that runs is left as it is.
    pid = again.commands.run("sleep 1000", background=True, timeout=0).pid
    Sandbox.connect(sandbox.sandbox_id, on_resume="reboot", **own.opts)
    assert pid in [it.pid for it in again.commands.list()]


def test_at_its_deadline_one_keeps_its_files_alone_where_that_was_asked_for(own, eventually):
    lifecycle = {"on_timeout": {"action": "pause", "mode": "filesystem"}}
    sandbox = Sandbox.create(timeout=300, lifecycle=lifecycle, **own.opts)
    sandbox.files.write("note", "kept")
    sandbox.set_timeout(1)
    eventually(lambda: shown(own, sandbox).get("pauseMode") == "filesystem")
    assert not processes_of(sandbox.sandbox_id)
    assert Sandbox.connect(sandbox.sandbox_id, **own.opts).files.read("note") == "kept"
    with own.http() as http:
        body = {"templateID": "base", "autoPauseMemory": False}
        alone = http.post("/v2/sandboxes", json=body)
        woken = {**body, "autoPause": True, "autoResume": {"enabled": True}}
        assert (alone.status_code, http.post("/v2/sandboxes", json=woken).status_code) == (400, 400)


def test_traffic_does_not_boot_a_sandbox(own):
    lifecycle = {"on_timeout": "pause", "auto_resume": True}
    sandbox = Sandbox.create(timeout=300, lifecycle=lifecycle, **own.opts)
    sandbox.pause(keep_memory=False)
    with pytest.raises(SandboxException):
        sandbox.commands.run("true")
    assert shown(own, sandbox)["state"] == "paused"


def test_an_envd_that_does_not_answer_is_told_of_and_its_memory_is_not_gone_on_with(own):
    sandbox = create(own)
    sandbox.files.write("note", "kept")
    (envd,) = processes_of(sandbox.sandbox_id, "envd")
    os.kill(envd, signal.SIGSTOP)
    with own.http() as http:
        for body in ({"requireHealthyGuest": True}, {"memory": False}):
            refused = http.post(f"/sandboxes/{sandbox.sandbox_id}/pause", json=body)
            assert refused.status_code == 503
            assert shown(own, sandbox)["state"] == "running"
    assert sandbox.pause() is True
    assert shown(own, sandbox)["envdUnresponsiveAtPause"] is True
    assert sandbox.get_info().envd_unresponsive_at_pause is True
    with pytest.raises(e2b.GuestUnresponsiveException):
        Sandbox.connect(sandbox.sandbox_id, **own.opts)
    again = Sandbox.connect(sandbox.sandbox_id, on_resume="reboot", **own.opts)
    assert again.files.read("note") == "kept"
    assert "envdUnresponsiveAtPause" not in shown(own, sandbox)


def test_what_is_paused_and_on_the_disk_survives_a_reboot_of_the_host(own, until_durable):
    full, files, running = (create(own, metadata={"n": n}) for n in "123")
    before = furnished(full)
    token = shown(own, full)["envdAccessToken"]
    files.files.write("note", "kept")
    full.pause()
    files.pause(keep_memory=False)
    until_durable(own, full)
    until_durable(own, files)
    told = shown(own, full)
    assert told["pauseMode"] == "full" and datetime.fromisoformat(told["durableAt"])
    reboot(own, full, files, running)
    with pytest.raises(NotFoundException):
        running.get_info()
    with own.http() as http:
        why = http.get(f"/v1/sandboxes/{running.sandbox_id}").json()["status"]["reason"]
        assert why == "host_rebooted"
        why = http.get(f"/v1/sandboxes/{full.sandbox_id}").json()["status"]["reason"]
        assert why == "host_rebooted"
    told = shown(own, full)
    assert (told["state"], told["pauseMode"]) == ("paused", "filesystem")
    again = Sandbox.connect(full.sandbox_id, timeout=300, **own.opts)
    assert described(again) == before
    assert shown(own, full)["envdAccessToken"] == token
    assert again.get_info().metadata == {"n": "1"}
    again = Sandbox.connect(files.sandbox_id, timeout=300, **own.opts)
    assert again.files.read("note") == "kept"
    own.end()
    own.down()
    assert_back_to(own.before, own)


def test_what_was_not_on_the_disk_yet_is_lost_with_the_host(own, until_durable):
    sandbox = create(own)
    sandbox.pause()
    until_durable(own, sandbox)
    path = record_of(own, sandbox)
    record = json.loads(path.read_text())
    del record["durable_at"]
    own.end(signal.SIGKILL)
    path.write_text(json.dumps(record))
    own.start()
    own.end(signal.SIGKILL)
    path.write_text(json.dumps(record))
    own.start()
    # The kernel that has it in its cache still runs: it is brought to the disk now.
    until_durable(own, sandbox)
    path.write_text(json.dumps(record))
    reboot(own, sandbox)
    with pytest.raises(NotFoundException):
        sandbox.get_info()


def test_a_power_failure_after_a_resume_or_a_kill_brings_nothing_back(
    own, until_durable, eventually
):
    """What a power failure leaves of what was renamed or deleted since it was last waited for is as
    it was then; what was overwritten in place and waited for is as it is."""
    resumed, killed, paused = (create(own) for _ in range(3))
    home, aside = own.data_dir / "sandboxes", own.base / "aside"
    aside.mkdir()
    for sandbox in (resumed, killed, paused):
        sandbox.files.write("note", "kept")
        sandbox.pause()
        until_durable(own, sandbox)
        # With the same inodes.
        subprocess.run(["cp", "-al", home / sandbox.sandbox_id, aside], check=True)
    before = {box: json.loads(record_of(own, box).read_text()) for box in (resumed, killed, paused)}
    Sandbox.connect(resumed.sandbox_id, **own.opts).files.write("note", "changed")
    assert killed.kill() is True
    eventually(lambda: not (home / killed.sandbox_id).exists())
    own.end(signal.SIGKILL)
    for pid in [pid for box in (resumed, paused) for pid in processes_of(box.sandbox_id)]:
        os.kill(pid, signal.SIGKILL)
    for sandbox, record in before.items():
        assert record["durable_at"]
        if sandbox is killed:
            (aside / sandbox.sandbox_id).rename(home / sandbox.sandbox_id)
        record_of(own, sandbox).unlink()
        record_of(own, sandbox).write_text(json.dumps(record | {"boot": "another"}))
    assert (home / killed.sandbox_id / "layer/upper/home/user/note").read_text() == "kept"
    own.start()
    for sandbox in (resumed, killed):
        with pytest.raises(NotFoundException):
            sandbox.get_info()
        with own.http() as http:
            why = http.get(f"/v1/sandboxes/{sandbox.sandbox_id}").json()["status"]["reason"]
        assert why == "host_rebooted"
    again = Sandbox.connect(paused.sandbox_id, timeout=300, **own.opts)
    assert again.files.read("note") == "kept"


def test_a_paused_sandbox_whose_processes_are_ended_keeps_its_files(own, eventually):
    sandbox = create(own)
    sandbox.files.write("note", "kept")
    sandbox.pause()
    for pid in processes_of(sandbox.sandbox_id):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: shown(own, sandbox).get("pauseMode") == "filesystem")
    assert Sandbox.connect(sandbox.sandbox_id, **own.opts).files.read("note") == "kept"
    assert not Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED]), **own.opts).next_items()
