"""What root in a sandbox may do, and what for want of capabilities, calls and ids it may not."""

import os
import re
import stat
from pathlib import Path

import pytest
from e2b import PtySize, Sandbox

from attack import SCORE, attack

pytestmark = pytest.mark.linux


# --- a namespace in which all capabilities would be there again


@pytest.mark.parametrize("user", ["user", "root"])
@attack("no-namespaces", without="system-calls")
def test_a_user_namespace_is_unshared(world, user):
    def attempt():
        before = os.readlink("/proc/self/ns/user")
        call("unshare", CLONE_NEWUSER)
        return os.readlink("/proc/self/ns/user") != before and "another user namespace"

    return world.inside(attempt, user=user)


@pytest.mark.parametrize("kind", ["CLONE_NEWUSER", "CLONE_NEWUSER | CLONE_NEWNET"])
@attack("no-namespaces", without="system-calls")
def test_a_process_is_cloned_into_a_namespace(world, kind):
    def attempt(kind):
        before = os.readlink("/proc/self/ns/user")
        child = call("clone", eval(kind) | 17, 0, 0, 0, 0)
        if child == 0:
            os._exit(os.readlink("/proc/self/ns/user") == before)
        return os.waitpid(child, 0)[1] == 0 and "a child in a namespace of its own"

    return world.inside(attempt, kind, user="user")


@attack("no-namespaces", without="system-calls")
def test_a_process_is_cloned_into_a_namespace_by_the_newer_call(world):
    def attempt():
        arguments = (ctypes.c_uint64 * 8)(CLONE_NEWUSER, 0, 0, 0, 17)
        child = call("clone3", ctypes.byref(arguments), ctypes.sizeof(arguments))
        if child == 0:
            os._exit(0)
        return os.waitpid(child, 0)[1] == 0 and "a child in a namespace of its own"

    return world.inside(attempt, user="user")


@attack("no-namespaces", without="system-calls")
def test_a_user_makes_himself_root_and_mounts(world):
    def attempt():
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        call("mount", b"none", b"/mnt", b"tmpfs", 0, 0)
        return "/mnt tmpfs" in open("/proc/self/mounts").read() and "a mount of a plain user's"

    return world.inside(attempt, user="user")


# --- mounts


@attack("no-mounts", without=("system-calls", "capabilities"))
def test_root_mounts_a_file_system(world):
    def attempt():
        call("mount", b"none", b"/mnt", b"tmpfs", 0, 0)
        call("umount2", b"/mnt", 0)
        return "a tmpfs of its own"

    return world.inside(attempt)


@attack("no-mounts", without=("system-calls", "capabilities"))
def test_root_takes_a_mask_away(world):
    def attempt():
        mask = os.stat("/proc/timer_list").st_rdev
        call("umount2", b"/proc/timer_list", 2)
        return os.stat("/proc/timer_list").st_rdev != mask and "what was masked"

    return world.inside(attempt)


@attack("no-mounts", without=("system-calls", "capabilities"))
def test_root_makes_the_settings_writable_again(world):
    def attempt():
        call("mount", 0, b"/proc/sys", 0, MS_REMOUNT | MS_BIND, 0)
        os.close(os.open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY))
        return "/proc/sys writable"

    return world.inside(attempt)


@attack("no-mounts", without=("system-calls", "capabilities"))
def test_root_mounts_the_cgroups(world):
    def attempt():
        call("mount", b"none", b"/mnt", b"cgroup2", 0, 0)
        found = os.listdir("/mnt")
        call("umount2", b"/mnt", 2)
        return "cgroup.procs" in found and "a tree of cgroups"

    return world.inside(attempt)


@attack("no-mounts", nothing_without="cgroups are mounted nowhere, nor is v1 where one is not root")
def test_a_release_agent_is_set(world):
    def attempt():
        for directory, _, names in os.walk("/sys/fs"):
            if "release_agent" in names:
                open(f"{directory}/release_agent", "w").write("/bin/true")
                return directory
        call("mount", b"none", b"/mnt", b"cgroup", 0, b"rdma")
        return "a tree of cgroups v1"

    return world.inside(attempt)


# --- the host's settings


@pytest.mark.parametrize("name", ["kernel/core_pattern", "kernel/modprobe", "vm/overcommit_memory"])
@attack("no-host-settings", without=("masks", "ids"))
def test_a_setting_of_the_hosts_kernel_is_opened_for_writing(world, name):
    def attempt(name):
        # Nothing is written: what stands there is the host's.
        os.close(os.open(f"/proc/sys/{name}", os.O_WRONLY))
        return name

    if not Path("/proc/sys", name).exists():
        pytest.skip("this host's kernel was built without it")
    return world.inside(attempt, name)


