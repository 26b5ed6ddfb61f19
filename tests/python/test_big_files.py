"""Files larger than any buffer: whole or not at all, in memory that does not depend on their size."""

import http.client
import io
import struct
import threading
import zlib

import httpx
import pytest
from e2b import NotEnoughSpaceException, Sandbox, SandboxException

MB = 1 << 20
# Over what 32 bits can count.
BIG = (4 << 30) + 5
# Over TLS, where clients in Python are slow.
LESS = (256 << 20) + 5


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


def open_file(gateway, sandbox, path, **headers):
    """A download as the wire has it, to be read piece by piece."""
    connection = gateway.by_hand()
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


@pytest.mark.plain("4 GiB take minutes in a client in Python that has to decipher them")
@pytest.mark.timeout(600)
def test_four_gigabytes_go_up_and_down_in_constant_memory(gateway, sandbox, memory):
    source = Numbered(BIG)
    sandbox.files.write("/tmp/big", source, request_timeout=600)
    assert sandbox.files.get_info("/tmp/big").size == BIG
    memory.assert_constant()

    # The SDK's own download comes compressed, this one does not.
    answer = open_file(gateway, sandbox, "/tmp/big")
    assert (answer.status, int(answer.headers["Content-Length"])) == (200, BIG)
    check_numbered(answer, BIG)

    crc, size = 0, 0
    with sandbox.files.read("/tmp/big", format="stream") as stream:
        for chunk in stream:
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    assert (size, crc) == (BIG, source.crc)
    memory.assert_constant()

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


@pytest.mark.tls
@pytest.mark.timeout(180)
def test_a_big_file_goes_up_and_down_over_http2_in_constant_memory(gateway, sandbox, memory):
    """By TLS; the SDK's own list has one by HTTP/1.1."""
    source, token = Numbered(LESS), {"X-Access-Token": sandbox._envd_access_token}
    with httpx.Client(
        base_url=f"https://{sandbox.get_host(49983)}",
        headers=token,
        params={"path": "/tmp/big"},
        http1=False,
        http2=True,
        timeout=60,
    ) as client:
        pieces = iter(lambda: source.read(1 << 17), b"")
        kind = {"Content-Type": "application/octet-stream"}
        written = client.post("/files", content=pieces, headers=kind)
        assert (written.status_code, written.http_version) == (200, "HTTP/2")
        assert sandbox.files.get_info("/tmp/big").size == LESS

        crc, size = 0, 0
        plain = {"Accept-Encoding": "identity"}
        with client.stream("GET", "/files", headers=plain) as answer:
            assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
            assert int(answer.headers["Content-Length"]) == LESS
            for chunk in answer.iter_raw():
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    assert (size, crc) == (LESS, source.crc)
    memory.assert_constant()


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
    memory.assert_constant()


