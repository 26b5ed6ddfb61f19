"""What sandboxes take from the host, and whether all of it was given back."""

import hashlib
import json
import os
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
SLOTS = Path("/run/coppice/slots")
SANDBOX = re.compile("coppice-[0-9a-f]{32}")


@dataclass
class HostState:
    """Kind of thing -> how many there are of each."""

    things: dict[str, Counter]

    @classmethod
    def of(cls, gateway):
        pid = gateway.process.pid if gateway.process else None
        return cls(
            {
                "mount": Counter(_mounts()),
                "cgroup": Counter(_cgroups(gateway)),
                "process": Counter(_processes(gateway)),
                "unix socket": Counter(_unix_sockets(gateway)),
                "directory": Counter(_directories(gateway.data_dir)),
                "network link": Counter(_links(gateway)),
                "nftables entry": Counter(_nftables(gateway)),
                "slot": Counter(map(str, SLOTS.glob("[0-9]*"))),
                "descriptor of the gateway": Counter(_descriptors(pid) if pid else ()),
            }
        )

    def left_over(self, start):
        """What is here and was not at the start, a line each."""
        return [
            f"{kind}: {thing}" + (f" ({count} more)" if count > 1 else "")
            for kind, now in self.things.items()
            for thing, count in (now - start.things[kind]).items()
        ]


def assert_back_to(start, gateway, timeout=10):
    """Waits until nothing is left of what came after `start`."""
    deadline = time.monotonic() + timeout
    while left := HostState.of(gateway).left_over(start):
        if time.monotonic() > deadline:
            raise AssertionError(f"left over after {timeout} s:\n" + "\n".join(sorted(left)))
        time.sleep(0.1)


def processes_of(sandbox_id, part=""):
    """Host pids in a sandbox's cgroups; `part` is `envd` or `user`."""
    wanted = f"coppice-{sandbox_id}" + (f"/{part}" if part else "")
    return [pid for pid in _pids() if wanted in _read(f"/proc/{pid}/cgroup")]


def command_lines():
    """What every process on the host was started with."""
    return [_read(f"/proc/{pid}/cmdline").replace("\0", " ") for pid in _pids()]


def _read(path):
    """A file of a process, empty when the process is gone."""
    try:
        return Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _mounts():
    return _read("/proc/self/mounts").splitlines()


def _parent(gateway):
    """The cgroup that holds those of this gateway's sandboxes; another's may come and go."""
    return "coppice-gw-" + hashlib.sha256(os.fsencode(gateway.data_dir)).hexdigest()[:8]


def _cgroups(gateway):
    parent = _parent(gateway)
    # `os.walk` passes over what goes meanwhile: other gateways' sandboxes come and go.
    for path, directories, _ in os.walk(CGROUPS):
        if parent in directories:
            yield from _below(os.path.join(path, parent))
        directories[:] = [name for name in directories if not name.startswith("coppice-gw-")]


def _below(cgroup):
    for path, directories, _ in os.walk(cgroup):
        yield from (os.path.join(path, name) for name in directories)
        directories[:] = [name for name in directories if not SANDBOX.fullmatch(name)]


def _processes(gateway):
    gateway_pid = gateway.process.pid if gateway.process else None
    ours = f"/{_parent(gateway)}/"
    for pid in _pids():
        argv = _read(f"/proc/{pid}/cmdline").split("\0")
        envd = argv[1:2] == ["envd"] and argv[0].endswith("coppice")
        # The state and the parent follow the name, which may hold anything.
        stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        child = gateway_pid is not None and stat[1:2] == [str(gateway_pid)]
        in_sandbox = ours in _read(f"/proc/{pid}/cgroup")
        if envd and child and not in_sandbox:
            # The one that makes the sandboxes' first processes; each gateway has its own.
            yield "spawner of the gateway"
        elif child or in_sandbox:
            yield f"{pid} {' '.join(argv).strip() or _read(f'/proc/{pid}/comm').strip()}"


def _shown(gateway, *argv):
    """What a command prints in the network namespace of the gateway."""
    return subprocess.run([*gateway.prefix, *argv], capture_output=True, text=True).stdout


def _unix_sockets(gateway):
    rows = _shown(gateway, "cat", "/proc/net/unix").splitlines()
    return [row.split()[-1] for row in rows if f"{gateway.data_dir}/" in row]


def _directories(data_dir):
    for place in ("sandboxes", "trash"):
        yield from (str(entry) for entry in (data_dir / place).glob("*"))


def _links(gateway):
    return [link["ifname"] for link in json.loads(_shown(gateway, "ip", "-j", "link"))]


def _nftables(gateway):
    """Empty when the table is not there."""
    shown = _shown(gateway, "nft", "-j", "list", "table", "inet", "coppice") or '{"nftables":[]}'
    return [json.dumps(_lasting(entry)) for entry in json.loads(shown)["nftables"]]


def _lasting(entry):
    """An nftables object without what changes by itself: handles and counts."""
    if isinstance(entry, dict):
        changing = ("handle", "packets", "bytes", "expires")
        return {key: _lasting(value) for key, value in entry.items() if key not in changing}
    return [_lasting(part) for part in entry] if isinstance(entry, list) else entry


def _descriptors(pid):
    """Open descriptors by kind. TCP is left out: clients keep their connections in pools."""
    tcp = set()
    for table in ("tcp", "tcp6"):
        rows = _read(f"/proc/{pid}/net/{table}").splitlines()[1:]
        tcp.update(f"socket:[{row.split()[9]}]" for row in rows)
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except FileNotFoundError:
            continue
        # A TCP socket that its client has just left is in no table any more.
        if target not in tcp and not (target.startswith("socket:") and _orphaned(pid, target)):
            yield re.sub(r"\[\d+\]", "", target)


def _orphaned(pid, target):
    inode = target[len("socket:[") : -1]
    known = _read(f"/proc/{pid}/net/unix") + _read(f"/proc/{pid}/net/netlink")
    return inode not in known.split()
