"""Snapshots and forks: what they carry of a sandbox, and what becomes of them."""

import inspect
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import e2b
import pytest
from e2b import AsyncSandbox, Sandbox, SandboxException

from hoststate import HostState, assert_back_to, processes_of
from test_kept_files import described, furnished

halves = pytest.mark.parametrize("half", [Sandbox, AsyncSandbox], ids=["sync", "async"])
files = pytest.mark.plain("what becomes of files")
FORKS = hasattr(Sandbox, "fork")


async def settled(result):
    return await result if inspect.isawaitable(result) else result


@pytest.fixture
def own(new_gateway):
    """A gateway of the test's own, and what the host looked like before it."""
    gateway = new_gateway()
    gateway.before = HostState.of(gateway)
    return gateway.start()


def copies(gateway):
    return os.listdir(Path(gateway.data_dir) / "snapshots")


@pytest.mark.sdk
@halves
async def test_a_sandbox_is_made_from_a_snapshot_and_the_snapshot_deleted(gateway, half):
    if not hasattr(Sandbox, "create_snapshot"):
        pytest.skip(f"e2b {e2b.__name__} has no snapshots")
    sandbox = await settled(half.create(timeout=300))
    await settled(sandbox.files.write("note", "kept"))
    first = await settled(sandbox.create_snapshot())
    second = await settled(half.create_snapshot(sandbox.sandbox_id))
    await settled(sandbox.files.write("note", "later"))
    listed = await settled(sandbox.list_snapshots().next_items())
    assert [it.snapshot_id for it in listed] == [second.snapshot_id, first.snapshot_id]
    pages = half.list_snapshots(sandbox_id=sandbox.sandbox_id, limit=1)
    page = await settled(pages.next_items())
    assert [it.snapshot_id for it in page] == [second.snapshot_id] and pages.has_next
    page = await settled(pages.next_items())
    assert [it.snapshot_id for it in page] == [first.snapshot_id] and not pages.has_next
    await settled(sandbox.kill())

    made = await settled(half.create(first.snapshot_id, timeout=300))
    assert await settled(made.files.read("note")) == "kept"
    with pytest.raises(SandboxException, match="400"):
        await settled(half.delete_snapshot(first.snapshot_id))
    await settled(made.kill())
    for snapshot in (first, second):
        assert await settled(half.delete_snapshot(snapshot.snapshot_id)) is True
        assert await settled(half.delete_snapshot(snapshot.snapshot_id)) is False
    with pytest.raises(SandboxException, match="not found"):
        await settled(half.create(first.snapshot_id))


@pytest.mark.sdk
@halves
async def test_forks_have_the_files_and_the_settings_and_go_their_own_ways(gateway, half):
    if not FORKS:
        pytest.skip("this SDK has no forks")
    settings = {"metadata": {"a": "b"}, "envs": {"MINE": "yes"}}
    sandbox = await settled(half.create(timeout=300, **settings))
    await settled(sandbox.files.write("note", "kept"))
    ends = (await settled(sandbox.get_info())).end_at
    (alone,) = await settled(half.fork(sandbox.sandbox_id, timeout=300))
    forks = [alone, *await settled(sandbox.fork(count=2, timeout=300))]
    assert len({it.sandbox_id for it in [sandbox, *forks]}) == 4
    for n, fork in enumerate(forks):
        assert await settled(fork.files.read("note")) == "kept"
        await settled(fork.files.write("note", str(n)))
        command = await settled(fork.commands.run("echo $MINE $(hostname)"))
        assert command.stdout == f"yes {fork.sandbox_id}\n"
        info = await settled(fork.get_info())
        assert (info.template_id, info.metadata) == ("base", {"a": "b"})
    assert (await settled(sandbox.get_info())).end_at == ends
    assert await settled(sandbox.files.read("note")) == "kept"
    assert [await settled(it.files.read("note")) for it in forks] == ["0", "1", "2"]
    for it in [sandbox, *forks]:
        await settled(it.kill())


@files
def test_a_copy_is_the_files_as_they_were_and_leaves_nothing_when_its_last_user_goes(own):
    with_opts = SimpleNamespace(timeout=300, **own.opts)
    sandbox = Sandbox.create(**vars(with_opts))
    before = furnished(sandbox)
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    snapshot = sandbox.create_snapshot(name="Furnished:v1")
    assert (snapshot.snapshot_id, snapshot.names) == ("furnished:v1", ["furnished:v1"])
    (fork,) = sandbox.fork(timeout=300)
    assert [it.cmd for it in sandbox.commands.list()] and not fork.commands.list()
    made = Sandbox.create("furnished:v1", **vars(with_opts))
    for copy in (made, fork):
        assert described(copy) == before
    # And once more over that, with what is hidden of the copy.
    made.commands.run("rm -r tree/below; echo new > tree/file; sudo rm /usr/share/doc/new")
    again = made.create_snapshot()
    over = Sandbox.create(again.snapshot_id, **vars(with_opts))
    assert described(over) == described(made) != before
    assert described(fork) == before

    own.end(signal.SIGKILL)
    own.start()
    assert described(over) == described(made)
    assert len(Sandbox.list_snapshots(**own.opts).next_items()) == 2
    for it in (sandbox, fork, made):
        assert it.kill() is True
    assert Sandbox.delete_snapshot("furnished:v1", **own.opts) is True
    assert "tree/file" in described(over)
    assert over.kill() is True
    assert Sandbox.delete_snapshot(again.snapshot_id, **own.opts) is True
    deadline = time.monotonic() + 20
    while copies(own):
        assert time.monotonic() < deadline, copies(own)
        time.sleep(0.1)
    own.end()
    own.down()
    assert_back_to(own.before, own)


