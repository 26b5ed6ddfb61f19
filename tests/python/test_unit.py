"""The unit of systemd: what systemd says of it, and that sandboxes work with what it takes away."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from e2b import Sandbox

from gateway import REPO

pytestmark = pytest.mark.plain("how a service is started and ended")

UNIT = REPO / "deploy" / "systemd" / "coppice.service"
# What ProtectSystem=full does to the mounts of a service.
READ_ONLY = """
for place in /usr /boot /etc; do
    [ ! -d $place ] || { mount --bind $place $place && mount -o remount,bind,ro $place; } || exit
done
umask 077
exec "$@"
"""


@pytest.fixture(scope="module")
def service():
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(UNIT.read_text().replace("\\\n", " "))
    return parser["Service"]


def test_systemd_finds_nothing_wrong_with_it(tmp_path, service):
    if not shutil.which("systemd-analyze"):
        pytest.skip("there is no systemd-analyze here")
    # What it starts has to be there for that.
    for program in ["usr/local/bin/coppice", "bin/kill"]:
        path = tmp_path / program
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    shutil.copy(UNIT, tmp_path / "usr/lib/systemd/system")
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "coppice.service"],
        capture_output=True,
        text=True,
    )
    of_ours = [line for line in verified.stderr.splitlines() if "coppice" in line]
    assert verified.returncode == 0 and not of_ours, verified.stderr


def kept(service):
    """The capabilities that it leaves, in the words of setpriv(1)."""
    return [name.removeprefix("CAP_").lower() for name in service["CapabilityBoundingSet"].split()]


@pytest.mark.local("looks at the gateway's processes")
def test_a_gateway_gives_all_other_rights_away_by_itself(gateway, service, sandbox):
    listed = subprocess.run(["setpriv", "--list-caps"], capture_output=True, text=True, check=True)
    names = listed.stdout.split()
    ours = sum(1 << names.index(name) for name in kept(service))

    def sets(status):
        found = re.findall(r"^Cap(Inh|Prm|Eff|Bnd|Amb):\s+(\w+)$", status.read_text(), re.M)
        return {name: int(bits, 16) for name, bits in found}

    # What nobody has given the tests nobody can take from them.
    ours &= sets(Path("/proc/self/status"))["Bnd"]
    expected = {"Inh": 0, "Prm": ours, "Eff": ours, "Bnd": ours, "Amb": 0}
    looked_at = 0
    for thread in Path(f"/proc/{gateway.process.pid}/task").iterdir():
        try:
            found = sets(thread / "status")
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended since they were listed.
        assert found == expected, thread
        looked_at += 1
    assert looked_at > 1
    assert ours < (1 << len(names)) - 1, "there is something to give away"
    # A program that root starts there gets no more; a sandbox is a world of its own, and has less.
    inside = sandbox.commands.run("sudo grep CapEff /proc/self/status").stdout.split()[1]
    assert 0 < int(inside, 16) < (1 << len(names)) - 1


def test_it_stops_the_gateway_alone(service):
    assert (service["KillMode"], service["Delegate"]) == ("process", "yes")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_sandboxes_work_with_the_rights_it_leaves(new_gateway, service):
    assert service["ProtectSystem"] == "full"
    left = ",".join(["-all", *("+" + name for name in kept(service))])
    gateway = new_gateway()
    prefix = ["setpriv", "--bounding-set", left, "unshare", "--mount", "sh", "-c", READ_ONLY, "sh"]
    gateway.prefix = tuple(prefix)
    gateway.spawn()
    gateway.prefix = ()
    gateway.wait()
    with Sandbox.create(timeout=60, **gateway.opts) as sandbox:
        assert sandbox.commands.run("sudo id -u").stdout == "0\n"
        assert sandbox.commands.run("node -p 6*7").stdout == "42\n"
        assert sandbox.commands.run("sudo chown root:root . && stat -c %U .").stdout == "root\n"
        assert sandbox.pause() is True
        assert sandbox.connect().commands.run("cat /proc/self/status").exit_code == 0
    sandbox = Sandbox.create(timeout=60, **gateway.opts)
    gateway.end()
    gateway.start()
    assert sandbox.commands.run("echo there").stdout == "there\n"
