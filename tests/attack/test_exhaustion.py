"""One sandbox takes all it can get: what its neighbours, the gateway and the host feel of it.

Every attack takes little more than a sandbox may: with its wall down it gets what it asks for, and
the host still has plenty. It goes on until its sandbox is ended, while a neighbour is asked.
"""

import contextlib
import gzip
import http.client
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2b import CommandExitException

from attack import REMOTE, Held, attack, to_envd
from gateway import TEMPLATES
from hoststate import cpu_time_of, processes_of

# On a machine that has much else to do these take their time.
pytestmark = pytest.mark.timeout(180)
# While any of these runs: a neighbour's answer, in seconds, or as many times what it was before if
# that is more, on a machine that others use too; and what the gateway grows by.
ANSWER = 10
TIMES = 20
MEMORY = 64 << 20
# Of these the sampler has five for each sandbox, from its first look at it on.
DESCRIPTORS = 128

BOUNDED = "the bound that it meets is in the program, not in a wall: see what is watched"


def resident(pid):
    """Bytes."""
    return 0 if pid is None else int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def descriptors(pid):
    return 0 if pid is None else len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Watch:
    """What others feel while something runs."""

    LOOKS = 4

    def __init__(self, world):
        # Of one that somebody else has started only what it answers is known.
        self.world, self.pid = world, None if REMOTE else world.gateway.process.pid
        self.before = resident(self.pid), descriptors(self.pid)
        self.slowest, self.grown, self.opened, self.asked = 0, 0, 0, 0
        self.bound = max(ANSWER, TIMES * max(self.answer() for _ in range(2)))

    def answer(self):
        """Seconds, of a request that may well take longer than it is to."""
        began = time.monotonic()
        done = self.world.neighbour.commands.run("echo calm", request_timeout=50)
        assert done.stdout == "calm\n"
        return time.monotonic() - began

    def look(self):
        self.slowest = max(self.slowest, self.answer())
        self.grown = max(self.grown, resident(self.pid) - self.before[0])
        self.opened = max(self.opened, descriptors(self.pid) - self.before[1])
        self.asked += 1

    @contextlib.contextmanager
    def throughout(self):
        """Looks as long as what is done meanwhile takes, and some more."""
        over, asked = threading.Event(), self.asked

        def go_on():
            while not over.is_set() or self.asked < asked + self.LOOKS:
                self.look()

        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(go_on)
            try:
                yield
            finally:
                over.set()
                looking.result()

    def felt(self):
        """Whether it was more than the bounds allow, in words."""
        assert self.asked
        grown = f"grown by {self.grown >> 20} MiB and {self.opened} descriptors"
        print(f"slowest of {self.asked} answers {self.slowest:.2f} s, the gateway has {grown}")
        if self.slowest > self.bound:
            return f"a neighbour waited {self.slowest:.1f} s, of {self.bound:.1f}"
        if self.grown > MEMORY:
            return f"the gateway has grown by {self.grown >> 20} MiB"
        if self.opened > DESCRIPTORS:
            return f"the gateway has {self.opened} more descriptors"
        return None


@pytest.fixture
def watch(world):
    with contextlib.suppress(CommandExitException):
        world.neighbour.commands.run("true")
    return Watch(world)


@attack("limits", without="limits")
def test_more_processes_than_a_sandbox_may_have(world, watch):
    def attempt():
        import time

        made = 0
        for _ in range(1500):
            try:
                child = os.fork()
            except BlockingIOError:
                break
            if child == 0:
                time.sleep(60)
                os._exit(0)
            made += 1
        say(f"{made}")
        time.sleep(60)

    with world.another() as sandbox, world.while_inside(attempt, sandbox=sandbox) as made:
        with watch.throughout():
            # It can still be asked.
            sandbox.commands.list()
    return watch.felt() or int(made) == 1500 and f"{made} processes"


