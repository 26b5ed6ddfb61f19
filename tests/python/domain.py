"""A domain of the run's own, for `--tls`: names by dnsmasq, a private certificate, and no trace of
either on the host.

The names are only known in a mount namespace that the tests enter, where /etc/resolv.conf is
another file. What `coppice tls dev-ca` prints is not only looked at: its lines are what the
gateway, dnsmasq and the SDK are set up with.
"""

import copy
import ctypes
import os
import random
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import gateway
from gateway import coppice, free_port

NAME = "sbx.example.test"
CLONE_NEWNS = 0x20000


class Domain:
    def __init__(self):
        self.base = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
        self.given = f"{NAME}:{free_port()}"
        said = self.renew().splitlines()
        (serve,) = [line for line in said if line.startswith("coppice serve ")]
        self.flags = shlex.split(serve)[2:]
        exports = [line.removeprefix("export ") for line in said if line.startswith("export ")]
        self.settings = dict(line.split("=", 1) for line in exports)
        (self.names,) = [line for line in said if line.startswith("address=")]
        self.dnsmasq = None

    def another(self):
        """The same names and certificate, for a gateway at a port of its own."""
        other, port = copy.copy(self), f":{free_port()}"
        before = self.given.removeprefix(NAME)
        other.given = NAME + port
        other.flags = [flag.replace(before, port) for flag in self.flags]
        other.settings = {**self.settings, "E2B_DOMAIN": other.given}
        return other

    def renew(self):
        """A new certificate of the same authority."""
        done = coppice("tls", "dev-ca", self.base / "ca", "--domain", self.given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def ca(self):
        return self.settings["SSL_CERT_FILE"]

    def enter(self):
        """From here on this process, which must have one thread yet, knows the names."""
        resolver = f"127.{random.randrange(1, 255)}.{random.randrange(255)}.53"
        (self.base / "dnsmasq.conf").write_text(self.names + "\n")
        (self.base / "resolv.conf").write_text(f"nameserver {resolver}\n")
        self.dnsmasq = subprocess.Popen(
            ["dnsmasq", "--keep-in-foreground", f"--conf-file={self.base}/dnsmasq.conf"]
            + ["--no-resolv", "--no-hosts", "--user=root", "--pid-file="]
            + ["--bind-interfaces", f"--listen-address={resolver}"]
        )
        outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        # The host's mounts are still seen to come and go, ours are seen by nobody.
        subprocess.run(["mount", "--make-rslave", "/"], check=True)
        mount = ["mount", "--bind", self.base / "resolv.conf", "/etc/resolv.conf"]
        subprocess.run(mount, check=True)
        gateway.OUTSIDE[:] = ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{outside}"]
        deadline = time.monotonic() + 10
        while True:
            try:
                found = socket.getaddrinfo(f"any.{NAME}", 443, proto=socket.IPPROTO_TCP)
                assert {address[4][0] for address in found} == {"127.0.0.1"}, found
                return
            except socket.gaierror:
                assert self.dnsmasq.poll() is None and time.monotonic() < deadline, "no names"
                time.sleep(0.05)

    def remove(self):
        if self.dnsmasq:
            self.dnsmasq.terminate()
            self.dnsmasq.wait()
        shutil.rmtree(self.base)
