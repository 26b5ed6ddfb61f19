"""One sandbox against another: what the kernel shares, and what a dead one leaves."""

import contextlib
import secrets

import pytest
from e2b import CommandExitException, NotFoundException

from attack import Held, attack
from hoststate import processes_of


@pytest.fixture
def number():
    """A key of System V's that nobody else uses."""
    return secrets.randbits(30) + 1


# --- objects of the kernel's that have a name


@attack("strangers", without="ipc-namespace")
def test_shared_memory_of_a_neighbour_is_attached(world, number):
    def leave(number):
        shared = checked(LIBC.shmget(number, 4096, 0o1666), "shmget")
        LIBC.shmat.restype = ctypes.c_void_p
        address = LIBC.shmat(shared, None, 0)
        ctypes.memmove(address, b"secret", 6)
        return "left"

    def take(number):
        shared = checked(LIBC.shmget(number, 0, 0), "shmget")
        LIBC.shmat.restype = ctypes.c_void_p
        try:
            return ctypes.string_at(LIBC.shmat(shared, None, 0o10000), 6)
        finally:
            LIBC.shmctl(shared, 0, None)

    world.inside(leave, number, sandbox=world.neighbour)
    return world.inside(take, number)


@attack("strangers", without="ipc-namespace")
def test_a_neighbours_semaphore_is_found(world, number):
    def leave(number):
        checked(LIBC.semget(number, 1, 0o1666), "semget")
        return "left"

    def take(number):
        found = checked(LIBC.semget(number, 0, 0), "semget")
        LIBC.semctl(found, 0, 0)
        return f"semaphore {found}"

    world.inside(leave, number, sandbox=world.neighbour)
    return world.inside(take, number)


@attack("strangers", without="ipc-namespace")
def test_a_neighbours_message_is_received(world, number):
    def leave(number):
        queue = checked(LIBC.msgget(number, 0o1666), "msgget")
        checked(LIBC.msgsnd(queue, ctypes.c_char_p(b"\1\0\0\0\0\0\0\0secret"), 6, 0), "msgsnd")
        return "left"

    def take(number):
        queue = checked(LIBC.msgget(number, 0), "msgget")
        message = ctypes.create_string_buffer(64)
        checked(LIBC.msgrcv(queue, message, 32, 0, 0o4000), "msgrcv")
        LIBC.msgctl(queue, 0, None)
        return message.raw[8:14]

    world.inside(leave, number, sandbox=world.neighbour)
    return world.inside(take, number)


@pytest.mark.linux
@attack("strangers", without="ipc-namespace")
def test_a_neighbours_posix_queue_is_opened(world, number):
    def leave(number):
        checked(LIBC.mq_open(b"/%d" % number, os.O_CREAT | os.O_RDWR, 0o666, None), "mq_open")
        return "left"

    def take(number):
        checked(LIBC.mq_open(b"/%d" % number, os.O_RDONLY), "mq_open")
        LIBC.mq_unlink(b"/%d" % number)
        return "a queue of a neighbour's"

    world.inside(leave, number, sandbox=world.neighbour)
    return world.inside(take, number)


@pytest.mark.linux
@attack("strangers", without="network-namespace")
def test_a_neighbours_abstract_socket_is_connected_to(world, number):
    program = f"""
import socket, time
one = socket.socket(socket.AF_UNIX)
one.bind("\\0-{number}")
one.listen()
print("listens", flush=True)
one.settimeout(20)
one.accept()[0].send(b"secret")
"""
    world.neighbour.files.write("/tmp/listen.py", program)
    listening = world.neighbour.commands.run("python3 -u /tmp/listen.py", background=True)
    next(iter(listening))

    def attempt(number):
        import socket

        with socket.socket(socket.AF_UNIX) as one:
            one.connect(f"\0-{number}")
            return one.recv(6)

    try:
        return world.inside(attempt, number)
    finally:
        listening.kill()


