"""Code that means harm: it hurts only its own sandbox, and ending that leaves nothing."""

import time

import pytest
from e2b import CommandExitException, NotEnoughSpaceException, RateLimitException, Sandbox

from hoststate import HostState, assert_back_to, processes_of
from inside import source

pytestmark = pytest.mark.plain("what a sandbox does to its host")

LEAVES_NOTHING = {
    "double forks": "(setsid sh -c '(sleep 600 &) & (sleep 600 &)' &) & sleep 0.5",
    "daemons": "for i in $(seq 20); do setsid nohup sleep 600 >/dev/null 2>&1 & done; sleep 0.5",
    "ignored signals": """
        setsid bash -c 'trap "" TERM INT HUP QUIT; while :; do sleep 1; done' &""",
    "a deleted working directory": "mkdir gone; cd gone; rmdir ../gone; setsid sleep 600 &",
    "open deleted files": "exec 3>big; rm big; head -c 50000000 /dev/zero >&3; setsid sleep 600 &",
    "a stopped process": "setsid sleep 600 & kill -STOP $!",
    "deep directories that nobody may enter": """
        p=; for i in $(seq 200); do p=$p/ddddddddddddddd; done; mkdir -p ~$p
        python3 - <<'END'
import os
for depth in range(2000):
    os.mkdir('x' * 200)
    os.chdir('x' * 200)
END
        chmod 000 ~""",
    "files of strange names": r"""
        touch "$(printf 'a\nb')" "$(printf '\xff\xfe')" -- '-rf' '$(reboot)'""",
    "sockets": """python3 -c '
import socket, time, os
if os.fork() == 0:
    os.setsid()
    kept = [socket.socketpair() for _ in range(400)]
    s = socket.socket(socket.AF_UNIX); s.bind("/tmp/s"); s.listen()
    time.sleep(600)' &""",
    "a kill of everything": "sudo kill -9 -1",
    "an attack on envd": "sudo kill -9 1; sudo kill -STOP 1",
}


@pytest.mark.parametrize("what", LEAVES_NOTHING)
def test_ending_a_sandbox_leaves_nothing(gateway, what):
    start = HostState.of(gateway)
    with Sandbox.create(timeout=120) as sandbox:
        sandbox.files.write("/tmp/attack", LEAVES_NOTHING[what])
        attack = sandbox.commands.run("bash /tmp/attack", background=True)
        time.sleep(1.5)
        attack.disconnect()
        assert sandbox.commands.run("echo alive", cwd="/").stdout == "alive\n"
        asked = time.monotonic()
        assert sandbox.kill()
        # Bounded, on a busy machine too; how fast it is, benchmarks say.
        assert time.monotonic() - asked < 10
    assert_back_to(start, gateway)


@pytest.mark.local("counts processes on the gateway's host")
def test_a_fork_bomb_stays_within_its_limit_and_ends_with_its_sandbox(gateway, sandboxes):
    start = HostState.of(gateway)
    sandbox, neighbour = sandboxes(), sandboxes()
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 60"
    sandbox.commands.run(bomb, background=True).disconnect()
    most = 0
    for _ in range(10):
        most = max(most, len(processes_of(sandbox.sandbox_id, "user")))
        assert neighbour.commands.run("echo calm").stdout == "calm\n"
        time.sleep(0.2)
    assert 200 < most <= 1024
    quick(sandbox.commands.list)
    quick(sandbox.kill)
    neighbour.kill()
    assert_back_to(start, gateway)


def test_memory_is_bounded_and_the_sandbox_lives_on(sandbox):
    devour = "python3 -c 'taken = []\nwhile True: taken.append(b\"x\" * (16 << 20))'"
    done = sandbox.commands.run(f"{devour}; echo ended with $?")
    assert done.stdout in ("ended with 137\n", "ended with 1\n")
    assert sandbox.commands.run("echo alive").stdout == "alive\n"


def quick(call):
    """Calls it and checks that it took less than a second."""
    asked = time.monotonic()
    answer = call()
    took = time.monotonic() - asked
    assert took < 1, f"took {took:.2f} s"
    return answer


@pytest.fixture
def cramped_gateway(loop_disk, new_gateway):
    """A gateway whose sandboxes share a small disk."""
    gateway = new_gateway(data_dir=loop_disk(600) / "d").start()
    with Sandbox.create(**gateway.opts) as first:
        first.commands.run("true")
    return gateway


def fill_disk(sandbox):
    """With a file of a program's: of an upload that does not fit nothing stays."""
    with pytest.raises(CommandExitException) as full:
        sandbox.commands.run("head -c 1G /dev/zero > /home/user/all-there-is")
    assert "No space left on device" in full.value.stderr


@pytest.mark.timeout(120)
def test_a_full_sandbox_answers_and_ends_within_a_second(cramped_gateway, eventually):
    start = HostState.of(cramped_gateway)
    sandbox = Sandbox.create(timeout=300, **cramped_gateway.opts)
    for program in ("hog.py", "crowd.py"):
        sandbox.files.write(f"/tmp/{program}", source(program))
    fill_disk(sandbox)

    sandbox.commands.run("python3 /tmp/hog.py", background=True, timeout=0)
    crowd = sandbox.commands.run("python3 /tmp/crowd.py", background=True, timeout=0)
    said, _, _ = next(iter(crowd))
    assert said.startswith("full after ") and int(said.split()[-1]) < 1024
    assert len(processes_of(sandbox.sandbox_id, "user")) > 1000
    with pytest.raises(RateLimitException):
        sandbox.commands.run("true")

    sandbox.files.write("/tmp/go", "")
    eventually(lambda: sandbox.files.exists("/tmp/killed"), timeout=30)
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("/tmp/more", "x" * 1_000_000)

    for _ in range(3):
        assert len(quick(sandbox.commands.list)) == 2
        assert quick(sandbox.is_running)
    assert quick(sandbox.kill)
    assert_back_to(start, cramped_gateway)
    with Sandbox.create(timeout=60, **cramped_gateway.opts) as next_one:
        assert next_one.commands.run("echo room again").stdout == "room again\n"


def test_a_full_disk_is_said_so_and_can_be_emptied(cramped_gateway, eventually):
    with Sandbox.create(timeout=300, **cramped_gateway.opts) as sandbox:
        fill_disk(sandbox)
        with pytest.raises(NotEnoughSpaceException):
            sandbox.files.write("one-more", "x" * 1_000_000)
        sandbox.files.remove("all-there-is")

        def fits():
            try:
                return sandbox.files.write("one-more", "x" * 1_000_000)
            except NotEnoughSpaceException:
                return None

        # ext4 gives the blocks of a removed file back when its journal commits.
        eventually(fits, timeout=15)
        assert sandbox.files.get_info("one-more").size == 1_000_000
