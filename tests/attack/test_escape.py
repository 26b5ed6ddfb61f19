"""Out of a sandbox: its root, its devices, its namespaces, its first process."""

import contextlib
import itertools
import json
import os
import secrets
import tempfile
import time
from pathlib import Path

import pytest
from e2b import NotFoundException, SandboxException

from attack import Held, attack, to_envd


@pytest.fixture
def secret():
    """A file of the host's that anybody may read, with what nobody in a sandbox can guess."""
    with tempfile.NamedTemporaryFile("w", dir="/var/tmp", suffix=".secret") as file:
        os.chmod(file.name, 0o644)
        file.write(text := secrets.token_hex(16))
        file.flush()
        yield file.name, text


def reads(path, text):
    """Run inside."""
    found = open(path).read()
    return found == text and f"{path} is the host's"


# --- the host's files


@attack("no-host-files", without="host-tree")
def test_the_parent_of_a_directory_of_the_root_is_the_hosts_root(world, secret):
    path, text = secret
    return world.inside(reads, f"/tmp/..{path}", text)


@attack("no-host-files", without="host-tree")
def test_a_relative_path_leads_out_of_the_root(world, secret):
    path, text = secret

    def attempt(path, text):
        os.chdir("/tmp")
        return open("../../../.." + path).read() == text and "a path out of the root"

    return world.inside(attempt, path, text, user="user")


@attack("no-host-files", without="host-tree")
def test_a_chroot_is_broken_out_of(world, secret):
    path, text = secret

    def attempt(path, text):
        os.makedirs("/tmp/cage", exist_ok=True)
        above = os.open("/tmp", os.O_RDONLY)
        os.chroot("/tmp/cage")
        os.fchdir(above)
        for _ in range(64):
            os.chdir("..")
        return open("." + path).read() == text and "a file above the chroot"

    return world.inside(attempt, path, text)


@attack("no-host-files", nothing_without="dots are resolved before any file is looked for")
def test_the_file_api_follows_dots_out_of_the_root(world, secret):
    path, text = secret
    for way in (f"/tmp/..{path}", f"../../../../../..{path}", f"/./..//..{path}"):
        try:
            if world.attacker.files.read(way, user="root") == text:
                return f"a file of the host as {way}"
        except NotFoundException:
            pass


@attack("no-host-files", without="host-tree")
def test_the_file_api_follows_a_link_out_of_the_root(world, secret):
    path, text = secret
    name = f"/tmp/link{secrets.token_hex(4)}"
    world.attacker.commands.run(f"ln -s ../../../../tmp/..{path} {name}", user="root")
    try:
        found = world.attacker.files.read(name, user="root")
    except NotFoundException as error:
        raise Held(str(error)) from error
    return found == text and "a file of the host by a link"


@attack("no-host-files", nothing_without="links are resolved to names before those are looked for")
def test_the_file_api_lists_directories_of_the_host(world, secret):
    path, _ = secret
    up = f"/tmp/up{secrets.token_hex(4)}"
    world.attacker.commands.run(f"ln -s /tmp/../.. {up}", user="root")
    for way in (f"{up}/var/tmp", "/tmp/../../var/tmp"):
        listed = world.attacker.files.list(way, user="root")
        if Path(path).name in {entry.name for entry in listed}:
            return f"a list of the host's as {way}"


@pytest.mark.linux
@attack("no-host-files", without="host-tree")
def test_the_root_of_another_process_is_the_hosts(world, secret):
    path, text = secret

    def attempt(path, text):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for way in (f"/proc/{pid}/root", f"/proc/{pid}/cwd", f"/proc/{pid}/root/tmp/.."):
                try:
                    if open(way + path).read() == text:
                        return way
                except OSError:
                    pass

    return world.inside(attempt, path, text)


@attack("no-host-files", without="host-tree")
def test_a_link_is_swapped_while_the_file_api_looks(world, secret):
    """The race that file servers outside of what they serve lose."""
    path, text = secret

    def swap(path):
        import time

        os.makedirs("/tmp/race/real")
        open("/tmp/race/real/file", "w").write("mine")
        if os.fork():
            return "begun"
        os.setsid()
        for fd in range(3):
            os.close(fd)
        target = os.path.dirname("/tmp/.." + path)
        try:
            turn, end = 0, time.monotonic() + 20
            while time.monotonic() < end and not os.path.exists("/tmp/race/over"):
                os.symlink("real" if turn % 2 else target, "/tmp/race/next")
                os.rename("/tmp/race/next", "/tmp/race/way")
                turn += 1
        finally:
            os._exit(0)

    world.inside(swap, path)
    way = f"/tmp/race/way/{Path(path).name}"
    end = time.monotonic() + 10
    try:
        # Held, it is seen to be so often; else once is enough.
        for turn in itertools.count():
            with contextlib.suppress(NotFoundException, SandboxException):
                if world.attacker.files.read(way, user="root") == text:
                    return f"the host's file, at turn {turn} of a race"
            if turn >= 50 and not world.down or time.monotonic() > end:
                return None
    finally:
        world.attacker.files.write("/tmp/race/over", "", user="root")