@pytest.mark.linux
@attack("strangers", without="pid-namespace")
def test_processes_of_others_are_seen(world):
    waiting = world.neighbour.commands.run("sleep 61.25", background=True)

    def attempt():
        lines = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                lines.append(open(f"/proc/{pid}/cmdline").read().split("\0"))
            except OSError:
                continue  # It has ended meanwhile.
        return [line for line in lines if "serve" in line or "61.25" in line]

    try:
        return world.inside(attempt)
    finally:
        waiting.kill()


@pytest.mark.linux
@pytest.mark.local("looks at the processes of a sandbox")
@attack("strangers", without="pid-namespace")
def test_processes_of_a_neighbour_are_reached_by_their_numbers(world):
    host = processes_of(world.neighbour.sandbox_id)
    assert host

    def attempt(host):
        def is_ours(pid):
            """Numbers that this sandbox has given out itself are its own processes'; those of
            others belong to nobody who is known here."""
            try:
                return os.stat(f"/proc/{pid}").st_uid != 65534
            except FileNotFoundError:
                return False

        for pid in (pid for pid in host if not is_ours(pid)):
            ways = {
                "kill": lambda: os.kill(pid, 0),
                "ptrace": lambda: call("ptrace", 16, pid, 0, 0),
                "pidfd_open": lambda: call("pidfd_open", pid, 0),
                "prlimit": lambda: checked(LIBC.prlimit(pid, 7, None, None), "prlimit"),
                "sched_getaffinity": lambda: os.sched_getaffinity(pid),
            }
            for name, way in ways.items():
                try:
                    way()
                except OSError:
                    continue
                return f"{pid} by {name}"

    return world.inside(attempt, host)


@attack("strangers", nothing_without="pid namespace and ids; without either it would end the host")
def test_a_signal_to_everybody_reaches_a_neighbour(world):
    waiting = world.neighbour.commands.run("sleep 60", background=True)
    with world.another() as sandbox:
        with contextlib.suppress(CommandExitException):
            sandbox.commands.run("kill -9 -1", user="root")
    alive = world.neighbour.commands.run(f"kill -0 {waiting.pid}; echo $?").stdout
    waiting.kill()
    return alive != "0\n" and "the neighbour's process"


@pytest.mark.parametrize(
    "directory",
    ["/tmp", "/var/tmp", "/home/user"]
    + [pytest.param(path, marks=pytest.mark.linux) for path in ("/dev/shm", "/run")],
)
@attack("strangers", nothing_without="their files are on layers of their own, as those of the dead")
def test_a_file_of_a_neighbours_is_seen(world, directory):
    name = f"{directory}/{secrets.token_hex(8)}"
    world.neighbour.files.write(name, "secret", user="root")
    try:
        return world.attacker.files.read(name, user="root")
    except NotFoundException as error:
        raise Held(str(error)) from error


@pytest.mark.linux
@attack("strangers", nothing_without="each is counted against a user of its own")
def test_what_the_kernel_counts_per_user_is_used_up_for_a_neighbour(world):
    def use_up():
        import resource
        import time

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for turn in range(20_000):
            if LIBC.inotify_init() < 0:
                # It is not descriptors that there are no more of.
                os.close(os.dup(1))
                say(f"used up after {turn}")
                time.sleep(30)
                return

    def one_more():
        return checked(LIBC.inotify_init(), "inotify_init") >= 0 and "one"

    with world.while_inside(use_up) as said:
        assert said.startswith("used up"), said
        try:
            world.inside(one_more, sandbox=world.neighbour)
        except Held as error:
            return f"none is left for the neighbour: {error}"


# --- keys


@pytest.mark.linux
@pytest.mark.local("has a key of its own")
@attack("no-keys", without=("system-calls", "keyring"))
def test_the_keys_of_who_started_the_gateway_are_searched(world, host_key):
    def attempt(description):
        found = call("keyctl", 10, -3, b"user", description, 0)
        buffer = ctypes.create_string_buffer(64)
        length = call("keyctl", 11, found, buffer, 64)
        return buffer.raw[:length]

    return world.inside(attempt, host_key)


