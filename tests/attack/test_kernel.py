"""The kernel's calls that code in a sandbox has no business with."""

from pathlib import Path

import pytest

from attack import attack

pytestmark = pytest.mark.linux

# Each is harmless where it is let through: what is asked for cannot be, and the kernel's own
# refusal of it is the evidence that its code was reached.
REFUSED = {
    "acct": (b"/nowhere",),
    "add_key": (b"user", b"name", b"secret", 6, -3),
    "bpf": (0, 0, 0),
    "clock_settime": (99, 0),
    "delete_module": (b"nothing", 0),
    "fanotify_init": (-1, 0),
    "finit_module": (-1, b"", 0),
    "fsmount": (-1, 0, 0),
    "fsopen": (b"nothing", 0),
    "init_module": (0, 0, b""),
    "io_uring_setup": (0, 0),
    "kcmp": (1, 1, 0, 0, 0),
    "kexec_load": (0, 0, 0, 1),
    "keyctl": (0, -3, 0),
    "mount": (b"nothing", b"/mnt", b"nothing", 0, 0),
    "mount_setattr": (-1, b"", 0, 0, 0),
    "move_mount": (-1, b"", -1, b"", 0),
    "open_by_handle_at": (-1, 0, 0),
    "open_tree": (-1, b"", 0),
    "perf_event_open": (0, 0, -1, -1, 0),
    "pidfd_getfd": (-1, -1, 0),
    "pivot_root": (b"/nowhere", b"/nowhere"),
    "process_madvise": (-1, 0, 0, 0, 0),
    "quotactl": (-1, 0, 0, 0),
    "reboot": (1, 2, 3, 0),
    "request_key": (b"user", b"name", 0, 0),
    "setdomainname": (b"", -1),
    "sethostname": (b"", -1),
    "setns": (-1, 0),
    "settimeofday": (0, 0),
    "swapon": (b"/nowhere", 0),
    "syslog": (99, 0, 0),
    "umount2": (b"/nowhere", 0),
    "unshare": (0,),
    "userfaultfd": (-1,),
}
# Where the kernel has not got them either there is nothing to reach: what is there if it has.
SIGNS = {
    "delete_module": "/proc/modules",
    "finit_module": "/proc/modules",
    "init_module": "/proc/modules",
    "kexec_load": "/sys/kernel/kexec_loaded",
}


@pytest.mark.parametrize("name", REFUSED)
@attack("few-calls", without="system-calls")
def test_a_call_reaches_the_kernel(world, name):
    def attempt(name, arguments):
        return known(name, *arguments)

    if world.down and not Path(SIGNS.get(name, "/")).exists():
        pytest.skip("this host's kernel was built without it")
    return world.inside(attempt, name, REFUSED[name])
