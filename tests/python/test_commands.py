"""Commands through the SDK, and what they can see of the machine."""

import os
import threading
import time
from pathlib import Path

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    Sandbox,
    SandboxException,
    TimeoutException,
)

from hoststate import processes_of

pytestmark = pytest.mark.sdk


def test_a_command_gives_its_output_and_exit_code(sandbox):
    done = sandbox.commands.run("echo out; echo err >&2")
    assert (done.stdout, done.stderr, done.exit_code, done.error) == ("out\n", "err\n", 0, None)


@pytest.mark.parametrize("code", [1, 42, 127, 255])
def test_a_failing_command_raises_with_its_code_and_output(sandbox, code):
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run(f"echo said; echo why >&2; exit {code}")
    assert failed.value.exit_code == code
    assert (failed.value.stdout, failed.value.stderr) == ("said\n", "why\n")
    assert failed.value.error == f"exit status {code}"


def test_a_missing_program_is_bash_speaking(sandbox):
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("no-such-program")
    assert failed.value.exit_code == 127


def test_environment_cwd_and_user_are_what_was_asked_for(sandbox):
    assert sandbox.commands.run("pwd; whoami; echo $HOME").stdout.split() == [
        "/home/user",
        "user",
        "/home/user",
    ]
    assert sandbox.commands.run("pwd", cwd="/etc").stdout == "/etc\n"
    sandbox.files.make_dir("below")
    assert sandbox.commands.run("pwd", cwd="below").stdout == "/home/user/below\n"
    root = sandbox.commands.run("id -u; pwd; echo $USER $LOGNAME", user="root")
    assert root.stdout.split() == ["0", "/root", "root", "root"]
    odd = {"ODD": "a b'\"$x\nüß", "EMPTY": ""}
    shown = sandbox.commands.run('printf "%s|%s" "$ODD" "${EMPTY-unset}"', envs=odd)
    assert shown.stdout == odd["ODD"] + "|"


def test_a_wrong_cwd_or_user_is_refused(sandbox):
    with pytest.raises(InvalidArgumentException, match="/no/such/place"):
        sandbox.commands.run("true", cwd="/no/such/place")
    with pytest.raises(AuthenticationException):
        sandbox.commands.run("true", user="nobody-of-that-name")


def test_callbacks_see_output_as_it_comes(sandbox):
    """A line is only written once the one before it was seen."""
    seen = []

    def add(text):
        seen.append(text)
        sandbox.files.write(f"/tmp/seen{len(seen)}", "")

    first, second = (f"until [ -e /tmp/seen{n} ]; do sleep 0.02; done" for n in (1, 2))
    script = f"echo one; {first}; echo two >&2; {second}; echo three"
    sandbox.commands.run(script, on_stdout=add, on_stderr=add)
    assert seen == ["one\n", "two\n", "three\n"]


def test_a_background_command_is_listed_waited_for_and_forgotten(sandbox):
    handle = sandbox.commands.run("sleep 1; echo done", background=True, envs={"A": "1"}, cwd="/")
    (listed,) = sandbox.commands.list()
    assert listed.pid == handle.pid
    assert (listed.cmd, listed.args) == ("/bin/bash", ["-l", "-c", "sleep 1; echo done"])
    assert (listed.envs["A"], listed.cwd) == ("1", "/")
    assert handle.wait().stdout == "done\n"
    assert sandbox.commands.list() == []


def test_leaving_a_command_does_not_end_it(sandbox, eventually):
    handle = sandbox.commands.run("sleep 2; touch /tmp/lived", background=True)
    handle.disconnect()
    eventually(lambda: sandbox.files.exists("/tmp/lived"))


def test_a_command_runs_on_when_nobody_reads_its_output(sandbox, eventually):
    script = "head -c 5000000 /dev/zero | tr '\\0' x; touch /tmp/wrote-it-all"
    sandbox.commands.run(script, background=True).disconnect()
    eventually(lambda: sandbox.files.exists("/tmp/wrote-it-all"), timeout=10)


def test_stdin_is_sent_and_closed(sandbox):
    handle = sandbox.commands.run("cat; echo end", background=True, stdin=True)
    sandbox.commands.send_stdin(handle.pid, "first ")
    handle.send_stdin(b"\xc3\xa4 second\n")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "first ä second\nend\n"
    other = sandbox.commands.run("cat", background=True, stdin=True)
    other.send_stdin("all")
    other.close_stdin()
    assert other.wait().stdout == "all"


def test_a_command_without_stdin_reads_its_end_at_once(sandbox):
    assert sandbox.commands.run("cat; echo end").stdout == "end\n"
    handle = sandbox.commands.run("sleep 30", background=True)
    with pytest.raises(SandboxException):
        sandbox.commands.send_stdin(handle.pid, "x")


def test_stdin_streams(sandbox, sdk_since):
    sdk_since(2, 46)
    handle = sandbox.commands.run("md5sum", background=True, stdin=True)
    sandbox.commands.stream_input(handle.pid, (b"0123456789" * 10_000 for _ in range(30)))
    sandbox.commands.close_stdin(handle.pid)
    whole = sandbox.commands.run("yes 0123456789 | tr -d '\\n' | head -c 3000000 | md5sum")
    assert handle.wait().stdout == whole.stdout


def test_a_timeout_ends_the_command(sandbox, eventually):
    asked = time.monotonic()
    with pytest.raises(TimeoutException):
        sandbox.commands.run("echo $$ > /tmp/pid; exec sleep 60", timeout=1.5)
    assert 1 < time.monotonic() - asked < 4
    eventually(lambda: sandbox.commands.list() == [])
    with pytest.raises(CommandExitException):
        sandbox.commands.run("kill -0 $(cat /tmp/pid)")


