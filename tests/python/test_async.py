"""The main list through the asynchronous half of the SDK."""

import asyncio
import time
import uuid

import httpx
import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    FileNotFoundException,
    NotFoundException,
    PtySize,
    SandboxQuery,
    TimeoutException,
)
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType as Event

pytestmark = pytest.mark.sdk


async def until(condition, timeout=5):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout} s"
        await asyncio.sleep(0.02)


async def test_create_info_list_timeout_connect_and_kill(gateway):
    run = {"run": str(uuid.uuid4())}
    sandbox = await AsyncSandbox.create(timeout=100, metadata=run, envs={"A": "1"})
    assert await sandbox.is_running()
    info = await sandbox.get_info()
    assert (info.template_id, info.metadata) == ("base", run)
    paginator = AsyncSandbox.list(query=SandboxQuery(metadata=run), limit=1)
    assert [one.sandbox_id for one in await paginator.next_items()] == [sandbox.sandbox_id]
    assert not paginator.has_next
    await sandbox.set_timeout(500)
    later = await sandbox.get_info()
    assert 395 < (later.end_at - info.end_at).total_seconds() < 410
    again = await AsyncSandbox.connect(sandbox.sandbox_id, timeout=10)
    assert (await again.commands.run("echo $A")).stdout == "1\n"
    assert (await again.get_info()).end_at == later.end_at
    assert await sandbox.kill() is True
    assert await sandbox.kill() is False
    assert not await sandbox.is_running()
    with pytest.raises(NotFoundException):
        await AsyncSandbox.get_info(sandbox.sandbox_id)


async def test_commands_with_callbacks_users_and_exit_codes(async_sandbox):
    out, err = [], []
    done = await async_sandbox.commands.run(
        "whoami; echo $MINE; pwd; echo oops >&2",
        user="root",
        envs={"MINE": "x"},
        cwd="/etc",
        on_stdout=out.append,
        on_stderr=err.append,
    )
    assert done.stdout == "".join(out) == "root\nx\n/etc\n"
    assert done.stderr == "".join(err) == "oops\n"
    with pytest.raises(CommandExitException) as failed:
        await async_sandbox.commands.run("exit 9")
    assert failed.value.exit_code == 9
    with pytest.raises(TimeoutException):
        await async_sandbox.commands.run("sleep 30", timeout=1)


async def test_background_stdin_second_client_and_kill(async_sandbox):
    commands = async_sandbox.commands
    handle = await commands.run("read line; echo got $line; sleep 60", background=True, stdin=True)
    other = await AsyncSandbox.connect(async_sandbox.sandbox_id)
    second = await other.commands.connect(handle.pid)
    assert [process.pid for process in await commands.list()] == [handle.pid]
    await commands.send_stdin(handle.pid, "this\n")
    await until(lambda: handle.stdout == second.stdout == "got this\n")
    assert await commands.kill(handle.pid) is True
    for client in (handle, second):
        with pytest.raises(CommandExitException):
            await client.wait()
    assert await commands.kill(987654) is False
    copy = await commands.run("cat", background=True, stdin=True)
    await copy.send_stdin("all")
    await copy.close_stdin()
    assert (await copy.wait()).stdout == "all"
    other = await commands.run("cat", background=True, stdin=True)
    await commands.close_stdin(other.pid)
    assert (await other.wait()).stdout == ""


async def test_input_streams(async_sandbox, sdk_since):
    sdk_since(2, 46)
    handle = await async_sandbox.commands.run("cat", background=True, stdin=True)
    async with async_sandbox.commands.stream_input(handle.pid) as stream:
        for n in range(5):
            await stream.send(f"{n} ")
    await async_sandbox.commands.close_stdin(handle.pid)
    assert (await handle.wait()).stdout == "0 1 2 3 4 "


async def test_a_hundred_commands_at_once(async_sandbox):
    runs = [async_sandbox.commands.run(f"echo {n}") for n in range(100)]
    assert [done.stdout for done in await asyncio.gather(*runs)] == [f"{n}\n" for n in range(100)]


async def test_a_terminal(async_sandbox):
    shown = bytearray()
    handle = await async_sandbox.pty.create(PtySize(rows=24, cols=80), on_data=shown.extend)
    await async_sandbox.pty.send_stdin(handle.pid, b"stty size\n")
    await until(lambda: b"24 80" in shown)
    await async_sandbox.pty.resize(handle.pid, PtySize(rows=30, cols=90))
    await async_sandbox.pty.send_stdin(handle.pid, b"stty size\n")
    await until(lambda: b"30 90" in shown)
    also = bytearray()
    second = await async_sandbox.pty.connect(handle.pid, on_data=also.extend)
    await async_sandbox.pty.send_stdin(handle.pid, b"echo to''both\n")
    await until(lambda: b"toboth" in shown and b"toboth" in also)
    assert await async_sandbox.pty.kill(handle.pid) is True
    for client in (handle, second):
        with pytest.raises(CommandExitException):
            await client.wait()


