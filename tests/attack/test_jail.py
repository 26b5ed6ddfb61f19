"""Out of a jail: what FreeBSD's kernel lets nobody do who is in one, and root in it neither.

Jails have no switches by which walls come down: what keeps root in one from all of this is the list
of what he may do (`prison_priv_check`, sys/kern/kern_jail.c) and the parameters that a jail is made
with. What of it could do harm on a host where it succeeds is asked for in a way that cannot.
"""

import secrets

import pytest

from attack import attack

pytestmark = pytest.mark.freebsd
KERNEL = "it is the kernel's own list of what root in a jail may do"
PARAMETERS = "a jail cannot change how it was made"

# --- files and mounts


@attack("no-host-files", nothing_without=KERNEL)
def test_a_file_is_opened_by_its_number_on_the_disk(world):
    def attempt():
        handle = ctypes.create_string_buffer(64)
        libc("getfh", b"/", handle)
        return f"a handle, {handle.raw[:28].hex()}"

    return world.inside(attempt)


@attack(
    "no-host-files",
    nothing_without="what leads out of a root is closed when a jail is entered",
)
def test_a_directory_that_was_left_open_leads_out(world):
    def attempt():
        # Its own: what envd holds is not told, see below.
        found, root = [], os.stat("/")
        for fd in range(256):
            try:
                os.fchdir(fd)
            except OSError:
                continue
            for _ in range(64):
                os.chdir("..")
            if not os.path.samestat(os.stat("."), root):
                found.append(os.listdir("."))
        return found

    return world.inside(attempt)


@pytest.mark.parametrize("kind", ["tmpfs", "procfs", "devfs", "fdescfs", "nullfs"])
@attack("no-mounts", nothing_without=PARAMETERS)
def test_root_mounts_something(world, kind):
    def attempt(kind):
        options = {
            "fstype": kind,
            "fspath": "/mnt",
            "from": "/" if kind == "nullfs" else kind,
        }
        if kind == "nullfs":
            options["target"] = "/"
        nmount(options)
        LIBC.unmount(b"/mnt", 0x80000)
        return f"a {kind} of its own"

    return world.inside(attempt, kind)


@pytest.mark.parametrize("path", ["/", "/dev", "/usr", "/bin"])
@attack("no-mounts", nothing_without=PARAMETERS)
def test_root_makes_what_is_mounted_writable_or_takes_it_away(world, path):
    def attempt(path):
        update, force = 0x10000, 0x80000
        done = []
        for kind in ("nullfs", "zfs", "tmpfs", "devfs", "ufs"):
            try:
                nmount({"fstype": kind, "fspath": path, "noro": None}, update)
                done.append(f"updated as {kind}")
            except OSError:
                pass
        # Without its root it could not tell.
        if path != "/" and LIBC.unmount(path.encode(), force) == 0:
            done.append("unmounted")
        return done

    with world.another() as sandbox:
        return world.inside(attempt, path, sandbox=sandbox)


@attack("no-mounts", nothing_without="how a file system is bounded is not a jail's to say")
def test_root_sets_quotas(world):
    def attempt():
        turn_on = 0x0100 << 8
        return permitted("quotactl", b"/", turn_on, 0, b"/nowhere")

    return world.inside(attempt)


# --- jails


@pytest.mark.parametrize("flags", [1, 5], ids=["made", "made and entered"])
@attack("no-namespaces", nothing_without="children.max is 0")
def test_a_jail_is_made_in_the_jail(world, flags):
    def attempt(flags):
        # Without an address list there is no need to know which networks there are.
        number = jail_set({"path": "/", "name": "inner", "persist": None}, flags)
        LIBC.jail_remove(number)
        return f"jail {number}"

    return world.inside(attempt, flags)


@attack("no-namespaces", nothing_without=PARAMETERS)
def test_a_jail_allows_itself_more(world):
    def attempt():
        own = int.from_bytes(setting("security.jail.jailed")[:4], "little")
        assert own == 1
        done = []
        for jid in range(1, 1000):
            for more in (
                "allow.mount",
                "allow.raw_sockets",
                "allow.chflags",
                "allow.mlock",
            ):
                try:
                    jail_set({"jid": jid, more: None}, 2)
                    done.append((jid, more))
                except OSError:
                    pass
        return done

    return world.inside(attempt)


