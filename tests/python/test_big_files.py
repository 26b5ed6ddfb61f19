"""Files larger than any buffer: whole or not at all, in memory that does not depend on their size."""

import http.client
import io
import socket
import struct
import threading
import zlib

import pytest
from e2b import NotEnoughSpaceException, SandboxException

from hoststate import processes_of

MB = 1 << 20
# Over what 32 bits can count.
BIG = (4 << 30) + 5
BOUND = 64 * MB


class Numbered(io.RawIOBase):
    """Megabytes that begin with their own number: no two alike, and none held."""

    def __init__(self, size):
        self.at, self.size, self.crc = 0, size, 0

    def readable(self):
        return True

    def read(self, size=-1):
        room = MB - self.at % MB
        size = min(self.size - self.at, room if size < 0 else size, room)
        piece = numbered(self.at // MB)[self.at % MB :][:size]
        self.at += size
        self.crc = zlib.crc32(piece, self.crc)
        return piece


def numbered(number):
    return struct.pack(">Q", number) + bytes(MB - 8)


@pytest.fixture
def memory(gateway, sandbox):
    """The highest memory use of gateway and envd since the test began (bytes)."""
    pids = [gateway.process.pid, *processes_of(sandbox.sandbox_id, "envd")]
    assert len(pids) == 2
    for pid in pids:
        with open(f"/proc/{pid}/clear_refs", "w") as peaks:
            peaks.write("5")

    def peaks():
        found = []
        for pid in pids:
            with open(f"/proc/{pid}/status") as status:
                peak = next(line for line in status if line.startswith("VmHWM:"))
            found.append(int(peak.split()[1]) << 10)
        return found

    return peaks


def open_file(gateway, sandbox, path, **headers):
    """A download as the wire has it, to be read piece by piece."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=60)
    connection.request(
        "GET",
        f"/files?path={path}",
        headers={**to_envd(sandbox), **headers},
    )
    return connection.getresponse()


def to_envd(sandbox):
    return {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token,
    }


def read_exactly(answer, view):
    """Reads until `view` is full, or the end; returns how much came."""
    at = 0
    while at < len(view) and (read := answer.readinto(view[at:])):
        at += read
    return at


def check_numbered(answer, size):
    """That exactly those megabytes come, and then the end."""
    buffer = memoryview(bytearray(MB))
    for number in range(-(-size // MB)):
        expected = numbered(number)[: size - number * MB]
        assert read_exactly(answer, buffer) == len(expected), number
        assert buffer[: len(expected)] == expected, number
    assert answer.read() == b""


@pytest.mark.timeout(300)
def test_four_gigabytes_go_up_and_down_in_constant_memory(gateway, sandbox, memory):
    source = Numbered(BIG)
    sandbox.files.write("/tmp/big", source, request_timeout=600)
    assert sandbox.files.get_info("/tmp/big").size == BIG
    assert max(memory()) < BOUND

    # The SDK's own download comes compressed, this one does not.
    answer = open_file(gateway, sandbox, "/tmp/big")
    assert (answer.status, int(answer.headers["Content-Length"])) == (200, BIG)
    check_numbered(answer, BIG)

    crc, size = 0, 0
    with sandbox.files.read("/tmp/big", format="stream") as stream:
        for chunk in stream:
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    assert (size, crc) == (BIG, source.crc)
    assert max(memory()) < BOUND

    end = BIG - 5
    for asked, first, content in [
        (f"bytes={end - MB}-{end - MB + 7}", end - MB, struct.pack(">Q", 4095)),
        ("bytes=-6", BIG - 6, b"\0" + numbered(4096)[:5]),
        (f"bytes={end}-", end, numbered(4096)[:5]),
    ]:
        part = open_file(gateway, sandbox, "/tmp/big", Range=asked)
        last = first + len(content) - 1
        assert (part.status, part.read()) == (206, content), asked
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{BIG}"
    assert open_file(gateway, sandbox, "/tmp/big", Range=f"bytes={BIG}-").status == 416


@pytest.mark.timeout(180)
def test_ten_clients_get_the_same_file_at_once(gateway, sandbox, memory):
    size = 256 * MB
    script = "f = open('/tmp/same', 'wb'); f.truncate(%d)\nfor n in range(%d):\n"
    script += "    f.seek(n << 20); f.write(n.to_bytes(8, 'big'))"
    sandbox.commands.run(f'python3 -c "{script % (size, size // MB)}"')
    wrong = []

    def client():
        try:
            check_numbered(open_file(gateway, sandbox, "/tmp/same"), size)
        except BaseException as error:
            wrong.append(error)

    clients = [threading.Thread(target=client) for _ in range(10)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert wrong == []
    assert max(memory()) < BOUND


@pytest.mark.parametrize(
    "change, whole",
    [
        ("truncate -s 100M f", False),
        ("truncate -s 0 f", False),
        ("truncate -s 300M f", True),
        ("head -c 1M /dev/zero > g && mv g f", True),
        ("rm f", True),
        ("dd if=/dev/zero of=f bs=1M count=200 conv=notrunc status=none", True),
    ],
)
def test_a_file_that_changes_meanwhile_comes_at_its_length_or_breaks_off(
    gateway, sandbox, change, whole
):
    size = 200 * MB
    sandbox.commands.run(f"truncate -s {size} f")
    answer = open_file(gateway, sandbox, "f")
    assert (answer.status, int(answer.headers["Content-Length"])) == (200, size)
    buffer = memoryview(bytearray(MB))
    assert read_exactly(answer, buffer) == MB
    sandbox.commands.run(change)
    came = MB
    try:
        while read := read_exactly(answer, buffer):
            came += read
        # http.client says nothing of an end that comes too early.
        broken = came < size
    except (ConnectionResetError, http.client.IncompleteRead):
        broken = True
    assert came <= size
    assert broken != whole


@pytest.fixture
def small_disk(sandbox):
    """A directory with room for 8 megabytes."""
    sandbox.commands.run(
        "mkdir /mnt/small && mount -t tmpfs -o size=8m,mode=777 tmpfs /mnt/small", user="root"
    )
    return "/mnt/small"


def names(sandbox, directory):
    return sorted(sandbox.commands.run(f"ls -A {directory}").stdout.split())


def test_a_disk_that_fills_up_in_the_middle_leaves_what_was_there(sandbox, small_disk, eventually):
    old = "the old content"
    sandbox.files.write(f"{small_disk}/old", old)
    for name in ("old", "new"):
        for source in (Numbered(64 * MB), bytes(16 * MB)):
            with pytest.raises(NotEnoughSpaceException):
                sandbox.files.write(f"{small_disk}/{name}", source)
            eventually(lambda: names(sandbox, small_disk) == ["old"])
            assert sandbox.files.read(f"{small_disk}/old") == old
    # And there is room again.
    sandbox.files.write(f"{small_disk}/new", bytes(7 * MB))
    assert sandbox.files.get_info(f"{small_disk}/new").size == 7 * MB


def test_a_small_file_that_does_not_fit_is_never_seen(sandbox, small_disk):
    sandbox.commands.run(f"head -c 9M /dev/zero > {small_disk}/full || true")
    sandbox.commands.run(f"truncate -s -8K {small_disk}/full")
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write(f"{small_disk}/new", bytes(100_000))
    assert names(sandbox, small_disk) == ["full"]
    sandbox.files.write(f"{small_disk}/new", "fits")
    assert sandbox.files.read(f"{small_disk}/new") == "fits"


def test_a_client_that_vanishes_in_the_middle_leaves_what_was_there(gateway, sandbox, eventually):
    sandbox.commands.run("mkdir /tmp/d && echo old > /tmp/d/old")
    for name in ("old", "new"):
        with socket.create_connection(gateway.address, timeout=30) as client:
            head = f"POST /files?path=/tmp/d/{name} HTTP/1.1\r\nHost: x\r\n"
            head += "".join(f"{key}: {value}\r\n" for key, value in to_envd(sandbox).items())
            head += f"Content-Type: application/octet-stream\r\nContent-Length: {64 * MB}\r\n\r\n"
            client.sendall(head.encode() + bytes(8 * MB))
            eventually(lambda: len(names(sandbox, "/tmp/d")) == 2)
            assert name == "old" or "new" not in names(sandbox, "/tmp/d")
        # For some seconds it might only have closed its sending half.
        eventually(lambda: names(sandbox, "/tmp/d") == ["old"], timeout=20)
        assert sandbox.files.read("/tmp/d/old") == "old\n"


def test_a_file_that_is_being_written_has_its_old_content_until_it_is_whole(sandbox):
    sandbox.files.write("f", "old")
    seen = []

    class Watching(Numbered):
        def read(self, size=-1):
            if self.at == 8 * MB:
                seen.append(sandbox.files.read("f"))
            return super().read(size)

    sandbox.files.write("f", Watching(16 * MB))
    assert seen and set(seen) == {"old"}
    assert sandbox.files.get_info("f").size == 16 * MB


def test_a_long_write_is_told_to_watchers_under_its_own_name_only(sandbox, eventually):
    sandbox.commands.run("mkdir /tmp/w && echo old > /tmp/w/f")
    watch = sandbox.files.watch_dir("/tmp/w")
    sandbox.files.write("/tmp/w/f", Numbered(4 * MB))
    told = []

    def written():
        told.extend((event.name, event.type.value) for event in watch.get_new_events())
        return ("f", "write") in told

    eventually(written)
    assert {name for name, _ in told} == {"f"}
    watch.stop()


def test_a_directory_in_the_place_of_a_long_file_is_an_error(sandbox):
    sandbox.commands.run("mkdir d")
    with pytest.raises(SandboxException):
        sandbox.files.write("d", Numbered(8 * MB))
    assert names(sandbox, ".").count("d") == 1
