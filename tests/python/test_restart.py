"""The gateway comes and goes; its sandboxes stay, unless they were told to go."""

import contextlib
import os
import signal
import threading
import time

import httpx
import pytest
from e2b import Sandbox

from gateway import coppice
from hoststate import HostState, assert_back_to, processes_of

CREATE = {"templateID": "base"}

# All but the first, whose sandbox has the same name before and after.
alone = pytest.mark.plain("what one gateway leaves to the next")


@pytest.fixture
def own(new_gateway):
    """A gateway of the test's own, and what the host looked like before it."""
    gateway = new_gateway()
    gateway.before = HostState.of(gateway)
    return gateway.start()


def busy_sandbox(gateway, **options):
    sandbox = Sandbox.create(timeout=300, **options, **gateway.opts)
    sandbox.files.write("note", "kept")
    ticking = "while :; do date +%s.%N > /tmp/next; mv /tmp/next /tmp/tick; sleep 0.1; done"
    handle = sandbox.commands.run(ticking, background=True, timeout=0)
    while not sandbox.files.exists("/tmp/tick"):
        time.sleep(0.05)
    return sandbox, handle.pid


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_sandboxes_their_processes_and_files_outlive_the_gateway(own, sig):
    sandbox, pid = busy_sandbox(own, metadata={"a": "b"}, envs={"MINE": "yes"})
    info = sandbox.get_info()
    took = own.end(sig)
    assert took < 5
    alive = processes_of(sandbox.sandbox_id, "user")
    assert alive
    own.start()
    assert sandbox.is_running()
    assert sandbox.get_info() == info
    assert [process.pid for process in sandbox.commands.list()] == [pid]
    assert sandbox.files.read("note") == "kept"
    before = sandbox.files.read("/tmp/tick")
    time.sleep(0.5)
    assert sandbox.files.read("/tmp/tick") > before
    assert sandbox.commands.run("echo $MINE").stdout == "yes\n"
    handle = Sandbox.connect(sandbox.sandbox_id, **own.opts).commands.connect(pid)
    assert handle.kill() is True
    assert sandbox.kill() is True
    own.end()
    own.down()
    assert_back_to(own.before, own)


@alone
@pytest.mark.parametrize("after", [0.02, 0.05, 0.1])
def test_a_gateway_killed_while_it_makes_and_ends_sandboxes_starts_again(own, after):
    with own.http() as http:
        doomed = [http.post("/v2/sandboxes", json=CREATE).json() for _ in range(4)]

    def ask(method, path, **body):
        with contextlib.suppress(httpx.HTTPError), own.http() as http:
            http.request(method, path, **body)

    asking = [
        threading.Thread(target=ask, args=("POST", "/v2/sandboxes"), kwargs={"json": CREATE})
        for _ in range(10)
    ] + [
        threading.Thread(target=ask, args=("DELETE", f"/sandboxes/{sandbox['sandboxID']}"))
        for sandbox in doomed
    ]
    for thread in asking:
        thread.start()
    time.sleep(after)
    own.end(signal.SIGKILL)
    for thread in asking:
        thread.join(timeout=20)
        assert not thread.is_alive(), "a client still waits for a gateway that is dead"
    own.start()
    for sandbox in Sandbox.list(**own.opts).next_items():
        again = Sandbox.connect(sandbox.sandbox_id, **own.opts)
        assert again.commands.run("echo usable").stdout == "usable\n"
    own.end()
    own.down()
    assert_back_to(own.before, own)


@alone
def test_a_deadline_that_passed_meanwhile_is_kept_at_the_start(own, eventually):
    sandbox = Sandbox.create(timeout=2, **own.opts)
    own.end(signal.SIGKILL)
    time.sleep(2.5)
    assert processes_of(sandbox.sandbox_id)
    own.start()
    eventually(lambda: not sandbox.is_running())
    eventually(lambda: not processes_of(sandbox.sandbox_id))


@alone
def test_a_sandbox_that_died_meanwhile_is_cleared_away(own, eventually):
    sandbox, _ = busy_sandbox(own)
    own.end(signal.SIGKILL)
    (envd,) = processes_of(sandbox.sandbox_id, "envd")
    os.kill(envd, signal.SIGKILL)
    own.start()
    assert not sandbox.is_running()
    assert sandbox.kill() is False
    eventually(lambda: not list((own.data_dir / "sandboxes").iterdir()))


@alone
def test_sigterm_ends_in_time_with_streams_open_and_leaves_sandboxes(own):
    sandbox, pid = busy_sandbox(own)
    stream = sandbox.commands.connect(pid)
    assert own.end(signal.SIGTERM) < 5
    stream.disconnect()
    assert processes_of(sandbox.sandbox_id, "user")


@alone
def test_ctrl_c_in_a_terminal_ends_the_gateway_alone(new_gateway):
    gateway = new_gateway()
    terminal, inside = os.openpty()
    # A session whose foreground is the gateway and all it starts there, as of a shell.
    gateway.prefix = ("setsid", "--ctty")
    gateway.spawn(stdin=inside)
    gateway.prefix = ()
    os.close(inside)
    gateway.wait()
    sandbox, pid = busy_sandbox(gateway)
    envd = processes_of(sandbox.sandbox_id, "envd")
    os.write(terminal, b"\x03")
    assert gateway.process.wait(5) == 0
    os.close(terminal)
    assert envd and processes_of(sandbox.sandbox_id, "envd") == envd
    gateway.start()
    assert [process.pid for process in sandbox.commands.list()] == [pid]
    assert sandbox.commands.connect(pid).kill() is True


@alone
def test_sandboxes_end_with_a_gateway_that_is_told_so(new_gateway):
    gateway = new_gateway()
    before = HostState.of(gateway)
    gateway.start("--stop-sandboxes-on-exit")
    made = [busy_sandbox(gateway)[0] for _ in range(3)]
    assert gateway.end(signal.SIGTERM) < 5
    assert not any(processes_of(sandbox.sandbox_id) for sandbox in made)
    gateway.down()
    assert_back_to(before, gateway)


@alone
def test_down_ends_all_sandboxes_and_leaves_nothing(own):
    made = [busy_sandbox(own)[0] for _ in range(3)]
    own.end(signal.SIGKILL)
    assert all(processes_of(sandbox.sandbox_id) for sandbox in made)
    own.down()
    assert_back_to(own.before, own)
    own.down()


@alone
def test_down_of_one_gateway_does_not_disturb_another(own, sandbox):
    busy_sandbox(own)
    own.end()
    own.down()
    assert sandbox.commands.run("echo undisturbed").stdout == "undisturbed\n"
    sandbox.kill()
    with Sandbox.create(timeout=60) as later:
        assert later.commands.run("echo still here").stdout == "still here\n"


@alone
def test_down_of_one_gateway_leaves_an_idle_one_usable(own, new_gateway):
    other = new_gateway().start()
    own.end()
    own.down()
    with Sandbox.create(timeout=60, **other.opts) as sandbox:
        assert sandbox.commands.run("echo still here").stdout == "still here\n"


@alone
def test_down_needs_no_templates(own):
    busy_sandbox(own)
    own.end(signal.SIGKILL)
    templates = own.data_dir / "templates"
    templates.unlink()
    templates.symlink_to(own.base / "gone")
    own.down()
    assert templates.is_symlink() and not templates.exists()
    assert_back_to(own.before, own)


@alone
def test_a_data_directory_serves_one_gateway_at_a_time(own):
    second = coppice("serve", "--listen", "127.0.0.1:0", "--data-dir", own.data_dir, patience=20)
    assert second.returncode not in (0, None)
    assert str(own.data_dir) in second.stderr