@attack("strangers", nothing_without="of jails a jail sees those in it alone")
def test_another_jail_is_found_entered_or_ended(world):
    neighbour = f"coppice-{world.neighbour.sandbox_id}"

    def attempt(neighbour):
        done = []
        for jid in range(1, 1000):
            if LIBC.jail_attach(jid) == 0:
                done.append(f"entered {jid}")
        name = {"name": neighbour, "host.hostname": "x" * 64}
        given = vector(name)
        if LIBC.jail_get(given, len(given), 0) > 0:
            done.append("found by its name")
        given = vector({"lastjid": 0})
        if LIBC.jail_get(given, len(given), 0) > 0:
            done.append("one is found by its number")
        return done

    # Whoever has left his jail cannot tell of it.
    with world.another() as sandbox:
        return world.inside(attempt, neighbour, sandbox=sandbox)


# --- devices


@attack("no-devices", nothing_without="the ruleset of its devfs hides all others")
def test_a_device_of_the_hosts_is_in_devfs(world):
    def attempt():
        known = {"null", "zero", "full", "random", "urandom", "tty", "ctty", "ptmx"}
        known |= {"stdin", "stdout", "stderr"}
        found = set(os.listdir("/dev")) - known - {"fd", "pts"}
        hidden = (
            "mem kmem io pci bpf bpf0 pf zfs fuse klog mdctl ada0 da0 nda0 vtbd0 kbd0 consolectl"
        )
        for name in hidden.split():
            # What is hidden is not opened by its name either.
            if os.path.exists(f"/dev/{name}"):
                found.add(name)
        return found

    return world.inside(attempt)


@pytest.mark.parametrize("kind", [0o020000, 0o060000], ids=["character", "block"])
@attack("no-devices", nothing_without=KERNEL)
def test_root_makes_a_device(world, kind):
    def attempt(kind):
        os.mknod("/tmp/device", kind | 0o666, os.makedev(2, 0))
        return "a device node"

    return world.inside(attempt, kind)


@attack("no-devices", nothing_without="rules are set outside of jails alone")
def test_root_shows_itself_a_device(world):
    def attempt():
        import fcntl

        # DEVFSIO_SUSE and DEVFSIO_SAPPLY, <fs/devfs/devfs.h>: another ruleset, and now.
        done = []
        for request in (0x8002440A, 0x8002440B):
            try:
                fcntl.ioctl(os.open("/dev", os.O_RDONLY), request, (0).to_bytes(2, "little"))
                done.append(hex(request))
            except OSError:
                pass
        return done

    return world.inside(attempt)


# --- the kernel's settings

# None of a jail's own stack: each is given the value that it has, so that nothing changes.
SETTINGS = [
    "kern.corefile",
    "kern.hostname",
    "kern.ipc.shmmax",
    "kern.maxfiles",
    "kern.racct.rctl.throttle_max",
    "kern.securelevel",
    "kern.timecounter.hardware",
    "security.bsd.see_other_uids",
    "vfs.usermount",
    "vm.overcommit",
]


@pytest.mark.parametrize("name", SETTINGS)
@attack("no-host-settings", nothing_without=KERNEL)
def test_a_setting_of_the_kernel_is_set(world, name):
    def attempt(name):
        value = setting(name)
        if name == "kern.securelevel":
            assert value[:4] == (3).to_bytes(4, "little"), value
            value = (-1).to_bytes(4, "little", signed=True)
        setting(name, value)
        return f"{name} as it was, {value[:40]}"

    return world.inside(attempt, name)


# Each is wrong in what it asks for, or asks for what is so already.
CALLS = {
    "acct": (b"/nowhere",),
    "auditctl": (b"/nowhere",),
    "kenv": (1, b"coppice.attack", b"1", 2),
    "kldload": (b"nothing",),
    "kldunload": (-1,),
    "mlock": (0x1000, 4096),
    "rctl_add_rule": (b"nothing", 8, 0, 0),
    "rctl_get_racct": (b"user:0:", 8, 0, 0),
    "sethostname": (b"x", 1),
    "swapon": (b"/nowhere",),
    "swapoff": (b"/nowhere",),
}