@pytest.mark.parametrize("size", [8 * MB, 200_000], ids=["long", "short"])
def test_of_ten_uploads_to_one_path_one_is_there_in_the_end_and_whole(gateway, sandbox, size):
    """Of other lengths and other bytes each; short ones are written in place, long ones beside."""
    sandbox.commands.run("mkdir /tmp/d")
    contents = [bytes([number]) * (size - number * size // 20) for number in range(1, 11)]
    for _ in range(5 if size > MB else 50):
        uploads = [begin_upload(gateway, sandbox, "/tmp/d/f", content) for content in contents]
        # All of them are at their end now.
        for connection, content in zip(uploads, contents, strict=True):
            connection.send(content[-1:])
        assert {connection.getresponse().status for connection in uploads} == {200}
        found = bytes(sandbox.files.read("/tmp/d/f", format="bytes"))
        assert any(found == content for content in contents), (len(found), set(found))
        assert names(sandbox, "/tmp/d") == ["f"]


def begin_upload(gateway, sandbox, path, content):
    """Sends all but the last byte."""
    connection = gateway.by_hand()
    length = {"Content-Type": "application/octet-stream", "Content-Length": len(content)}
    connection.putrequest("POST", f"/files?path={path}")
    for name, value in {**length, **to_envd(sandbox)}.items():
        connection.putheader(name, str(value))
    connection.endheaders(content[:-1])
    return connection


# What is done to a file of 64 MiB of "a", and whether its download then comes to its end.
CHANGES = {
    "cut off": ("truncate -s 32M f", False),
    "emptied": ("truncate -s 0 f", False),
    "grown": ("head -c 32M /dev/zero >> f", True),
    "replaced": ("head -c 1M /dev/zero > g && mv g f", True),
    "removed": ("rm f", True),
    "overwritten": ("head -c 64M /dev/zero | tr '\\0' b | dd of=f bs=1M conv=notrunc", True),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_file_that_changes_meanwhile_comes_at_its_length_or_breaks_off(gateway, sandbox, what):
    """And each byte is what the file had at that place, before the change or after it."""
    size, (change, whole) = 64 * MB, CHANGES[what]
    sandbox.commands.run("head -c 64M /dev/zero | tr '\\0' a > f")
    answer = open_file(gateway, sandbox, "f")
    assert (answer.status, int(answer.headers["Content-Length"])) == (200, size)
    buffer, old = memoryview(bytearray(MB)), b"a" * MB
    assert read_exactly(answer, buffer) == MB and buffer == old
    sandbox.commands.run(change)
    came, kept = MB, True
    try:
        while read := read_exactly(answer, buffer):
            came += read
            part = buffer[:read]
            kept = kept and part == old[:read]
            assert kept or what == "overwritten" and not bytes(part).strip(b"ab")
        # http.client says nothing of an end that comes too early.
        broken = came < size
    except (ConnectionResetError, http.client.IncompleteRead):
        broken = True
    assert came <= size
    assert broken != whole
    # Of what was overwritten long before it was its turn, nothing old is left.
    assert kept != (what == "overwritten")


@pytest.fixture
def small_disk(sandbox):
    """A directory with room for 8 megabytes."""
    taken = "$(($(stat -f -c '%a * %S' /dev/shm) - (8 << 20)))"
    sandbox.commands.run(f"mkdir /dev/shm/small && fallocate -l {taken} /dev/shm/taken")
    return "/dev/shm/small"


@pytest.fixture
def cramped(loop_disk, new_gateway):
    """A sandbox whose own writable layer lies on a file system with little room, and the room."""
    gateway = new_gateway(data_dir=loop_disk(48) / "d").start()
    with Sandbox.create(timeout=120, **gateway.opts) as sandbox:
        yield sandbox


def names(sandbox, directory):
    return sorted(sandbox.commands.run(f"ls -A {directory}").stdout.split())


def check_full(sandbox, directory, eventually):
    """That what does not fit leaves what was there, under its own name and any other."""
    old = "the old content"
    sandbox.files.write(f"{directory}/old", old)
    for name in ("old", "new"):
        for source in (Numbered(64 * MB), bytes(64 * MB)):
            with pytest.raises(NotEnoughSpaceException):
                sandbox.files.write(f"{directory}/{name}", source)
            # What is not whole yet goes by another name, so this holds at once.
            assert "new" not in names(sandbox, directory)
            assert sandbox.files.read(f"{directory}/old") == old
            eventually(lambda: names(sandbox, directory) == ["old"])
    # And there is room again.
    eventually(lambda: fits(sandbox, f"{directory}/new", bytes(7 * MB)), timeout=20)
    assert sandbox.files.get_info(f"{directory}/new").size == 7 * MB


def fits(sandbox, path, content):
    try:
        return sandbox.files.write(path, content)
    except NotEnoughSpaceException:
        return None


def test_a_disk_that_fills_up_in_the_middle_leaves_what_was_there(sandbox, small_disk, eventually):
    check_full(sandbox, small_disk, eventually)


@pytest.mark.plain("a disk that is mounted where tests by TLS look, and their gateway does not")
@pytest.mark.timeout(120)
def test_a_sandbox_of_which_the_layer_fills_up_keeps_what_was_there(cramped, eventually):
    cramped.commands.run("mkdir d")
    # ext4 gives the blocks of a removed file back when its journal commits.
    check_full(cramped, "/home/user/d", eventually)
    # Of what a template has, too, the copy that was to be written is whole or not there.
    before = cramped.commands.run("sha256sum /usr/bin/python3").stdout
    with pytest.raises(NotEnoughSpaceException):
        cramped.files.write("/usr/bin/python3", bytes(64 * MB), user="root")
    assert cramped.commands.run("sha256sum /usr/bin/python3").stdout == before


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
        with gateway.connect(timeout=30) as client:
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
