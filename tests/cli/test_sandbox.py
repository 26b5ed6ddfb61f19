"""`e2b sandbox ...` against the real gateway."""

import re
import uuid

import pytest

from gateway import Gateway


def create(cli, *options):
    id = cli.ok("sandbox", "create", "--detach", *options).strip()
    assert re.fullmatch("[0-9a-f]{32}", id)
    return id


def test_one_created_detached_is_listed_described_and_killed(cli, gateway):
    id = create(cli, "base", "--timeout", "100")
    (row,) = [line for line in cli.ok("sandbox", "list").splitlines() if line.startswith(id)]
    assert {"base", "Running", "1024", "0.6.13"} <= set(row.split())
    (listed,) = [one for one in cli.json("sandbox", "list", "-f", "json") if one["sandboxId"] == id]
    assert (listed["state"], listed["cpuCount"], listed["memoryMB"]) == ("running", 2, 1024)
    assert f"Sandbox ID: {id}" in cli.ok("sandbox", "info", id)
    info = cli.json("sandbox", "info", "--format", "json", id)
    assert (info["name"], info["state"]) == ("base", "running")
    assert info["lifecycle"] == {"onTimeout": "kill", "autoResume": False}
    assert f"{id} has been killed" in cli.ok("sandbox", "kill", id)
    assert id not in gateway.ids()


def test_a_list_is_filtered_ordered_and_bounded(cli, gateway):
    run = uuid.uuid4().hex
    with gateway.http() as http:
        body = {"templateID": "base", "metadata": {"run": run, "odd": "a b&c"}}
        made = [http.post("/v2/sandboxes", json=body).json()["sandboxID"] for _ in range(3)]

    def listed(*options):
        found = cli.json("sandbox", "list", "-f", "json", "-m", f"run={run}", *options)
        return [one["sandboxId"] for one in found]

    # It orders what it shows itself, oldest first unless told otherwise.
    assert listed() == made
    assert listed("--order", "desc", "--limit", "2") == made[:0:-1]
    assert listed("--state", "paused") == listed("--template", "no-such-template") == []
    assert '"odd":"a b&c"' in cli.ok("sandbox", "list", "-m", f"run={run}")
    cli.ok("sandbox", "kill", *made[:2])
    assert gateway.ids() & set(made) == {made[2]}
    assert "Killed 1 running sandboxes" in cli.ok("sandbox", "kill", "-a", "-m", f"run={run}")
    assert not gateway.ids() & set(made)


def test_all_are_killed_at_once(cli, gateway):
    made = {create(cli), create(cli)}
    assert made <= gateway.ids()
    said = cli.ok("sandbox", "kill", "--all")
    assert all(id in said for id in made) and not gateway.ids()
    assert "No sandboxes found" in cli.ok("sandbox", "list")


def test_one_is_paused_and_resumed(cli, gateway, sandbox):
    cli.ok("sandbox", "exec", sandbox, "echo kept > note")

    def state():
        listed = cli.json("sandbox", "list", "-f", "json", "--state", "running,paused")
        (one,) = [one for one in listed if one["sandboxId"] == sandbox]
        return one["state"], cli.json("sandbox", "info", "-f", "json", sandbox)["state"]

    cli.ok("sandbox", "pause", sandbox)
    assert state() == ("paused", "paused")
    cli.ok("sandbox", "resume", sandbox)
    assert state() == ("running", "running")
    assert cli.ok("sandbox", "exec", sandbox, "cat note") == "kept\n"


def test_one_is_paused_at_its_deadline_when_asked_to(cli, gateway, eventually):
    id = create(cli, "--lifecycle.ontimeout", "pause")
    with gateway.http() as http:
        # Sooner than the CLI would have it.
        assert http.post(f"/sandboxes/{id}/timeout", json={"timeout": 1}).status_code == 204
    info = lambda: cli.json("sandbox", "info", "--format", "json", id)  # noqa: E731
    assert info()["lifecycle"] == {"onTimeout": "pause", "autoResume": False}
    eventually(lambda: info()["state"] == "paused", timeout=20)
    assert f"{id} has been killed" in cli.ok("sandbox", "kill", id)


