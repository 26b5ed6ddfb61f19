"""Calls that are there, with arguments that would have the kernel do more than a sandbox needs."""

import ctypes
import os
import secrets
import socket
from pathlib import Path

import pytest

from attack import attack

pytestmark = pytest.mark.linux

# Family, type and protocol of what a kernel of our time has, or would load a module for.
PROTOCOLS = {
    "MPTCP": (socket.AF_INET, socket.SOCK_STREAM, 262),
    "MPTCP of IPv6": (socket.AF_INET6, socket.SOCK_STREAM, 262),
    "UDP-Lite": (socket.AF_INET, socket.SOCK_DGRAM, 136),
    "DCCP": (socket.AF_INET, 6, 0),
    "SCTP": (socket.AF_INET, socket.SOCK_SEQPACKET, 132),
    "a stream of UDP": (socket.AF_INET, socket.SOCK_STREAM, 17),
    "IPsec": (socket.AF_NETLINK, socket.SOCK_RAW, 6),
    "audit": (socket.AF_NETLINK, socket.SOCK_RAW, 9),
    "netfilter": (socket.AF_NETLINK, socket.SOCK_RAW, 12),
    "generic netlink": (socket.AF_NETLINK, socket.SOCK_RAW, 16),
    "ciphers": (socket.AF_NETLINK, socket.SOCK_RAW, 21),
}
REFUSED = 93  # EPROTONOSUPPORT


def of_the_kernel(way, *arguments):
    """What the kernel itself has to say to somebody who asks for a socket, if anything."""
    try:
        getattr(socket, way)(*arguments)
    except OSError as error:
        return error.errno != REFUSED and str(error)
    return "a socket"


def asked_for(way, refused, arguments):
    """Run inside."""
    import socket

    try:
        getattr(socket, way)(*arguments)
    except OSError as error:
        if error.errno == refused:
            raise
        return f"the kernel's own answer: {error}"
    return "a socket"


@pytest.mark.parametrize("flags", [0, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK], ids=hex)
@pytest.mark.parametrize("name", PROTOCOLS)
@attack("few-calls", without="system-calls")
def test_a_protocol_that_nobody_needs_is_had(world, name, flags):
    family, kind, protocol = PROTOCOLS[name]
    arguments = family, int(kind) | flags, protocol
    if world.down and not of_the_kernel("socket", *arguments):
        pytest.skip("this host's kernel says the same of it")
    return world.inside(asked_for, "socket", REFUSED, tuple(map(int, arguments)))


@pytest.mark.parametrize(
    "family", [2, 15, 16, 21, 29, 30, 38, 40], ids="INET KEY NETLINK RDS CAN TIPC ALG VSOCK".split()
)
@attack("few-calls", without="system-calls")
def test_a_pair_of_sockets_of_a_family_that_nobody_needs_is_made(world, family):
    """The kernel loads the family's module, and makes the sockets, before it says that there are no
    pairs of it."""
    return world.inside(asked_for, "socketpair", REFUSED, (family, 5, 0))


@pytest.mark.parametrize("world", [()], ids=["held"], indirect=True)
def test_the_protocols_that_are_in_use_are_there(world):
    def attempt():
        import socket

        for family, its_icmp in ((socket.AF_INET, 1), (socket.AF_INET6, 58)):
            for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK):
                for protocol in (0, 6):
                    socket.socket(family, socket.SOCK_STREAM | flags, protocol).close()
                for protocol in (0, 17):
                    socket.socket(family, socket.SOCK_DGRAM | flags, protocol).close()
                for protocol in (its_icmp, 17, 255):
                    socket.socket(family, socket.SOCK_RAW | flags, protocol).close()
        for protocol in (0, 4, 15):
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol).close()
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            for one in socket.socketpair(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC):
                one.close()
        return "all of them"

    assert world.inside(attempt) == "all of them"


# --- what the host has to write


NR_CACHESTAT = 451


def dirty(file):
    """Pages of it that its disk has not got, or `None` where the kernel does not tell."""

    class Range(ctypes.Structure):
        _fields_ = [("offset", ctypes.c_uint64), ("length", ctypes.c_uint64)]

    told = (ctypes.c_uint64 * 5)()
    libc = ctypes.CDLL(None, use_errno=True)
    asked = libc.syscall(
        NR_CACHESTAT, file.fileno(), ctypes.byref(Range(0, 0)), ctypes.byref(told), 0
    )
    return told[1] if asked == 0 else None


@attack("limits", without="system-calls")
def test_a_sync_writes_out_what_all_of_the_host_has_to_write(world):
    def attempt():
        os.sync()
        return "through"

    path = Path("/var/tmp", f"{secrets.token_hex(8)}.dirty")
    try:
        # Whoever else is on the host may ask for the same meanwhile, but not each time.
        for _ in range(3):
            with path.open("wb") as file:
                file.write(bytes(1 << 20))
                file.flush()
                if not dirty(file):
                    pytest.skip("this host does not tell what of a file is to be written")
                assert world.inside(attempt) == "through"
                if dirty(file):
                    return None
    finally:
        path.unlink()
    return "a file of the host's was written out"


# --- devices, whose nodes are a sandbox's own


@attack("strangers", nothing_without="the host's devices are other inodes")
def test_it_hears_of_a_device_that_the_host_opens(world):
    def listen():
        """Of one that nobody inside opens, until one is opened there, which it has to hear."""
        import struct

        events = checked(LIBC.inotify_init(), "inotify_init")
        others = checked(LIBC.inotify_add_watch(events, b"/dev/full", 0x20), "inotify_add_watch")
        own = checked(LIBC.inotify_add_watch(events, b"/dev/zero", 0x20), "inotify_add_watch")
        say("listening")
        heard = set()
        while own not in heard:
            heard.add(struct.unpack_from("=i", os.read(events, 16))[0])
        with open("/tmp/heard.part", "w") as file:
            file.write(str(others in heard))
        os.rename("/tmp/heard.part", "/tmp/heard")

    def tell_it():
        import time

        end = time.monotonic() + 15
        while time.monotonic() < end and not os.path.exists("/tmp/heard"):
            open("/dev/zero").close()
            time.sleep(0.05)
        return open("/tmp/heard").read()

    with world.another() as sandbox, world.while_inside(listen, sandbox=sandbox):
        open("/dev/full").close()
        heard = world.inside(tell_it, sandbox=sandbox)
    assert heard in ("True", "False")
    return heard == "True" and "who on the host opens /dev/full"


@attack("strangers", nothing_without="each has a file system of its own for them")
def test_a_device_is_locked_for_a_neighbour(world):
    def lock():
        import fcntl
        import time

        held = os.open("/dev/full", os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        say("locked")
        time.sleep(30)

    def lock_too():
        import fcntl

        try:
            fcntl.flock(os.open("/dev/full", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "a lock"
        return "none"

    with world.while_inside(lock):
        assert world.inside(lock_too) == "a lock"
        return (
            world.inside(lock_too, sandbox=world.neighbour) == "a lock" and "its neighbour's lock"
        )