@attack("limits", without="limits")
def test_more_threads_than_a_sandbox_may_have(world, watch):
    def attempt():
        import threading
        import time

        threading.stack_size(64 << 10)
        made = 0
        try:
            for _ in range(1500):
                threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                made += 1
        except RuntimeError:
            pass
        say(f"{made}")
        time.sleep(60)
        os._exit(0)

    with world.another() as sandbox, world.while_inside(attempt, sandbox=sandbox) as made:
        with watch.throughout():
            sandbox.commands.list()
    return watch.felt() or int(made) == 1500 and f"{made} threads"


@pytest.mark.local("looks at the processes of a sandbox")
@attack("limits", without="limits")
def test_a_fork_bomb(world, watch):
    """Of eleven generations: more than a sandbox may have at once, so that whoever has no child yet
    tries on and on."""

    def attempt():
        import time

        end = time.monotonic() + 60
        for _ in range(11):
            while time.monotonic() < end:
                try:
                    os.fork()
                    break
                except BlockingIOError:
                    time.sleep(0.5)
        time.sleep(60)
        os._exit(0)

    with world.another() as sandbox:
        command = world.command(attempt)
        sandbox.commands.run(command, user="root", background=True, timeout=0).disconnect()
        most, risen = 0, time.monotonic()
        with watch.throughout():
            # Until it has been as many as it gets for a while, however long that takes here.
            while (now := time.monotonic()) < risen + 3:
                if (count := len(processes_of(sandbox.sandbox_id, "user"))) > most:
                    most, risen = count, now
                time.sleep(0.1)
        # It has not gone out meanwhile.
        assert len(processes_of(sandbox.sandbox_id, "user")) >= min(most, 1000) // 2
    print(f"at most {most} processes")
    return watch.felt() or most > 1024 and f"{most} processes at once"


@attack("limits", without="limits")
def test_more_memory_than_a_sandbox_may_have(world, watch):
    def attempt(size):
        taken = []
        for _ in range(size >> 24):
            taken.append(b"x" * (16 << 20))
        return f"{len(taken) << 4} MiB"

    return takes_more(world, watch, attempt)


def takes_more(world, watch, attempt):
    """Again and again, or once where nothing stops it."""
    with world.another() as sandbox:
        beyond = (sandbox.get_info().memory_mb + 256) << 20
        with watch.throughout():
            for _ in range(3):
                try:
                    return world.inside(
                        attempt, beyond, sandbox=sandbox, timeout=50, may_be_killed=True
                    )
                except Held as error:
                    held = error
        # It lives on.
        assert sandbox.commands.run("echo alive").stdout == "alive\n"
    if felt := watch.felt():
        return felt
    raise held


@pytest.mark.linux
@attack("limits", without="limits")
def test_memory_that_is_a_file_is_not_counted(world, watch):
    def attempt(size):
        for number in range(size >> 24):
            memory = os.memfd_create("bomb")
            os.write(memory, b"x" * (16 << 20))
        return f"{size >> 20} MiB of files in memory"

    return takes_more(world, watch, attempt)


@pytest.mark.linux
@attack("limits", nothing_without="a file system in memory has a size")
def test_shared_memory_takes_more_than_the_sandbox_has(world, watch):
    with world.another() as sandbox:
        allowed = sandbox.get_info().memory_mb << 20
        size = sandbox.commands.run("stat -f -c '%b %S' /dev/shm").stdout.split()
        with watch.throughout():
            fill = "cat /dev/zero > /dev/shm/all 2>/dev/null; echo over"
            full = sandbox.commands.run(fill).stdout
        assert full == "over\n"
        return watch.felt() or int(size[0]) * int(size[1]) > allowed and f"/dev/shm of {size}"


@attack("limits", nothing_without=BOUNDED)
def test_all_descriptors_that_a_process_may_have(world, watch):
    def attempt():
        import resource
        import time

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        opened = 0
        try:
            while opened < 60_000:
                os.dup(1)
                opened += 1
        except OSError:
            pass
        say(f"{opened}")
        time.sleep(60)

    with world.another() as sandbox, world.while_inside(attempt, sandbox=sandbox) as opened:
        with watch.throughout():
            # Whoever comes next has descriptors.
            assert sandbox.commands.run("cat /etc/passwd").stdout
        assert int(opened) > 1000
    return watch.felt()


