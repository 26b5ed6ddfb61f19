"""Git in a sandbox, by commands and by the SDK's helpers.

The remote is a bare repository in the same sandbox: no network is needed.
"""

import pytest
from e2b import CommandExitException

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
