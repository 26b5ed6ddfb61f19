"""What attacks have at hand in a sandbox: the kernel's calls by their numbers."""

import ctypes
import errno
import functools
import os
import platform

LIBC = ctypes.CDLL(None, use_errno=True)
# On x86_64, and where most newer systems have them.
NUMBERS = {
    "x86_64": {
        "acct": 163,
        "add_key": 248,
        "adjtimex": 159,
        "bpf": 321,
        "clock_settime": 227,
        "clone": 56,
        "clone3": 435,
        "delete_module": 176,
        "fanotify_init": 300,
        "finit_module": 313,
        "fsmount": 432,
        "fsopen": 430,
        "init_module": 175,
        "io_uring_setup": 425,
        "ioperm": 173,
        "iopl": 172,
        "kcmp": 312,
        "kexec_file_load": 320,
        "kexec_load": 246,
        "keyctl": 250,
        "lookup_dcookie": 212,
        "mbind": 237,
        "mount": 165,
        "mount_setattr": 442,
        "move_mount": 429,
        "move_pages": 279,
        "name_to_handle_at": 303,
        "open_by_handle_at": 304,
        "open_tree": 428,
        "perf_event_open": 298,
        "personality": 135,
        "pidfd_getfd": 438,
        "pidfd_open": 434,
        "pidfd_send_signal": 424,
        "pivot_root": 155,
        "process_madvise": 440,
        "process_vm_readv": 310,
        "ptrace": 101,
        "quotactl": 179,
        "reboot": 169,
        "request_key": 249,
        "setdomainname": 171,
        "sethostname": 170,
        "setns": 308,
        "settimeofday": 164,
        "swapoff": 168,
        "swapon": 167,
        "syslog": 103,
        "umount2": 166,
        "unshare": 272,
        "userfaultfd": 323,
        "vhangup": 153,
    }
}.get(platform.machine(), {})

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096


def call(name, *arguments):
    """A call of the kernel's; numbers, bytes and None."""
    return checked(LIBC.syscall(ctypes.c_long(NUMBERS[name]), *map(passed, arguments)), name)


def passed(argument):
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def checked(result, name):
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{name}: {os.strerror(errno)}")
    return result


def known(name, *arguments):
    """What the kernel itself has to say to a call; that it has not got it is what a filter says."""
    try:
        return f"{name} gave {call(name, *arguments)}"
    except OSError as error:
        if error.errno == 38:
            raise
        return f"the kernel's own answer: {error}"


def say(word):
    """Lets a test know that the attack is on."""
    print(f"@{word}", flush=True)


def tell(attempt, *arguments):
    """Says how an attack ended, on a line of its own."""
    try:
        reached = attempt(*arguments)
    # FreeBSD refuses memory that is asked for.
    except (OSError, MemoryError) as error:
        print(f"\n@HELD {type(error).__name__}: {error}")
    else:
        print(f"\n@REACHED {reached}" if reached else "\n@HELD it reached nothing")


# --- FreeBSD, whose calls have their names in libc


class Iovec(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def libc(name, *arguments):
    return checked(getattr(LIBC, name)(*map(passed, arguments)), f"{name}{arguments}")


def permitted(name, *arguments):
    """What the kernel has to say to a call that whoever may make it has got wrong: that one may
    not is what a jail says."""
    try:
        return f"{name} gave {libc(name, *arguments)}"
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise
        return f"the kernel's own answer: {error}"


def vector(options):
    """Names and values, as nmount(2) and jail_set(2) take them: text, numbers, and None for flags."""
    parts = []
    for name, value in options.items():
        parts.append(name.encode() + b"\0")
        if isinstance(value, int):
            parts.append(value.to_bytes(4, "little"))
        else:
            parts.append(b"" if value is None else value.encode() + b"\0")
    kept = [ctypes.create_string_buffer(part, len(part)) if part else None for part in parts]
    made = [Iovec(ctypes.cast(it, ctypes.c_void_p), len(it)) if it else Iovec() for it in kept]
    whole = (Iovec * len(made))(*made)
    whole.kept = kept
    return whole


def nmount(options, flags=0):
    given = vector(options)
    return checked(LIBC.nmount(given, len(given), flags), f"nmount {options}")


def jail_set(options, flags):
    given = vector(options)
    return checked(LIBC.jail_set(given, len(given), flags), f"jail_set {options}")


def setting(name, value=None):
    """sysctl(3): what it is, or `value` from now on. A name, or the numbers of one."""
    if isinstance(name, str):
        ask = functools.partial(LIBC.sysctlbyname, name.encode())
    else:
        ask = functools.partial(LIBC.sysctl, (ctypes.c_int * len(name))(*name), len(name))
    if value is not None:
        return checked(ask(None, None, value, len(value)), f"setting {name}")
    length = ctypes.c_size_t(1 << 20)
    found = ctypes.create_string_buffer(length.value)
    checked(ask(found, ctypes.byref(length), None, 0), f"reading {name}")
    return found.raw[: length.value]


def envd():
    """Its number: who the orphans of a jail go to, procctl(2)."""
    of_a_process, status, found = 0, 4, (ctypes.c_uint * 20)()
    libc("procctl", of_a_process, os.getpid(), status, found)
    return found[3]