async def test_files(async_sandbox):
    files = async_sandbox.files
    await files.write("a/b.txt", "grüße", metadata={"k": "v"})
    assert await files.read("a/b.txt") == "grüße"
    assert await files.read("a/b.txt", format="bytes") == "grüße".encode()
    chunks = [chunk async for chunk in await files.read("a/b.txt", format="stream")]
    assert b"".join(chunks) == "grüße".encode()
    written = await files.write_files([{"path": f"many/{n}", "data": str(n)} for n in range(10)])
    assert [info.path for info in written] == [f"/home/user/many/{n}" for n in range(10)]
    assert len(await files.list("many")) == 10
    assert (await files.get_info("a/b.txt")).metadata == {"k": "v"}
    assert await files.make_dir("many") is False
    assert (await files.rename("many/3", "a/three")).name == "three"
    await files.remove("many")
    assert not await files.exists("many")
    with pytest.raises(FileNotFoundException):
        await files.read("many/1")


@pytest.mark.parametrize(("recursive", "name"), [(False, "new"), (True, "below/new")])
async def test_a_watch_calls_back(async_sandbox, recursive, name):
    files, events, ends = async_sandbox.files, [], []
    await files.make_dir("w/below")
    watch = await files.watch_dir("w", events.append, on_exit=ends.append, recursive=recursive)
    await files.write(f"w/{name}", "x")
    await until(lambda: (name, Event.WRITE) in [(event.name, event.type) for event in events])
    assert (name, Event.CREATE) == (events[0].name, events[0].type)
    await watch.stop()
    await until(lambda: ends == [None])
    seen = len(events)
    await files.write("w/unseen", "x")
    await asyncio.sleep(0.3)
    assert len(events) == seen


async def test_a_watch_ends_with_its_own_timeout(async_sandbox):
    ends = []
    await async_sandbox.files.watch_dir("/tmp", lambda _: None, on_exit=ends.append, timeout=1)
    await until(lambda: ends)
    assert isinstance(ends[0], TimeoutException)


async def test_the_methods_of_the_class_and_of_one_sandbox_do_the_same(gateway):
    sandbox = await AsyncSandbox.create(timeout=100)
    id = sandbox.sandbox_id
    assert sandbox.get_host(80) == f"80-{id}.{sandbox.sandbox_domain}"
    assert (await AsyncSandbox.get_info(id)).sandbox_id == id
    await AsyncSandbox.set_timeout(id, 500)
    end = (await sandbox.get_info()).end_at
    await sandbox.connect(timeout=50)
    assert (await sandbox.get_info()).end_at == end
    assert await AsyncSandbox.kill(id) is True
    assert await AsyncSandbox.kill(id) is False


async def test_signed_links(async_sandbox):
    upload = async_sandbox.upload_url("up.txt", user="user", use_signature_expiration=60)
    async with httpx.AsyncClient() as http:
        sent = await http.post(upload, files={"file": ("up.txt", b"uploaded")})
        assert sent.status_code == 200, sent.text
        assert (await http.get(async_sandbox.download_url("up.txt"))).text == "uploaded"


async def test_the_token_of_an_mcp_gateway_is_found_where_one_keeps_it(async_sandbox):
    await async_sandbox.files.write("/etc/mcp-gateway/.token", "secret", user="root")
    assert await async_sandbox.get_mcp_token() == "secret"


async def test_a_command_is_left_and_found_again_and_killed_by_its_handle(async_sandbox):
    left = await async_sandbox.commands.run("sleep 60", background=True)
    await left.disconnect()
    found = await async_sandbox.commands.connect(left.pid)
    assert await found.kill() is True
    with pytest.raises(CommandExitException):
        await found.wait()


async def test_input_streams_into_a_terminal(async_sandbox, sdk_since):
    sdk_since(2, 46)
    shown = bytearray()
    handle = await async_sandbox.pty.create(PtySize(rows=24, cols=80), on_data=shown.extend)
    async with async_sandbox.pty.stream_input(handle.pid) as stream:
        await stream.send(b"echo st")
        await stream.send(b"rea''med\n")
        await until(lambda: b"streamed" in shown)
    assert await async_sandbox.pty.kill(handle.pid) is True


async def test_git_clones_a_local_repository(async_sandbox):
    await async_sandbox.commands.run(
        "git init -q -b main r && cd r && touch f && git add f"
        " && git -c user.name=A -c user.email=a@example.com commit -qm 'the first'"
    )
    await async_sandbox.git.clone("/home/user/r", path="work")
    log = await async_sandbox.commands.run("git -C work log --format=%s")
    assert log.stdout == "the first\n"
