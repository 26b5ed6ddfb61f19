"""What sandboxes take from the host, and whether all of it was given back. Of a host that cannot be
looked at, only which sandboxes its gateway lists."""

import hashlib
import json
import os
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gateway import Remote

CGROUPS = Path("/sys/fs/cgroup")
SLOTS = Path("/run/coppice/slots")
GATEWAYS = Path("/run/coppice/gateways")
# A sandbox's, below which nothing needs to be looked at, and other gateways'.
OTHERS = re.compile("coppice-(gw-|[0-9a-f]{32}$)")


@dataclass
class HostState:
    """Kind of thing -> how many there are of each."""

    things: dict[str, Counter]

    @classmethod
    def of(cls, gateway):
        if isinstance(gateway, Remote):
            return cls({"sandbox": Counter(gateway.ids())})
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
                "loop device": Counter(_loop_devices(gateway)),
                "slot": Counter(_slots(gateway)),
                "claim": Counter(map(str, GATEWAYS.glob(parent_of(gateway)))),
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


def assert_back_to(start, gateway, timeout=30):
    """Waits until nothing is left of what came after `start`."""
    deadline = time.monotonic() + timeout
    while left := HostState.of(gateway).left_over(start):
        if time.monotonic() > deadline:
            # What all of a host share goes with the last of them.
            beside = {path.name for path in GATEWAYS.glob("*")} - {parent_of(gateway)}
            left = sorted(left) + [f"(beside the gateway of {name})" for name in sorted(beside)]
            raise AssertionError(f"left over after {timeout} s:\n" + "\n".join(left))
        time.sleep(0.1)


def processes_of(sandbox_id, part=""):
    """Host pids in a sandbox's cgroups; `part` is `envd` or `user`."""
    wanted = f"coppice-{sandbox_id}" + (f"/{part}" if part else "")
    return [pid for pid in _pids() if wanted in _read(f"/proc/{pid}/cgroup")]


def cpu_time_of(sandbox_id):
    """Seconds that the kernel has counted for a sandbox."""
    for mount in (CGROUPS / "unified", CGROUPS):
        for stat in mount.glob(f"coppice-gw-*/coppice-{sandbox_id}/cpu.stat"):
            return int(re.search(r"^usage_usec (\d+)$", stat.read_text(), re.MULTILINE)[1]) / 1e6
    (usage,) = CGROUPS.glob(f"cpuacct/coppice-gw-*/coppice-{sandbox_id}/cpuacct.usage")
    return int(usage.read_text()) / 1e9


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
    # What the gateways of a host share goes with the last of them, which may be another suite's.
    return _read("/proc/self/mounts").replace(",favordynmods", "").splitlines()


def parent_of(gateway):
    """The cgroup that holds those of this gateway's sandboxes; another's may come and go."""
    return "coppice-gw-" + hashlib.sha256(os.fsencode(gateway.data_dir)).hexdigest()[:8]


def _cgroups(gateway):
    """That parent, and what is below it."""
    ours = parent_of(gateway)
    # What goes meanwhile is passed over.
    for path, directories, _ in os.walk(CGROUPS):
        inside = f"/{ours}" in path
        yield from (os.path.join(path, name) for name in directories if inside or name == ours)
        directories[:] = [name for name in directories if name == ours or not OTHERS.match(name)]


def _processes(gateway):
    gateway_pid = gateway.process.pid if gateway.process else None
    network = _shown(gateway, "readlink", "/proc/self/ns/net").strip()
    for pid in _pids():
        argv = _argv(pid)
        # The state and the parent follow the name, which may hold anything.
        stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        parent = int(stat[1]) if stat else 0
        child = gateway_pid is not None and parent == gateway_pid
        cgroup = _read(f"/proc/{pid}/cgroup")
        # In its parent, too, where nothing belongs.
        in_sandbox = f"/{parent_of(gateway)}" in cgroup
        if _is_coppice(argv, "envd") and "/coppice-" not in cgroup:
            # The one that makes the sandboxes' first processes; each gateway has its own.
            if child:
                yield "spawner of the gateway"
            # Whose it was cannot be told any more; one of this network is taken for ours.
            elif not _is_coppice(_argv(parent)) and _network(pid) == network:
                yield "spawner of no gateway"
        elif child or in_sandbox:
            yield f"{pid} {' '.join(argv).strip() or _read(f'/proc/{pid}/comm').strip()}"


def _argv(pid):
    return _read(f"/proc/{pid}/cmdline").split("\0")


def _is_coppice(argv, *command):
    return argv[0].endswith("coppice") and argv[1 : 1 + len(command)] == list(command)


def _network(pid):
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _shown(gateway, *argv):
    """What a command prints in the network namespace of the gateway."""
    return subprocess.run([*gateway.prefix, *argv], capture_output=True, text=True).stdout


def _unix_sockets(gateway):
    rows = _shown(gateway, "cat", "/proc/net/unix").splitlines()
    return [row.split()[-1] for row in rows if f"{gateway.data_dir}/" in row]


def _directories(data_dir):
    for place in ("sandboxes", "trash"):
        yield from (str(entry) for entry in (data_dir / place).glob("*"))


def _slots(gateway):
    """Those that say they are this gateway's; another's come and go. One that says nothing counts."""
    for slot in SLOTS.glob("[0-9]*"):
        said = _read(slot)
        if f'"{gateway.data_dir}"' in said or '"data_dir"' not in said:
            yield str(slot)


def _links(gateway):
    return [link["ifname"] for link in json.loads(_shown(gateway, "ip", "-j", "link"))]


def _loop_devices(gateway):
    """Those of files in its data directory."""
    backing = (_read(path).strip() for path in Path("/sys/block").glob("loop*/loop/backing_file"))
    return [file for file in backing if file.startswith(f"{gateway.data_dir}/")]


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
