"""One sandbox takes of the disk, of its files and of what may be open more than it was given: on a
btrfs of the test's own, which bounds what a sandbox writes."""

import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from attack import World, attack

pytestmark = [
    pytest.mark.linux,
    pytest.mark.local("makes a disk of its own"),
    pytest.mark.timeout(180),
]


class OnBtrfs(World):
    """A gateway whose data directory is on a disk of its own."""

    def __init__(self, down=()):
        self.base = Path(tempfile.mkdtemp(prefix="cop", dir="/tmp"))
        with open(self.base / "image", "wb") as image:
            image.truncate(1 << 30)
        subprocess.run(["mkfs.btrfs", "-q", self.base / "image"], check=True, capture_output=True)
        self.disk = self.base / "m"
        self.disk.mkdir()
        mount = ["mount", "-o", "loop,commit=1", self.base / "image", self.disk]
        subprocess.run(mount, check=True)
        super().__init__(down, data_dir=self.disk / "d")

    def remove(self):
        try:
            super().remove()
        finally:
            # Busy for as long as the last of what ran there takes to go.
            for _ in range(20):
                unmounted = subprocess.run(["umount", self.disk], capture_output=True, text=True)
                if unmounted.returncode == 0 or "busy" not in unmounted.stderr:
                    break
                time.sleep(0.25)
            assert unmounted.returncode == 0, unmounted.stderr
            (self.base / "image").unlink()
            self.disk.rmdir()
            self.base.rmdir()

    @contextmanager
    def bounded(self, limits):
        with self.another(metadata={"coppice.limits": limits}) as sandbox:
            yield sandbox


@pytest.fixture(scope="module")
def worlds():
    made = {}

    def enter(down):
        if down not in made:
            made[down] = OnBtrfs(down).start()
        return made[down]

    yield enter
    with ThreadPoolExecutor() as pool:
        list(pool.map(OnBtrfs.remove, made.values()))


@attack("limits", without="limits")
def test_more_is_written_than_a_sandbox_may(world):
    def attempt(size):
        with open("/home/user/all", "wb", 0) as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
        return f"{size >> 20} MiB"

    with world.bounded("disk=32") as sandbox:
        return world.inside(attempt, 64 << 20, sandbox=sandbox)


@attack("limits", without="limits")
def test_more_files_are_made_than_fit_a_sandboxs_disk(world):
    """Empty ones: of what they take the names and owners are all."""

    def attempt(most):
        os.makedirs("/home/user/crowd")
        os.chdir("/home/user/crowd")
        for number in range(most):
            os.mknod(f"{number}")
        return f"{most} files"

    with world.bounded("disk=16") as sandbox:
        return world.inside(attempt, 60_000, sandbox=sandbox, timeout=60)


@attack("limits", without="limits")
def test_the_disk_is_read_faster_than_a_sandbox_may(world):
    def attempt(rate, seconds):
        import mmap
        import time

        size, read = 2 << 20, 0
        with open("/home/user/much", "wb", 0) as file:
            file.write(os.urandom(size))
        # Past what is cached.
        file = os.open("/home/user/much", os.O_RDONLY | os.O_DIRECT)
        block = mmap.mmap(-1, 256 << 10)
        end = None
        while not end or time.monotonic() < end:
            read += os.preadv(file, [block], read % size)
            if read >= size and not end:
                # What was cached when it was written is so no more.
                end, read = time.monotonic() + seconds, 0
        # A second's worth may be on its way.
        return read > rate * (seconds + 2) and f"{read >> 10} KiB in {seconds} s"

    with world.bounded("disk-read=1024") as sandbox:
        return world.inside(attempt, 1 << 20, 3, sandbox=sandbox)


@attack("limits", without="limits")
def test_more_files_are_open_than_a_process_may_have(world):
    def attempt(most):
        import contextlib
        import resource

        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (4 * most, 4 * most))
        opened = [os.dup(1) for _ in range(2 * most)]
        return f"{len(opened)} open"

    with world.bounded("open-files=1000") as sandbox:
        return world.inside(attempt, 1000, sandbox=sandbox)