@pytest.mark.parametrize("name", CALLS)
@attack("few-calls", nothing_without=KERNEL)
def test_a_call_that_is_the_hosts_alone_is_answered(world, name):
    def attempt(name, arguments):
        return permitted(name, *arguments)

    return world.inside(attempt, name, CALLS[name])


@attack("no-host-settings", nothing_without=KERNEL)
def test_root_sets_the_clock(world):
    def attempt():
        import time

        time.clock_settime(time.CLOCK_REALTIME, time.time())
        return "the clock, to what it was"

    return world.inside(attempt)


@attack("no-host-settings", nothing_without=KERNEL)
def test_root_runs_before_all_others(world):
    def attempt():
        # RTP_SET, of itself, to RTP_PRIO_REALTIME.
        wanted = (ctypes.c_ushort * 2)(2, 31)
        libc("rtprio", 1, 0, wanted)
        return "a process of real time"

    return world.inside(attempt)


@attack("no-host-settings", nothing_without="allow.chflags is off, and the securelevel 3")
def test_root_makes_a_file_that_nobody_can_remove(world):
    def attempt():
        open("/tmp/stays", "w").close()
        libc("chflags", b"/tmp/stays", 0x00020000)
        return "a file that is schg"

    return world.inside(attempt)


# --- what is told


@attack("host-not-told", nothing_without="enforce_statfs is 2")
def test_what_is_mounted_tells_where_the_host_keeps_things(world):
    def attempt():
        import subprocess

        listed = subprocess.run(["mount", "-p"], capture_output=True, text=True).stdout
        places = [line.split()[1] for line in listed.splitlines()]
        return [place for place in places if place != "/"]

    return world.inside(attempt)


@attack("host-not-told", nothing_without="allow.read_msgbuf is off")
def test_the_kernels_messages_are_read(world):
    def attempt():
        return setting("kern.msgbuf")[:80]

    return world.inside(attempt)


@attack("host-not-told", nothing_without="there is no kvm(3) without /dev/mem")
def test_the_kernels_memory_is_opened(world):
    def attempt():
        return [open(name, "rb").read(1) for name in ("/dev/kmem", "/dev/mem")]

    return world.inside(attempt)


# --- processes

ABOUT = {
    "arguments": 7,
    "program": 12,
    "memory": 32,
    "files": 33,
    "environment": 35,
    "vector": 36,
}


@attack("strangers", nothing_without="of processes a jail sees its own")
def test_processes_of_others_are_listed(world):
    waiting = world.neighbour.commands.run("sleep 61.25", background=True)

    def attempt():
        import subprocess

        listed = subprocess.run(["ps", "axwwo", "pid,command"], capture_output=True, text=True)
        lines = listed.stdout.splitlines()
        assert any("ps axwwo" in line for line in lines), listed
        return [line for line in lines if "61.25" in line or " serve" in line]

    try:
        return world.inside(attempt)
    finally:
        waiting.kill()


@attack("strangers", nothing_without="of processes a jail sees its own")
def test_a_process_of_a_neighbours_is_reached_by_its_number(world):
    """Numbers are the host's: that of a neighbour's means his process everywhere."""
    waiting = world.neighbour.commands.run("echo $$; exec sleep 61", background=True)
    number = int(next(iter(waiting))[0])

    def attempt(number, about):
        ways = {
            "kill": lambda: os.kill(number, 0),
            "killpg": lambda: os.killpg(number, 0),
            "ptrace": lambda: libc("ptrace", 10, number, 0, 0),
            "procctl": lambda: libc("procctl", 0, number, 7, (ctypes.c_int * 1)(1)),
            "getpriority": lambda: os.getpriority(os.PRIO_PROCESS, number),
            "getpgid": lambda: os.getpgid(number),
            "getsid": lambda: os.getsid(number),
            "rtprio": lambda: libc("rtprio", 0, number, (ctypes.c_ushort * 2)()),
            "ktrace": lambda: libc("ktrace", b"/tmp/trace", 0, 2, number),
        }
        open("/tmp/trace", "w").close()
        for what, kind in about.items():
            ways[what] = lambda kind=kind: setting([1, 14, kind, number])
        done = []
        for name, way in ways.items():
            try:
                way()
                done.append(name)
            except OSError:
                pass
        return done

    try:
        return world.inside(attempt, number, ABOUT)
    finally:
        waiting.kill()