@pytest.mark.linux
@attack("no-keys", without="system-calls")
def test_a_key_is_kept_where_the_kernel_keeps_them(world):
    def attempt():
        return call("add_key", b"user", b"mine", b"secret", 6, -2) > 0 and "a key"

    return world.inside(attempt, user="user")


# --- after the end


PLACES = ["/tmp/left", "/home/user/left", "/root/left", "/var/tmp/left", "/etc/left", "/opt/left"]


@attack("nothing-persists", without="layer")
def test_files_of_a_dead_sandbox_are_read_by_the_next(world):
    secret = secrets.token_hex(16)
    with world.another() as dead:
        for place in PLACES:
            dead.files.write(place, secret, user="root")

    def attempt(places, secret):
        return [path for path in places if os.path.exists(path) and open(path).read() == secret]

    with world.another() as following:
        return world.inside(attempt, PLACES, secret, sandbox=following)


@attack("nothing-persists", without="ipc-namespace")
def test_shared_memory_of_a_dead_sandbox_is_attached_by_the_next(world, number):
    def leave(number):
        return checked(LIBC.shmget(number, 4096, 0o1666), "shmget") >= 0 and "left"

    def take(number):
        shared = checked(LIBC.shmget(number, 0, 0), "shmget")
        LIBC.shmctl(shared, 0, None)
        return f"memory {shared}"

    with world.another() as dead:
        world.inside(leave, number, sandbox=dead)
    with world.another() as following:
        return world.inside(take, number, sandbox=following)


@pytest.mark.linux
@pytest.mark.parametrize("place", ["/dev/shm/left", "/run/left"])
@attack("nothing-persists", nothing_without="memory and mounts end with their namespaces")
def test_what_was_only_in_memory_is_read_by_the_next(world, place):
    with world.another() as dead:
        dead.files.write(place, "secret", user="root")
    with world.another() as following:
        return following.files.exists(place, user="root") and place


@pytest.mark.linux
@attack("nothing-persists", nothing_without="the kernel gives no block out that it has not emptied")
def test_blocks_of_a_dead_sandbox_are_found_in_new_files(world):
    mark = secrets.token_hex(32)
    with world.another() as dead:
        dead.commands.run(f"yes {mark} | head -c 30M > /home/user/left")

    def attempt(mark):
        with open("/home/user/new", "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, 40 << 20)
            return mark.encode() in file.read() and "a block of another's"

    with world.another() as following:
        return world.inside(attempt, mark, sandbox=following)


@pytest.mark.local("looks at the processes of a sandbox")
@attack("nothing-persists", nothing_without="its whole cgroup is killed, and its namespace")
def test_a_process_outlives_its_sandbox(world):
    with world.another() as dead:
        stubborn = "trap '' TERM HUP INT; while :; do sleep 1; done"
        dead.commands.run(f'setsid sh -c "{stubborn}" >/dev/null 2>&1 &', user="root")
        assert processes_of(dead.sandbox_id, "user")
    return processes_of(dead.sandbox_id)


@attack("nothing-persists", nothing_without="what is in the pool was never anybody's")
def test_a_sandbox_of_the_pool_has_something_of_a_dead_one(world, pooled):
    secret = secrets.token_hex(16)
    for turn in range(3):
        with pooled.another() as sandbox:
            kept = sandbox.commands.run(f"cat {' '.join(PLACES)} 2>/dev/null; true").stdout
            if secret in kept:
                return f"files of the one before, at turn {turn}"
            for place in PLACES:
                sandbox.files.write(place, secret, user="root")
            environment = sandbox.commands.run("cat /proc/1/environ; env", user="root")
            assert secret not in environment.stdout