@attack("limits", nothing_without=BOUNDED)
def test_a_hundred_thousand_files(world, watch):
    def attempt():
        os.makedirs("/home/user/crowd")
        os.chdir("/home/user/crowd")
        for number in range(100_000):
            os.close(os.open(f"{number}", os.O_CREAT))
            if number == 20_000:
                say("on its way")

    with world.another() as sandbox:
        with world.while_inside(attempt, sandbox=sandbox), watch.throughout():
            time.sleep(0.5)
        listed = sandbox.files.list("/home/user/crowd")
        assert len(listed) > 20_000
        began = time.monotonic()
        assert sandbox.kill()
        assert time.monotonic() - began < ANSWER
    watch.look()
    return watch.felt()


@attack("limits", nothing_without=BOUNDED)
def test_output_without_end_to_a_client_that_does_not_read(world, watch):
    with world.another() as sandbox:
        endless = [
            sandbox.commands.run("yes " + "x" * 200, background=True, timeout=0) for _ in range(3)
        ]
        with watch.throughout():
            time.sleep(1)
        for one in endless:
            one.kill()
    return watch.felt()


@attack("limits", nothing_without=BOUNDED)
def test_output_without_end_to_a_client_that_does(world, watch):
    with world.another() as sandbox:
        stop = time.monotonic() + 2
        seen = 0
        with watch.throughout():
            for out, _, _ in sandbox.commands.run("yes", background=True, timeout=0):
                seen += len(out or "")
                if time.monotonic() > stop:
                    break
        assert seen
    return watch.felt()


@pytest.mark.local("knows which templates it has")
@attack("limits", nothing_without=BOUNDED)
def test_a_kernel_of_endless_output(world, watch):
    interpreter = pytest.importorskip("e2b_code_interpreter")
    if not (TEMPLATES / "code-interpreter-v1.json").exists():
        pytest.skip("template code-interpreter-v1 has not been built")
    with interpreter.Sandbox.create(timeout=120, **world.gateway.opts) as sandbox:
        seen = []

        def run():
            with contextlib.suppress(Exception):
                sandbox.run_code("while True: print('x' * 1000)", on_stdout=seen.append, timeout=30)

        running = threading.Thread(target=run, daemon=True)
        running.start()
        deadline = time.monotonic() + 30
        while not seen and time.monotonic() < deadline:
            time.sleep(0.05)
        assert seen, "the kernel has said nothing"
        with watch.throughout():
            time.sleep(1)
    running.join(30)
    return watch.felt()


@attack("limits", nothing_without=BOUNDED)
def test_a_body_that_unpacks_to_a_thousand_times_its_size(world, watch):
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    with world.another() as sandbox:
        told = {}

        def send():
            connection = world.gateway.by_hand(timeout=50)
            headers = {
                **to_envd(sandbox),
                "Content-Encoding": "gzip",
                "Content-Type": "application/octet-stream",
            }
            path = "/files?path=/home/user/bomb&username=user"
            connection.request("POST", path, packed.getvalue(), headers)
            told["status"] = connection.getresponse().status

        sending = threading.Thread(target=send)
        sending.start()
        while sending.is_alive():
            watch.look()
        sending.join()
        watch.look()
        print(f"answered {told}, from {len(packed.getvalue())} bytes")
        assert sandbox.commands.run("echo alive").stdout == "alive\n"
    return watch.felt()