@pytest.mark.linux
@attack("no-host-files", nothing_without="a link is made within one mount, by the kernel")
def test_a_hard_link_is_made_to_what_lies_in_another_mount(world):
    def attempt():
        os.link("/proc/1/environ", "/tmp/environ")
        return open("/tmp/environ").read()

    return world.inside(attempt)


@pytest.mark.local("looks for a file on the host")
@attack("no-host-files", nothing_without="of a name in a form its last part is taken, as E2B does")
def test_an_upload_names_a_file_outside_of_the_directory(world):
    name = f"{secrets.token_hex(8)}.written"
    outside = Path("/var/tmp", name)
    for way in (f"../../../../var/tmp/{name}", f"/tmp/../../var/tmp/{name}", f"..%2f..%2f{name}"):
        form = (
            f'--x\r\nContent-Disposition: form-data; name="file"; filename="{way}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\nmine\r\n--x--\r\n"
        )
        connection = world.gateway.by_hand()
        headers = {**to_envd(world.attacker), "Content-Type": "multipart/form-data; boundary=x"}
        connection.request("POST", "/files?username=user", form, headers)
        answer = connection.getresponse()
        told = answer.read()
        # It is written, only not there.
        assert answer.status == 200, told
        [written] = json.loads(told)
        assert world.attacker.files.read(written["path"]) == "mine", written
    try:
        return outside.exists() and f"{outside}, on the host"
    finally:
        outside.unlink(missing_ok=True)


@pytest.mark.linux
@attack("host-not-told", without="host-tree")
def test_what_is_mounted_tells_of_the_hosts_disks(world):
    def attempt():
        lines = open("/proc/self/mountinfo").read().splitlines()
        sources = [line.partition(" - ")[2].split()[1] for line in lines]
        return [source for source in sources if source.startswith("/")]

    return world.inside(attempt)


@pytest.mark.linux
@pytest.mark.local("looks for its data directory")
@attack("host-not-told", nothing_without="nothing of it is told to a sandbox in the first place")
def test_the_gateways_own_paths_are_found(world):
    def attempt(path):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            for name in ("mountinfo", "environ", "maps", "cmdline"):
                try:
                    told = open(f"/proc/{pid}/{name}").read()
                except OSError:
                    continue
                # Not in what this attack was itself started with.
                if path in told and not (name == "cmdline" and "def attempt" in told):
                    found.append(f"{pid}/{name}")
        return found

    return world.inside(attempt, str(world.gateway.base))


@pytest.mark.linux
@attack("no-host-files", without="masks")
def test_the_hosts_command_line_is_read(world):
    def attempt():
        return open("/proc/cmdline").read()

    return world.inside(attempt)


@pytest.mark.linux
@pytest.mark.parametrize("path", ["interrupts", "key-users", "keys", "timer_list", "swaps"])
@attack("host-not-told", without="masks")
def test_a_file_of_proc_tells_of_the_host(world, path):
    def attempt(path):
        try:
            return open(f"/proc/{path}").read()[:80]
        except PermissionError as error:
            # Root's alone: the mask over it can be opened by anybody.
            return os.stat(f"/proc/{path}").st_uid != 0 and f"not masked: {error}"

    if not Path(f"/proc/{path}").exists():
        pytest.skip("this host's kernel was built without it")
    return world.inside(attempt, path)


@pytest.mark.linux
@attack("host-not-told", without="cgroup-namespace")
def test_the_place_among_the_hosts_cgroups_is_read(world):
    def attempt():
        found = open("/proc/self/cgroup").read()
        return "coppice-" in found and found.splitlines()[0]

    return world.inside(attempt)


@pytest.mark.linux
@attack("host-not-told", nothing_without="nothing of the host is mounted there at all")
def test_sys_tells_of_the_hosts_firmware_and_devices(world):
    def attempt():
        known = ("firmware", "class", "block", "kernel", "bus", "module")
        return [path for path in known if os.path.exists(f"/sys/{path}")]

    return world.inside(attempt)