@files
def test_what_is_written_all_the_time_is_copied_as_it_was_at_one_instant(own):
    sandbox = Sandbox.create(timeout=300, **own.opts)
    # Two files that are the same whenever nothing runs, one of them through a mapping.
    writing = """python3 -c '
import mmap, os, signal
file = open("/tmp/mapped", "w+b"); file.truncate(8); mapped = mmap.mmap(file.fileno(), 8)
other = os.open("/tmp/other", os.O_CREAT | os.O_RDWR)
n = 0
while True:
    n += 1
    mapped[:] = n.to_bytes(8, "big")
    os.pwrite(other, n.to_bytes(8, "big"), 0)
'"""
    sandbox.commands.run("dd if=/dev/urandom of=/tmp/large bs=1M count=64 status=none")
    sandbox.commands.run(writing, background=True, timeout=0)
    while not sandbox.files.exists("/tmp/other"):
        time.sleep(0.05)
    for _ in range(3):
        (fork,) = sandbox.fork(timeout=300)
        both = fork.commands.run("od -An -tu8 --endian=big /tmp/mapped /tmp/other").stdout.split()
        # Between the two writes there is one instruction at which they differ.
        assert 0 <= int(both[0]) - int(both[1]) <= 1 and int(both[0]) > 0
        sums = [it.commands.run("md5sum < /tmp/large").stdout for it in (sandbox, fork)]
        assert sums[0] == sums[1]


@files
def test_a_paused_sandbox_is_not_copied_and_what_cannot_be_is_said(own):
    sandbox = Sandbox.create(timeout=300, **own.opts)
    sandbox.commands.run("python3 -c 'import os\nfor _ in range(300): os.mkdir(\"d\"); os.chdir(\"d\")'")
    with pytest.raises(SandboxException, match="400.*256 directories"):
        sandbox.create_snapshot()
    sandbox.commands.run("rm -r d")
    sandbox.pause()
    with own.http() as http:
        for what in ("fork", "snapshots"):
            refused = http.post(f"/sandboxes/{sandbox.sandbox_id}/{what}")
            assert (refused.status_code, refused.json()["code"]) == (409, 409)
        assert http.get(f"/sandboxes/{sandbox.sandbox_id}").json()["state"] == "paused"
    assert not copies(own)
    Sandbox.connect(sandbox.sandbox_id, **own.opts)
    assert sandbox.create_snapshot(mode="filesystem").snapshot_id
    with pytest.raises(SandboxException, match="400.*memory"):
        sandbox.create_snapshot(mode="full")


@files
def test_nothing_is_copied_where_less_of_the_disk_is_free_than_is_to_be(new_gateway):
    gateway = new_gateway("--disk-headroom", str(1 << 30)).start()
    sandbox = Sandbox.create(timeout=300, **gateway.opts)
    sandbox.files.write("note", "kept")
    with gateway.http() as http:
        for what in ("fork", "snapshots"):
            refused = http.post(f"/sandboxes/{sandbox.sandbox_id}/{what}")
            assert (refused.status_code, refused.json()["code"]) == (507, 507)
            assert "no room on the disk" in refused.json()["message"]
    with pytest.raises(SandboxException, match="507"):
        sandbox.create_snapshot()
    assert not copies(gateway)
    assert not Sandbox.list_snapshots(**gateway.opts).next_items()
    assert sandbox.files.read("note") == "kept"
    gateway.end()
    gateway.flags = ("--disk-headroom", "1")
    gateway.start()
    snapshot = sandbox.create_snapshot()
    made = Sandbox.create(snapshot.snapshot_id, timeout=300, **gateway.opts)
    assert made.files.read("note") == "kept"


@files
def test_a_copy_is_broken_off_by_a_kill(own):
    sandbox = Sandbox.create(timeout=300, **own.opts)
    sandbox.commands.run("dd if=/dev/urandom of=/tmp/large bs=1M count=256 status=none")
    with own.http() as http:
        answers = []
        ask = threading.Thread(
            target=lambda: answers.append(http.post(f"/sandboxes/{sandbox.sandbox_id}/fork"))
        )
        ask.start()
        while not copies(own) and not answers:
            time.sleep(0.005)
        assert sandbox.kill() is True
        ask.join(timeout=30)
    # It may have been through.
    assert answers[0].status_code in (201, 404)
    assert not processes_of(sandbox.sandbox_id)
    deadline = time.monotonic() + 30
    while copies(own) and answers[0].status_code == 404:
        assert time.monotonic() < deadline, copies(own)
        time.sleep(0.1)
