"""A sandbox's disk on btrfs: bounded, told, and given back. The file system is the test's own, in a
file."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from e2b import CommandExitException, NotEnoughSpaceException, Sandbox

pytestmark = [
    pytest.mark.local("makes a file system"),
    pytest.mark.plain("a disk that is mounted where tests by TLS look, and their gateway does not"),
]

MIB = 1 << 20


@pytest.fixture
def btrfs():
    """A data directory on a btrfs of its own."""
    base = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
    try:
        with open(base / "image", "wb") as image:
            image.truncate(1 << 30)
        subprocess.run(["mkfs.btrfs", "-q", base / "image"], check=True, capture_output=True)
        (base / "m").mkdir()
        subprocess.run(["mount", "-o", "loop,commit=1", base / "image", base / "m"], check=True)
        try:
            yield base / "m" / "d"
        finally:
            subprocess.run(["umount", base / "m"], check=True)
    finally:
        shutil.rmtree(base)


def test_a_sandbox_that_has_filled_its_disk_fills_nobody_elses(btrfs, new_gateway, eventually):
    gateway = new_gateway("--sandbox-disk", "64", data_dir=btrfs).start()
    full, other = (Sandbox.create(timeout=300, **gateway.opts) for _ in range(2))

    def free():
        return os.statvfs(btrfs).f_bavail * os.statvfs(btrfs).f_frsize

    def used(sandbox):
        with gateway.http() as http:
            ids = {"sandbox_ids": sandbox.sandbox_id}
            all = http.get("/sandboxes/metrics", params=ids).json()["sandboxes"]
        return all.get(sandbox.sandbox_id, {}).get("diskUsed", 0)

    with gateway.http() as http:
        assert http.get(f"/sandboxes/{full.sandbox_id}").json()["diskSizeMB"] == 64
    room = free()
    with pytest.raises(NotEnoughSpaceException):
        full.files.write("/tmp/large", b"x" * (100 * MIB))
    with pytest.raises(CommandExitException) as failed:
        full.commands.run("head -c 100000000 /dev/zero > /tmp/large")
    assert "quota exceeded" in failed.value.stderr.lower()
    with pytest.raises(NotEnoughSpaceException):
        full.files.write("/tmp/small", b"x" * MIB)
    assert room - free() < 80 * MIB
    eventually(lambda: 50 * MIB < used(full) <= 64 * MIB, timeout=20)
    (metric, *_) = full.get_metrics()
    assert metric.disk_total == 64 * MIB

    other.files.write("/tmp/file", b"x" * (20 * MIB))
    eventually(lambda: 20 * MIB <= used(other) < 30 * MIB, timeout=20)
    full.commands.run("rm /tmp/large")
    full.files.write("/tmp/small", b"x" * MIB)

    # The bound is the subvolume's, whoever is the gateway.
    gateway.end()
    gateway.start()
    with pytest.raises(NotEnoughSpaceException):
        full.files.write("/tmp/large", b"x" * (100 * MIB))
    full.kill()
    other.kill()
    eventually(lambda: room - free() < 10 * MIB, timeout=30)