def test_kill_ends_a_command_once(sandbox):
    handle = sandbox.commands.run("sleep 60", background=True)
    assert sandbox.commands.kill(handle.pid) is True
    with pytest.raises(CommandExitException) as ended:
        handle.wait()
    assert (ended.value.exit_code, ended.value.error) == (-1, "signal: killed")
    other = sandbox.commands.run("sleep 60", background=True)
    assert other.kill() is True
    with pytest.raises(CommandExitException):
        other.wait()
    assert sandbox.commands.kill(987654) is False


def test_a_background_child_holds_back_the_end_and_a_kill_does_not_wait_for_it(sandbox):
    asked = time.monotonic()
    sandbox.commands.run("sleep 2 & echo started")
    assert time.monotonic() - asked > 1.8
    handle = sandbox.commands.run("sleep 50 & echo started; wait", background=True)
    time.sleep(0.3)
    handle.kill()
    asked = time.monotonic()
    with pytest.raises(CommandExitException):
        handle.wait()
    assert time.monotonic() - asked < 3


def test_a_second_client_connects_to_a_running_command(sandbox):
    script = "while [ ! -e /tmp/go ]; do sleep 0.05; done; echo both see this; exit 3"
    handle = sandbox.commands.run(script, background=True)
    second = Sandbox.connect(sandbox.sandbox_id).commands.connect(handle.pid)
    assert second.pid == handle.pid
    sandbox.files.write("/tmp/go", "")
    for client in (handle, second):
        with pytest.raises(CommandExitException) as ended:
            client.wait()
        assert (ended.value.stdout, ended.value.exit_code) == ("both see this\n", 3)


def test_a_finished_command_still_tells_its_end_and_an_unknown_one_is_not_found(sandbox):
    handle = sandbox.commands.run("exit 7", background=True)
    with pytest.raises(CommandExitException):
        handle.wait()
    with pytest.raises(CommandExitException) as late:
        sandbox.commands.connect(handle.pid).wait()
    assert late.value.exit_code == 7
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(987654)


def test_characters_split_between_writes_arrive_whole(sandbox):
    script = r"""printf 'a\xf0\x9f'; sleep 0.5; printf '\x98\x80b'; sleep 0.2; printf '\xc3'"""
    assert sandbox.commands.run(script).stdout == "a😀b\ufffd"


def test_twenty_megabytes_of_output_arrive_intact(sandbox):
    done = sandbox.commands.run("seq -f '%019.0f' 1000000", timeout=50)
    assert len(done.stdout) == 20_000_000
    lines = done.stdout.split("\n")
    assert lines[:-1] == [f"{n:019d}" for n in range(1, 1_000_001)]


def test_many_commands_run_at_once(sandbox):
    def run(n, answers):
        answers[n] = sandbox.commands.run(f"sleep 0.5; echo {n}").stdout

    answers = {}
    threads = [threading.Thread(target=run, args=(n, answers)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: f"{n}\n" for n in range(30)}


def test_sudo_works_without_a_password(sandbox):
    assert sandbox.commands.run("sudo -n id -u").stdout == "0\n"
    sandbox.commands.run("sudo -n sh -c 'echo x > /etc/made-by-root'")
    assert sandbox.files.get_info("/etc/made-by-root").owner == "root"


@pytest.mark.linux("reads and writes /proc")
def test_the_limits_are_what_programs_see(sandbox):
    assert int(sandbox.commands.run("nproc").stdout) == min(2, os.cpu_count())
    total = "awk '/^MemTotal:/ {print $2}' /proc/meminfo"
    assert int(sandbox.commands.run(total).stdout) == 1024 * 1024


@pytest.mark.local("compares with the gateway's host")
def test_the_sandbox_has_a_process_table_and_a_name_of_its_own(sandbox):
    # envd, this shell and what it starts: nothing of the host.
    assert int(sandbox.commands.run("ls -d /proc/[0-9]* | wc -l").stdout) < 12
    assert sandbox.commands.run("hostname").stdout.strip() != os.uname().nodename


@pytest.mark.local("compares with the gateway's host")
def test_nothing_of_the_host_can_be_seen(sandbox, gateway):
    for mine in (gateway.data_dir, gateway.base, os.path.abspath(__file__)):
        assert not sandbox.files.exists(str(mine), user="root")
        with pytest.raises(CommandExitException):
            sandbox.commands.run(f"ls {mine}", user="root")
    assert str(gateway.base) not in sandbox.commands.run("cat /proc/self/mountinfo").stdout


@pytest.mark.linux("reads and writes /proc")
def test_a_command_inherits_nothing_but_its_three_descriptors(sandbox):
    # The shell's own, listed by a child of it.
    assert sandbox.commands.run("ls /proc/$$/fd; true").stdout.split() == ["0", "1", "2"]


@pytest.mark.local("compares with the gateway's host")
def test_envd_starts_with_no_environment_and_keeps_no_directory_open(sandbox):
    (envd,) = processes_of(sandbox.sandbox_id, "envd")
    assert Path(f"/proc/{envd}/environ").read_bytes() == b""
    for descriptor in Path(f"/proc/{envd}/fd").iterdir():
        assert not descriptor.is_dir(), f"{descriptor} is {descriptor.readlink()}"


@pytest.mark.linux("reads and writes /proc")
def test_root_inside_is_not_root_outside(sandbox):
    for forbidden in (
        "echo 1 > /proc/sys/kernel/panic",
        "mknod /tmp/disk b 8 0 && head -c1 /tmp/disk",
        "echo b > /proc/sysrq-trigger",
    ):
        with pytest.raises(CommandExitException):
            sandbox.commands.run(forbidden, user="root")
