"""Files and watches through the SDK, and signed links without it."""

import gzip
import hashlib
import io
import time
from pathlib import PurePosixPath

import httpx
import pytest
from e2b import (
    AuthenticationException,
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    SandboxException,
)
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType as Event

pytestmark = pytest.mark.sdk

ALL_BYTES = bytes(range(256)) * 400
BIG = 200 << 20


class Pattern(io.RawIOBase):
    """A big file that is never in memory whole."""

    def __init__(self, size):
        self.left, self.digest = size, hashlib.sha256()

    def readable(self):
        return True

    def read(self, size=-1):
        size = min(self.left, size if size >= 0 else self.left, 1 << 20)
        block = self.left.to_bytes(8, "big") * (size // 8 + 1)
        self.left -= size
        self.digest.update(block[:size])
        return block[:size]


def test_text_and_bytes_come_back_as_written(sandbox):
    written = sandbox.files.write("notes/a.txt", "grüße\n")
    assert (written.path, written.name) == ("/home/user/notes/a.txt", "a.txt")
    assert written.type == FileType.FILE
    assert sandbox.files.read("notes/a.txt") == "grüße\n"
    sandbox.files.write("/tmp/b.bin", ALL_BYTES)
    assert sandbox.files.read("/tmp/b.bin", format="bytes") == ALL_BYTES
    assert b"".join(sandbox.files.read("/tmp/b.bin", format="stream")) == ALL_BYTES


def test_writing_again_replaces_all_of_a_file_and_keeps_its_inode(sandbox):
    sandbox.files.write("f", "a long first text")
    inode = sandbox.commands.run("stat -c %i f").stdout
    sandbox.files.write("f", "short")
    assert sandbox.files.read("f") == "short"
    assert sandbox.commands.run("stat -c %i f").stdout == inode


def test_an_empty_file_stays_empty(sandbox):
    sandbox.files.write("empty", "")
    assert sandbox.files.get_info("empty").size == 0
    assert sandbox.files.read("empty") == ""
    assert sandbox.files.read("empty", format="bytes") == b""
    assert b"".join(sandbox.files.read("empty", format="stream")) == b""


@pytest.mark.parametrize(
    "name",
    ["grüße 日本.txt", 'quo"ted;=.txt', "per%20cent+plus&.txt", "new\nline", "-dash", "a" * 255],
)
def test_names_of_any_characters_are_kept(sandbox, name):
    path = f"/home/user/in/{name}"
    sandbox.files.write(path, name, use_octet_stream=True)
    assert sandbox.files.read(path) == name
    assert [entry.name for entry in sandbox.files.list("in")] == [name]
    assert sandbox.files.get_info(path).path == path
    sandbox.files.remove(path)
    assert not sandbox.files.exists(path)


def test_many_files_are_written_at_once(sandbox):
    entries = [{"path": f"many/{n % 3}/grüße {n}", "data": f"text {n}"} for n in range(40)]
    entries += [{"path": "/tmp/deep/er/x", "data": ALL_BYTES}, {"path": "empty", "data": b""}]
    written = sandbox.files.write_files(entries)
    expected = [str(PurePosixPath("/home/user") / entry["path"]) for entry in entries]
    assert [info.path for info in written] == expected
    assert sandbox.files.read("many/1/grüße 37") == "text 37"
    assert sandbox.files.read("/tmp/deep/er/x", format="bytes") == ALL_BYTES
    assert sandbox.files.write_files([]) == []


@pytest.mark.parametrize("octet_stream", [False, True])
def test_both_kinds_of_upload_give_the_same_file(sandbox, octet_stream):
    sandbox.files.write("x/y", io.BytesIO(ALL_BYTES), use_octet_stream=octet_stream)
    assert sandbox.files.read("x/y", format="bytes") == ALL_BYTES


def test_compressed_uploads_and_downloads_are_transparent(sandbox):
    text = "the same again and again\n" * 10_000
    sandbox.files.write("zipped", text, gzip=True)
    assert sandbox.files.get_info("zipped").size == len(text)
    assert sandbox.files.read("zipped") == sandbox.files.read("zipped", gzip=True) == text
    assert b"".join(sandbox.files.read("zipped", format="stream", gzip=True)) == text.encode()


def test_a_big_file_streams_both_ways_in_constant_memory(sandbox, memory):
    source = Pattern(BIG)
    sandbox.files.write("/tmp/big", source)
    assert sandbox.files.get_info("/tmp/big").size == BIG
    digest = hashlib.sha256()
    with sandbox.files.read("/tmp/big", format="stream") as stream:
        for chunk in stream:
            digest.update(chunk)
    assert digest.hexdigest() == source.digest.hexdigest()
    memory.assert_constant()


def test_files_belong_to_the_user_who_writes_them(sandbox):
    sandbox.files.write("new/dir/mine", "x")
    for path in ("new", "new/dir", "new/dir/mine"):
        info = sandbox.files.get_info(path)
        assert (info.owner, info.group) == ("user", "user")
    sandbox.files.write("theirs", "x", user="root")
    assert sandbox.files.get_info("/root/theirs", user="root").owner == "root"
    with pytest.raises(AuthenticationException):
        sandbox.files.write("x", "x", user="nobody-of-that-name")


def test_the_token_of_an_mcp_gateway_is_found_where_one_keeps_it(sandbox):
    sandbox.files.write("/etc/mcp-gateway/.token", "secret", user="root")
    assert sandbox.get_mcp_token() == "secret"


def test_paths_start_from_home(sandbox):
    sandbox.files.write("~/tilde", "1")
    assert sandbox.files.read("/home/user/tilde") == sandbox.files.read("tilde") == "1"


def test_info_tells_all_about_an_entry(sandbox):
    sandbox.files.write("f", "12345")
    sandbox.commands.run("chmod 640 f; ln -s f link; ln -s nowhere broken; mkdir d")
    info = sandbox.files.get_info("f")
    assert (info.name, info.path, info.type) == ("f", "/home/user/f", FileType.FILE)
    assert (info.size, info.mode, info.permissions) == (5, 0o640, "-rw-r-----")
    assert info.symlink_target is None and info.metadata is None
    assert abs(info.modified_time.timestamp() - time.time()) < 10
    folder = sandbox.files.get_info("d")
    assert (folder.type, folder.permissions) == (FileType.DIR, "drwxr-xr-x")
    assert sandbox.files.get_info("link").symlink_target == "/home/user/f"
    assert sandbox.files.exists("broken") and not sandbox.files.exists("nowhere")


def test_listing_goes_as_deep_as_asked(sandbox):
    sandbox.commands.run("mkdir -p t/b/c && touch t/a t/b/x t/b/c/y t/z")

    def paths(**depth):
        return [e.path.removeprefix("/home/user/t/") for e in sandbox.files.list("t", **depth)]

    assert paths() == paths(depth=1) == ["a", "b", "z"]
    assert paths(depth=2) == ["a", "b", "b/c", "b/x", "z"]
    assert paths(depth=9) == ["a", "b", "b/c", "b/c/y", "b/x", "z"]
    with pytest.raises(InvalidArgumentException):
        paths(depth=0)


def test_make_dir_says_whether_it_made_one(sandbox):
    assert sandbox.files.make_dir("a/b/c") is True
    assert sandbox.files.make_dir("a/b/c") is False
    sandbox.files.write("file", "x")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.make_dir("file")


def test_rename_moves_files_and_directories(sandbox):
    sandbox.files.write("old", "text")
    moved = sandbox.files.rename("old", "below/new")
    assert moved.path == "/home/user/below/new"
    assert sandbox.files.read("below/new") == "text" and not sandbox.files.exists("old")
    sandbox.files.write("target", "gone")
    sandbox.files.rename("below/new", "target")
    assert sandbox.files.read("target") == "text"
    sandbox.files.rename("below", "renamed")
    assert sandbox.files.get_info("renamed").type == FileType.DIR


def test_remove_takes_a_whole_tree_and_does_not_mind_what_is_not_there(sandbox):
    sandbox.commands.run("mkdir -p tree/a/b && touch tree/a/b/c && ln -s /etc tree/link")
    sandbox.files.remove("tree")
    assert not sandbox.files.exists("tree") and sandbox.files.exists("/etc/passwd")
    sandbox.files.remove("tree")


def test_what_is_missing_or_of_the_wrong_kind_is_said_so(sandbox):
    files = sandbox.files
    for call in (
        lambda: files.read("missing"),
        lambda: files.read("missing", format="stream"),
        lambda: files.get_info("missing"),
        lambda: files.list("missing"),
        lambda: files.rename("missing", "x"),
        lambda: files.watch_dir("missing"),
    ):
        with pytest.raises(FileNotFoundException):
            call()
    assert files.exists("missing") is False
    files.write("file", "x")
    for call in (lambda: files.list("file"), lambda: files.watch_dir("file")):
        with pytest.raises(InvalidArgumentException):
            call()
    for call in (lambda: files.read("/etc"), lambda: files.write("/etc", "x")):
        with pytest.raises(SandboxException):
            call()


def test_the_kernel_keeps_paths_inside_the_sandbox(sandbox):
    assert sandbox.files.read("../../../../etc/hostname") == sandbox.files.read("/etc/hostname")
    sandbox.commands.run("ln -s ../../../../../../../../etc/passwd up")
    assert "user:" in sandbox.files.read("up")


def test_metadata_comes_back_until_the_file_is_written_again(sandbox):
    given = {"kind": "report", "from": "a b=c;d"}
    for octet_stream in (False, True):
        written = sandbox.files.write("m", "x", metadata=given, use_octet_stream=octet_stream)
        assert written.metadata == given
    assert sandbox.files.get_info("m").metadata == given
    assert [e.metadata for e in sandbox.files.list("/home/user") if e.name == "m"] == [given]
    assert sandbox.files.rename("m", "n").metadata == given
    sandbox.files.write("n", "y")
    assert sandbox.files.get_info("n").metadata is None


class Watched:
    """The events of a watch so far."""

    def __init__(self, handle, eventually):
        self.handle, self.eventually, self.events = handle, eventually, []

    def sees(self, name, type):
        def there():
            self.events += self.handle.get_new_events()
            return [event for event in self.events if (event.name, event.type) == (name, type)]

        return self.eventually(there)[0]


def test_a_watch_sees_what_happens_in_its_directory(sandbox, eventually):
    sandbox.commands.run("mkdir -p w/below; touch w/old")
    watch = Watched(sandbox.files.watch_dir("w"), eventually)
    sandbox.files.write("w/new", "x")
    watch.sees("new", Event.CREATE)
    watch.sees("new", Event.WRITE)
    sandbox.commands.run("chmod 600 w/old")
    watch.sees("old", Event.CHMOD)
    sandbox.files.rename("w/old", "w/renamed")
    watch.sees("old", Event.RENAME)
    watch.sees("renamed", Event.CREATE)
    sandbox.files.remove("w/renamed")
    watch.sees("renamed", Event.REMOVE)
    sandbox.files.write("w/below/deep", "x")
    sandbox.files.write("w/last", "x")
    watch.sees("last", Event.CREATE)
    assert not [event for event in watch.events if "deep" in event.name]
    watch.handle.stop()
    with pytest.raises(SandboxException):
        watch.handle.get_new_events()


def test_a_recursive_watch_follows_directories_made_later(sandbox, eventually):
    sandbox.files.make_dir("w/below")
    watch = Watched(sandbox.files.watch_dir("w", recursive=True), eventually)
    sandbox.files.write("w/below/deep", "x")
    watch.sees("below/deep", Event.WRITE)
    sandbox.files.make_dir("w/later")
    watch.sees("later", Event.CREATE)
    sandbox.files.write("w/later/file", "x")
    watch.sees("later/file", Event.WRITE)
    watch.handle.stop()


def test_a_watch_tells_of_the_entry_when_asked(sandbox, eventually):
    sandbox.files.make_dir("w")
    watch = Watched(sandbox.files.watch_dir("w", include_entry=True), eventually)
    sandbox.files.write("w/new", "12345")
    entry = watch.sees("new", Event.WRITE).entry
    assert (entry.path, entry.type) == ("/home/user/w/new", FileType.FILE)
    sandbox.files.remove("w/new")
    assert watch.sees("new", Event.REMOVE).entry is None
    watch.handle.stop()


def test_signed_links_work_without_any_header(sandbox):
    sandbox.files.write("über/s+1.txt", "signed")
    answer = httpx.get(sandbox.download_url("über/s+1.txt", use_signature_expiration=60))
    assert (answer.status_code, answer.text) == (200, "signed")
    upload = sandbox.upload_url("up.txt", user="user", use_signature_expiration=60)
    answer = httpx.post(upload, files={"file": ("up.txt", b"uploaded")})
    assert answer.status_code == 200 and answer.json()[0]["path"] == "/home/user/up.txt"
    assert sandbox.files.read("up.txt") == "uploaded"


def test_expired_and_forged_links_are_refused(sandbox):
    sandbox.files.write("s", "signed")
    late = httpx.get(sandbox.download_url("s", use_signature_expiration=-5))
    assert (late.status_code, late.json()["message"]) == (401, "signature is already expired")
    good = sandbox.download_url("s")
    assert httpx.get(good.replace("path=s", "path=t")).status_code in (401, 404)
    assert httpx.get(good.replace("signature=v1_", "signature=v1_x")).status_code in (401, 404)


def test_envd_answers_nobody_without_its_token(sandbox, gateway):
    to_envd = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    message = (
        "unauthorized access, please provide a valid access token or method signing if supported"
    )
    for token in ({}, {"X-Access-Token": "wrong"}):
        with gateway.http(**to_envd, **token) as http:
            answer = http.post("/process.Process/List", json={})
            assert (answer.status_code, answer.json()) == (401, {"code": 401, "message": message})
            assert http.get("/files", params={"path": "/etc/passwd"}).status_code == 401
            assert http.get("/health").status_code == 204


def test_ranges_are_served(sandbox, gateway):
    sandbox.files.write("digits", "0123456789")
    url = sandbox.download_url("digits")
    part = httpx.get(url, headers={"Range": "bytes=2-4", "Accept-Encoding": "identity"})
    assert (part.status_code, part.text) == (206, "234")
    assert part.headers["Content-Range"] == "bytes 2-4/10"
    zipped = httpx.get(url, headers={"Accept-Encoding": "gzip"})
    assert zipped.text == "0123456789"
    with gateway.http() as http:
        odd = http.post(
            sandbox.upload_url("z"),
            content=gzip.compress(b"zz")[:-6],
            headers={"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"},
        )
    assert odd.status_code == 400
