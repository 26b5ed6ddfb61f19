"""What a sandbox may use at most: said in four places, told, kept, and reported when it is met."""

import pytest
from e2b import CommandExitException, Sandbox
from e2b.exceptions import SandboxException

OPEN = "ulimit -Hn; ulimit -Sn"
TAKE = "python3 -c 'x = [bytearray(16 << 20) for _ in range(99)]'"


def create(gateway, limits, **options):
    metadata = {"coppice.limits": limits}
    return Sandbox.create(timeout=300, metadata=metadata, **options, **gateway.opts)


def told(gateway, sandbox):
    with gateway.http() as http:
        return http.get(f"/v1/sandboxes/{sandbox.sandbox_id}").json()["limits"]


def test_the_smallest_of_what_is_said_is_kept_through_pauses_restarts_and_forks(new_gateway):
    gateway = new_gateway("--limits", "open-files=5000,net-out=900").start()
    sandbox = create(gateway, "memory=300,open-files=600,net-in=500")
    limits = told(gateway, sandbox)
    expected = {"memory": 300, "open-files": 600, "net-in": 500, "net-out": 900, "cpus": 2}
    assert limits == {**limits, **expected}
    assert sandbox.get_info().memory_mb == 300
    assert sandbox.commands.run(OPEN).stdout.split() == ["600", "600"]
    plain = Sandbox.create(timeout=300, **gateway.opts)
    assert plain.commands.run(OPEN).stdout.split() == ["5000", "1024"]

    sandbox.pause(keep_memory=False)
    gateway.end()
    gateway.start()
    assert told(gateway, sandbox) == limits
    sandbox = Sandbox.connect(sandbox.sandbox_id, **gateway.opts)
    assert sandbox.commands.run(OPEN).stdout.split() == ["600", "600"]
    assert told(gateway, sandbox) == limits
    with gateway.http() as http:
        (fork,) = http.post(f"/sandboxes/{sandbox.sandbox_id}/fork", json={}).json()
        id = fork["sandbox"]["sandboxID"]
        assert http.get(f"/v1/sandboxes/{id}").json()["limits"] == limits


def test_who_asks_for_more_than_there_is_is_refused_with_what_there_is(gateway):
    for limits, why in [
        ("memory=99999", "memory: 99999 MiB is more than the 1024 MiB"),
        ("swap=1", "swap: 1 MiB is more than the 0 MiB"),
        ("memory=lots", "coppice.limits must be memory from 1 to"),
        ("colour=1", "coppice.limits must be a list such as memory=512"),
    ]:
        with pytest.raises(SandboxException, match="400") as refused:
            create(gateway, limits)
        assert why in str(refused.value)


def test_a_command_that_the_memory_was_too_little_for_is_told_so(gateway, eventually):
    sandbox = create(gateway, "memory=128")
    try:
        for command in (f"exec {TAKE}", f"{TAKE}; exit $?"):
            with pytest.raises(CommandExitException) as killed:
                sandbox.commands.run(command)
            assert "the sandbox's memory had run out" in killed.value.error
        with pytest.raises(CommandExitException) as killed:
            sandbox.commands.run("kill -9 $$")
        assert killed.value.error == "signal: killed"

        def logged():
            with gateway.http() as http:
                logs = http.get(f"/v2/sandboxes/{sandbox.sandbox_id}/logs").json()["logs"]
            return [entry["message"] for entry in logs]

        said = "command killed: the sandbox's memory had run out"
        eventually(lambda: logged().count(said) == 2)
    finally:
        sandbox.kill()