@attack("no-host-settings", without=("masks", "ids"))
def test_the_system_request_trigger_is_opened(world):
    def attempt():
        os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
        return not os.path.samestat(os.stat("/proc/sysrq-trigger"), os.stat("/dev/null"))

    if not Path("/proc/sysrq-trigger").exists():
        pytest.skip("this host's kernel was built without it")
    return world.inside(attempt)


@attack("no-host-settings", without=("masks", "ids"))
def test_a_setting_of_its_own_network_is_changed(world):
    """Which would be its own; but hardly anybody has looked at what becomes of it."""

    def attempt():
        os.close(os.open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY))
        return "net/ipv4/ip_forward"

    return world.inside(attempt)


@attack("no-host-settings", nothing_without="it takes a capability in the host's own namespace")
def test_the_clock_is_set(world):
    def attempt():
        return os.system('date -s "$(date)" >/dev/null 2>&1') == 0

    return world.inside(attempt)


@attack("no-host-settings", without="oom-score")
def test_a_sandbox_is_spared_like_its_gateway_when_memory_runs_out(world):
    def attempt(score):
        with open("/proc/self/oom_score_adj") as file:
            return int(file.read()) == score and "the gateway's own score"

    return world.inside(attempt, SCORE)


@attack("no-host-settings", nothing_without="it takes a capability in the host's own namespace")
def test_a_process_makes_itself_the_last_to_be_killed(world):
    def attempt():
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1")
        return "a score below zero"

    return world.inside(attempt)


@attack("no-host-settings", nothing_without="it takes a capability in the host's own namespace")
def test_a_limit_is_raised_above_the_one_it_was_given(world):
    def attempt():
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, 2 * most))
        except ValueError as error:
            raise PermissionError(error) from error
        return resource.getrlimit(resource.RLIMIT_NOFILE)

    return world.inside(attempt)


# --- devices


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK], ids=["character", "block"])
@attack("no-devices", nothing_without="in a user namespace the kernel makes no device at all")
def test_a_device_node_is_made(world, kind):
    def attempt(kind):
        os.mknod("/tmp/device", kind | 0o666, os.makedev(1, 1))
        return "a device node"

    return world.inside(attempt, kind)


@attack("no-devices", nothing_without="six are there, in a file system of its own")
def test_a_device_of_the_hosts_is_there(world):
    def attempt():
        expected = {"full", "null", "random", "tty", "urandom", "zero"}
        found = set()
        for directory, _, names in os.walk("/dev"):
            for name in names:
                mode = os.lstat(f"{directory}/{name}").st_mode
                if (mode & 0o170000) in (0o020000, 0o060000) and directory == "/dev":
                    found.add(name)
        return found - expected

    return world.inside(attempt)


# --- the network's plumbing


@attack("no-network-administration", without=("system-calls", "capabilities"))
def test_packet_filters_are_set_up(world):
    def attempt():
        import socket
        import struct

        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        netlink.settimeout(5)
        get_generation = (10 << 8) | 16
        netlink.send(struct.pack("=IHHIIBBH", 20, get_generation, 5, 1, 0, 0, 0, 0))
        while True:
            answer = netlink.recv(4096)
            kind = struct.unpack_from("=H", answer, 4)[0]
            if kind != 2:
                return "nf_tables answers"
            error = struct.unpack_from("=i", answer, 16)[0]
            if error:
                raise OSError(-error, os.strerror(-error))
            return "nf_tables answers"

    return world.inside(attempt)


@attack("no-network-administration", without="capabilities")
def test_it_gives_itself_another_address(world):
    def attempt():
        import fcntl
        import socket
        import struct

        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        address = socket.inet_aton("127.5.5.5")
        request = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, address)
        fcntl.ioctl(link, 0x8916, request)
        return "an address that it was not given"

    return world.inside(attempt)


@pytest.mark.parametrize(
    "family", [15, 21, 29, 31, 38, 40, 44], ids="KEY RDS CAN BLUETOOTH ALG VSOCK XDP".split()
)
@attack("few-calls", without="system-calls")
def test_a_family_of_sockets_that_nobody_needs_is_had(world, family):
    def attempt(family):
        import socket

        try:
            socket.socket(family, socket.SOCK_RAW)
        except OSError as error:
            if error.errno == 38:
                raise
            return f"the kernel's own answer: {error}"
        return "a socket"

    return world.inside(attempt, family)


