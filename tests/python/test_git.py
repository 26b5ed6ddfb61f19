"""Git in a sandbox, by commands and by the SDK's helpers.

The remote is a bare repository in the same sandbox: no network is needed.
"""

import inspect

import pytest
from e2b import AsyncSandbox, CommandExitException, Sandbox

pytestmark = pytest.mark.sdk

REMOTE = "/home/user/remote.git"
MAKE_REMOTE = f"""set -e
git init -q --bare -b main {REMOTE}
git clone -q {REMOTE} seed 2>/dev/null
cd seed
git config user.email a@example.com && git config user.name A
mkdir -p docs && echo '# title' > README.md && echo text > docs/über.txt
git add -A && git commit -qm 'first' && git push -q origin HEAD:main
"""


@pytest.fixture
def remote(sandbox):
    sandbox.commands.run(MAKE_REMOTE)
    return sandbox


def test_a_local_repository_is_cloned_by_a_command(remote):
    remote.commands.run(f"git clone -q {REMOTE} work")
    assert remote.files.read("work/README.md") == "# title\n"
    assert remote.files.read("work/docs/über.txt") == "text\n"
    assert remote.commands.run("git -C work log --format=%s").stdout == "first\n"


def test_a_local_repository_is_cloned_by_the_sdk(remote):
    remote.git.clone(f"file://{REMOTE}", path="work", depth=1)
    status = remote.git.status("work")
    assert (status.current_branch, status.is_clean) == ("main", True)


def test_a_change_is_committed_and_pushed_by_the_sdk(remote):
    remote.git.clone(REMOTE, path="work")
    remote.git.configure_user("B", "b@example.com")
    remote.files.write("work/new.txt", "new")
    assert remote.git.status("work").has_untracked
    remote.git.add("work")
    remote.git.commit("work", "second")
    remote.git.push("work", remote="origin", branch="main")
    log = remote.commands.run(f"git -C {REMOTE} log --format=%s:%ae main").stdout
    assert log.splitlines() == ["second:b@example.com", "first:a@example.com"]
    remote.git.create_branch("work", "topic")
    assert remote.git.branches("work").current_branch == "topic"


def test_cloning_what_is_not_there_fails_without_asking_for_a_password(sandbox):
    with pytest.raises(CommandExitException) as failed:
        sandbox.git.clone("/home/user/nothing.git", path="work")
    assert failed.value.exit_code == 128


@pytest.mark.parametrize("sdk", [Sandbox, AsyncSandbox])
async def test_every_helper_of_the_sdk_does_what_it_is_called(remote, sdk):
    async def done(result):
        return await result if inspect.isawaitable(result) else result

    files, git = remote.files, (await done(sdk.connect(remote.sandbox_id))).git
    await done(git.configure_user("B", "b@example.com"))
    await done(git.set_config("pull.rebase", "true"))
    assert await done(git.get_config("pull.rebase")) == "true"
    assert await done(git.get_config("no.such")) is None
    await done(git.dangerously_authenticate("me", "secret", host="git.test"))
    assert "me:secret@git.test" in files.read(".git-credentials")

    await done(git.init("r", initial_branch="main"))
    await done(git.remote_add("r", "origin", REMOTE))
    assert await done(git.remote_get("r", "origin")) == REMOTE
    await done(git.pull("r", remote="origin", branch="main"))
    assert files.read("r/README.md") == "# title\n"

    await done(git.create_branch("r", "topic"))
    files.write("r/README.md", "changed\n")
    await done(git.add("r", files=["README.md"]))
    assert (await done(git.status("r"))).has_staged
    await done(git.restore("r", ["README.md"], staged=True))
    assert not (await done(git.status("r"))).has_staged
    await done(git.reset("r", mode="hard"))
    assert files.read("r/README.md") == "# title\n"
    await done(git.commit("r", "nothing", allow_empty=True))
    await done(git.push("r", remote="origin", branch="topic"))
    await done(git.checkout_branch("r", "main"))
    await done(git.delete_branch("r", "topic", force=True))
    branches = await done(git.branches("r"))
    assert (branches.branches, branches.current_branch) == (["main"], "main")
    await done(git.clone(REMOTE, path="again", branch="topic"))
    log = remote.commands.run("git -C again log --format=%s").stdout
    assert log == "nothing\nfirst\n"