@attack("envd-unreadable", nothing_without="envd has said to the kernel that nobody may")
def test_envd_is_traced(world):
    def attempt():
        number = envd()
        libc("ptrace", 10, number, 0, 0)
        os.waitpid(number, 0)
        libc("ptrace", 11, number, 1, 0)
        return f"envd, {number}, was stopped by a tracer"

    return world.inside(attempt)


@pytest.mark.parametrize("what", ["memory", "files", "environment", "vector"])
@attack("envd-unreadable", nothing_without="envd has said to the kernel that nobody may")
def test_the_kernel_tells_of_envd(world, what):
    def attempt(kind):
        return setting([1, 14, kind, envd()])[:80]

    return world.inside(attempt, ABOUT[what])


# --- memory that is shared by its name


@attack("strangers", nothing_without="names of shared memory are below a jail's root")
def test_posix_memory_of_a_neighbours_is_opened(world):
    name = f"/{secrets.token_hex(8)}"

    def leave(name):
        shared = libc("shm_open", name.encode(), os.O_CREAT | os.O_RDWR, 0o666)
        os.ftruncate(shared, 4096)
        os.pwrite(shared, b"secret", 0)
        return "left"

    def take(name):
        return os.pread(libc("shm_open", name.encode(), os.O_RDWR, 0), 6, 0)

    world.inside(leave, name, sandbox=world.neighbour)
    return world.inside(take, name)


@attack("nothing-persists", nothing_without="names of shared memory end with their jail")
def test_posix_memory_of_a_dead_sandbox_is_opened_by_the_next(world):
    name = f"/{secrets.token_hex(8)}"

    def leave(name):
        return libc("shm_open", name.encode(), os.O_CREAT | os.O_RDWR, 0o666) >= 0 and "left"

    def take(name):
        return libc("shm_open", name.encode(), os.O_RDWR, 0) >= 0 and "the memory of a dead one"

    with world.another() as dead:
        world.inside(leave, name, sandbox=dead)
    with world.another() as following:
        return world.inside(take, name, sandbox=following)


# --- the network, of which a jail has a stack of its own and may do with it what it likes


@attack("no-inner-networks", nothing_without="rules of the packet filter are the host's")
def test_the_packet_filter_is_reached_from_a_jail(world):
    def attempt():
        return [name for name in ("/dev/pf", "/dev/bpf", "/dev/bpf0") if os.path.exists(name)]

    return world.inside(attempt)


@attack(
    "no-inner-networks",
    nothing_without="the host's end of a link takes nothing for itself",
)
def test_the_hosts_own_end_of_the_link_is_reached(world):
    def attempt():
        import socket
        import subprocess

        shown = subprocess.run(["route", "-n", "get", "default"], capture_output=True, text=True)
        gateway = [line.split()[1] for line in shown.stdout.splitlines() if "gateway:" in line]
        if not gateway:
            return None
        reached = []
        for port in (22, 53, 80, 111, 443, 2049, 3000):
            try:
                socket.create_connection((gateway[0], port), 2).close()
                reached.append(port)
            except ConnectionRefusedError:
                reached.append(f"{port}, which refuses")
            except OSError:
                pass
        return reached

    return world.inside(attempt, timeout=30)


# --- what a sandbox can use up


@attack(
    "limits",
    nothing_without="rctl(8) is tried where a gateway of one's own can be without it",
)
def test_a_fork_bomb_in_a_jail(world):
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

    import time

    with world.another() as sandbox:
        command = world.command(attempt)
        sandbox.commands.run(command, user="root", background=True, timeout=0).disconnect()
        for _ in range(5):
            began = time.monotonic()
            assert world.neighbour.commands.run("echo calm").stdout == "calm\n"
            if (took := time.monotonic() - began) > 30:
                return f"a neighbour waited {took:.0f} s"
        began = time.monotonic()
        sandbox.kill()
        if (took := time.monotonic() - began) > 30:
            return f"it took {took:.0f} s to end"