@pytest.mark.parametrize("persona", [0x0400000, 0x0040000], ids=["executable memory", "layout"])
@attack("few-calls", without="system-calls")
def test_memory_is_laid_out_to_be_attacked(world, persona):
    def attempt(persona):
        call("personality", persona)
        return call("personality", 0xFFFFFFFF) == persona and "personality changed"

    return world.inside(attempt, persona, user="user")


@attack("few-calls", without="system-calls")
def test_calls_are_made_in_the_way_of_32_bits(world):
    def attempt():
        import mmap

        # mov eax, 20 (getpid there); int 0x80; ret
        code = bytes.fromhex("b814000000cd80c3")
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid() and "a call by int 0x80"

    if world.down and "ia32" not in Path("/proc/kallsyms").read_text():
        pytest.skip("this host's kernel was built without it")
    return world.inside(attempt, may_be_killed=True)


# --- however a process came to be


@pytest.mark.parametrize("user", ["root", "user"])
@attack("few-calls", without=("system-calls", "capabilities"))
def test_a_process_on_a_terminal_is_without_walls(world, user):
    said = []
    command = "grep -E '^(CapBnd|Seccomp):' /proc/self/status; exit\n"
    terminal = world.attacker.pty.create(PtySize(rows=24, cols=120), user=user)
    world.attacker.pty.send_stdin(terminal.pid, command.encode())
    terminal.wait(on_pty=lambda data: said.append(data.decode()))
    return unwalled("".join(said))


@attack("few-calls", without=("system-calls", "capabilities"))
def test_a_process_that_sudo_started_is_without_walls(world):
    command = "sudo grep -E '^(CapBnd|Seccomp):' /proc/self/status"
    return unwalled(world.attacker.commands.run(command).stdout)


@attack("few-calls", without=("system-calls", "capabilities"))
def test_a_sandbox_made_from_another_is_without_walls(world):
    snapshot = world.attacker.create_snapshot()
    try:
        with Sandbox.create(snapshot.snapshot_id, timeout=60, **world.gateway.opts) as sandbox:
            command = "grep -E '^(CapBnd|Seccomp):' /proc/self/status"
            return unwalled(sandbox.commands.run(command, user="root").stdout)
    finally:
        Sandbox.delete_snapshot(snapshot.snapshot_id, **world.gateway.opts)


def unwalled(status):
    """Of the lines of a process's status."""
    filters = re.search(r"Seccomp:\s+(\d)", status)[1]
    capabilities = int(re.search(r"CapBnd:\s+([0-9a-f]+)", status)[1], 16)
    return filters == "0" and capabilities.bit_count() > 14 and status


# --- the first process, which is ours


@attack("envd-unreadable", without=("envd-memory", "capabilities"))
def test_the_first_process_is_traced(world):
    def attempt():
        attach, detach = 16, 17
        call("ptrace", attach, 1, 0, 0)
        os.waitpid(1, 0x40000000)
        call("ptrace", detach, 1, 0, 0)
        return "envd was stopped by a tracer"

    return world.inside(attempt)


@pytest.mark.parametrize("name", ["environ", "maps", "mem", "auxv", "syscall"])
@attack("envd-unreadable", without=("envd-memory", "capabilities"))
def test_a_file_that_tells_of_the_first_process_is_opened(world, name):
    def attempt(name):
        # Linux: as little as a byte may be asked for where nothing is mapped.
        with open(f"/proc/1/{name}", "rb", buffering=0) as file:
            return name == "mem" or file.read(100) is not None and name

    return world.inside(attempt, name)


@attack("envd-unreadable", without=("envd-memory", "capabilities"))
def test_the_descriptors_of_the_first_process_are_reached(world):
    def attempt():
        return os.listdir("/proc/1/fd")

    return world.inside(attempt)


@attack("envd-unreadable", without=("envd-memory", "capabilities"))
def test_its_program_is_copied(world):
    def attempt():
        return len(open("/proc/1/exe", "rb").read(4096)) == 4096 and "envd's program"

    return world.inside(attempt)


@attack("envd-unreadable", nothing_without="the kernel keeps it: pid 1 of a pid namespace")
def test_the_first_process_is_killed_from_inside(world):
    def attempt():
        for signal in (9, 19, 15, 11):
            os.kill(1, signal)
        state = open("/proc/1/stat").read().split()[2]
        return state not in "SRD" and f"envd is {state}"

    return world.inside(attempt)