@pytest.mark.local("looks at the log of an envd")
@attack("limits", nothing_without=BOUNDED)
def test_a_flood_of_requests_that_envd_would_log(world, watch):
    with world.another() as sandbox:
        log = world.gateway.data_dir / "sandboxes" / sandbox.sandbox_id / "envd.log"
        before = log.stat().st_size if log.exists() else 0
        stop = time.monotonic() + 2
        connection = world.gateway.by_hand()
        sent = 0
        with watch.throughout():
            while time.monotonic() < stop:
                try:
                    connection.request("POST", f"/nothing/{'x' * 500}", b"x", to_envd(sandbox))
                    connection.getresponse().read()
                except (http.client.HTTPException, OSError):
                    connection = world.gateway.by_hand()
                sent += 1
        grown = (log.stat().st_size if log.exists() else 0) - before
        print(f"{sent} requests, log grown by {grown}")
        assert sent
        return watch.felt() or grown > (1 << 20) and f"a log of {grown} bytes"


@attack("limits", nothing_without=BOUNDED)
def test_a_flood_of_connections_to_a_port_that_never_answers(world, watch):
    def attempt():
        import socket
        import time

        silent = socket.create_server(("127.0.0.1", 8090), backlog=4096)
        say("silent")
        time.sleep(60)

    with world.another() as sandbox, world.while_inside(attempt, sandbox=sandbox):
        asking = []
        for _ in range(50):
            connection = world.gateway.by_hand(timeout=5)
            headers = {**to_envd(sandbox), "E2b-Sandbox-Port": "8090"}
            connection.request("GET", "/", headers=headers)
            asking.append(connection)
        with watch.throughout():
            time.sleep(0.5)
        for connection in asking:
            connection.close()
    # Two for each that is still asked.
    watch.opened -= 2 * len(asking)
    return watch.felt()


@pytest.mark.local("looks at the processes of a sandbox")
@attack("limits", nothing_without=BOUNDED)
def test_everything_it_may_have_at_once(world, watch):
    """What is left of it can still be asked, read and written by its envd, and ended."""

    def attempt():
        import contextlib
        import time

        if os.fork() == 0:
            # Whoever is killed for want of memory has a follower.
            while True:
                with contextlib.suppress(BlockingIOError):
                    hungry = os.fork()
                    taken = []
                    while hungry == 0:
                        taken.append(b"x" * (8 << 20))
                    os.waitpid(hungry, 0)
                time.sleep(0.1)
        for _ in range(200):
            try:
                if os.fork() == 0:
                    with contextlib.suppress(OSError):
                        while True:
                            os.dup(1)
                    while True:
                        pass
            except BlockingIOError:
                break
        say("all taken")
        time.sleep(60)

    limits = {"coppice.limits": "processes=100,memory=256"}
    with world.another(metadata=limits) as sandbox:
        with world.while_inside(attempt, sandbox=sandbox), watch.throughout():
            sandbox.files.write("/home/user/note", "still here", request_timeout=50)
            assert sandbox.files.read("/home/user/note", request_timeout=50) == "still here"
            assert sandbox.commands.list(request_timeout=50)
        began = time.monotonic()
        assert sandbox.kill()
        assert time.monotonic() - began < watch.bound
    return watch.felt()


@pytest.mark.local("looks at the processes of a sandbox")
@attack("limits", nothing_without="half of its CPU time is not its neighbour's to take")
def test_all_of_the_cpu_time_it_can_get(world, watch):
    def attempt():
        import time

        began = time.monotonic()
        for _ in range(16):
            if os.fork() == 0:
                while time.monotonic() < began + 60:
                    pass
                os._exit(0)
        say("spinning")
        time.sleep(60)

    with world.another() as sandbox, world.while_inside(attempt, sandbox=sandbox):
        began, used = time.monotonic(), cpu_time_of(sandbox.sandbox_id)
        with watch.throughout():
            time.sleep(1)
        used = (cpu_time_of(sandbox.sandbox_id) - used) / (time.monotonic() - began)
        allowed = sandbox.get_info().cpu_count
    print(f"{used:.2f} CPUs of {allowed}")
    # A count may be somewhat later than the clock.
    return watch.felt() or used > 1.2 * allowed and f"{used:.2f} CPUs"