def test_exec_gives_output_and_exit_code(cli, sandbox):
    done = cli.run("sandbox", "exec", sandbox, "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, "out\n")
    assert done.stderr.startswith("err\n")
    assert cli.ok("sandbox", "exec", sandbox, "echo", "--help", "a b") == "--help a b\n"


def test_exec_passes_user_directory_and_environment(cli, sandbox):
    options = ["--user", "root", "--cwd", "/etc", "--env", "MINE=a b"]
    shown = cli.ok("sandbox", "exec", *options, sandbox, 'echo "$(whoami) $PWD $MINE"')
    assert shown == "root /etc a b\n"


def test_exec_reads_a_pipe_to_its_end(cli, sandbox):
    text = "".join(f"line {n} ü\n" for n in range(20_000))
    assert cli.ok("sandbox", "exec", sandbox, "cat", input=text) == text
    counted = cli.ok("sandbox", "exec", sandbox, "wc -c", input=text)
    assert int(counted) == len(text.encode())


def test_exec_in_the_background_returns_at_once(cli, sandbox, eventually):
    cli.ok("sandbox", "exec", "--background", sandbox, "sleep 1; touch /tmp/done; sleep 60")
    shown = cli.ok("sandbox", "exec", sandbox, "pgrep -c sleep; until [ -e /tmp/done ]; do :; done")
    assert int(shown) == 1


def test_connect_is_a_terminal_in_the_sandbox(cli, gateway, sandbox):
    with cli.terminal("sandbox", "connect", "--env", "MINE=yes", sandbox) as terminal:
        terminal.wait_for("$")
        terminal.type("echo to''gether $MINE; stty size; tty\n")
        terminal.wait_for("together yes")
        terminal.wait_for("30 100")
        terminal.wait_for("/dev/pts/")
        terminal.type("echo be''gun; sleep 100\n")
        terminal.wait_for("begun")
        terminal.type("\x03")
        terminal.wait_for("^C")
        terminal.type("echo af''ter\n")
        terminal.wait_for("after")
        terminal.type("exit\n")
        assert terminal.ended() == 0
    assert sandbox in gateway.ids()


def test_create_opens_a_terminal_and_its_end_is_the_end_of_the_sandbox(cli, gateway, eventually):
    before = gateway.ids()
    with cli.terminal("sandbox", "create", "--user", "root") as terminal:
        terminal.wait_for("#")
        (id,) = gateway.ids() - before
        terminal.type("whoami; echo $E2B_SANDBOX_ID\n")
        terminal.wait_for("root")
        terminal.wait_for(id)
        terminal.type("exit\n")
        assert terminal.ended() == 0
    eventually(lambda: id not in gateway.ids())


def test_a_snapshot_is_made_listed_used_and_deleted(cli, gateway, sandbox):
    cli.ok("sandbox", "exec", sandbox, "echo kept > note")
    cli.ok("sandbox", "snapshot", "create", sandbox)
    with gateway.http() as http:
        (made,) = http.get("/snapshots", params={"sandboxID": sandbox}).json()
    id = made["snapshotID"]
    assert id in cli.ok("sandbox", "snapshot", "list", sandbox)
    other = create(cli, id)
    assert cli.ok("sandbox", "exec", other, "cat note") == "kept\n"
    with gateway.http() as http:
        assert http.delete(f"/sandboxes/{other}").status_code == 204
        cli.ok("sandbox", "snapshot", "delete", id)
        assert http.get("/snapshots", params={"sandboxID": sandbox}).json() == []


def test_create_refuses_what_it_cannot_keep(cli, gateway):
    before = gateway.ids()
    assert "'no-such-template' not found" in cli.refused(
        "sandbox", "create", "-d", "no-such-template"
    )
    assert gateway.ids() == before


def test_no_key_and_a_wrong_key_are_told(cli):
    assert "E2B_API_KEY" in cli.refused("sandbox", "list", env={"E2B_API_KEY": ""})
    good, wrong = ("e2b_" + digit * 40 for digit in "12")
    guarded = Gateway(env={"COPPICE_API_KEYS": good})
    try:
        guarded.start()
        there = {"E2B_API_URL": guarded.url, "E2B_SANDBOX_URL": guarded.url}
        for argv in (["list"], ["create", "-d"], ["info", "x"], ["kill", "x"]):
            said = cli.refused("sandbox", *argv, env={**there, "E2B_API_KEY": wrong})
            assert "invalid API key" in said
        assert "No sandboxes" in cli.ok("sandbox", "list", env={**there, "E2B_API_KEY": good})
    finally:
        guarded.remove()


@pytest.mark.parametrize("killed", [False, True])
def test_a_sandbox_that_is_not_there_is_not_found(cli, gateway, sandbox, killed):
    id = sandbox if killed else uuid.uuid4().hex
    if killed:
        cli.ok("sandbox", "kill", id)
    wasnt_found = f"{id} wasn't found"
    assert wasnt_found in cli.refused("sandbox", "info", id)
    assert wasnt_found in cli.run("sandbox", "kill", id).stderr
    assert f"{id} not found" in cli.refused("sandbox", "exec", id, "true")
    assert f"{id} not found" in cli.refused("sandbox", "connect", id)


def test_an_id_no_sandbox_can_have_is_refused(cli):
    assert "400" in cli.refused("sandbox", "info", "a.b")
    assert "400" in cli.refused("sandbox", "exec", "a.b", "true")
