"""Fifty sandboxes at once: all answer, and nothing stays when they are gone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import Sandbox

from hoststate import HostState, assert_back_to

MANY = 50


def work(sandbox, n):
    """A handful of what a user does, with answers that only this sandbox can give."""
    sandbox.files.write("who", f"sandbox {n}")
    said = [sandbox.commands.run(f"echo {n}.{turn}; cat who").stdout for turn in range(3)]
    sandbox.commands.run("sleep 300", background=True, timeout=0)
    counted = sandbox.commands.run("seq 1000 | paste -sd+ | python3 -c 'print(eval(input()))'")
    return (
        said == [f"{n}.{turn}\nsandbox {n}" for turn in range(3)] and counted.stdout == "500500\n"
    )


@pytest.mark.timeout(180)
def test_fifty_sandboxes_at_once_all_answer_and_leave_nothing(gateway):
    start = HostState.of(gateway)
    with ThreadPoolExecutor(MANY) as pool:
        made = list(
            pool.map(lambda n: Sandbox.create(timeout=170, metadata={"n": str(n)}), range(MANY))
        )
        try:
            assert len({sandbox.sandbox_id for sandbox in made}) == MANY
            assert {sandbox.sandbox_id for sandbox in made} <= gateway.ids()
            assert all(pool.map(work, made, range(MANY)))
            assert all(pool.map(lambda sandbox: len(sandbox.commands.list()) == 1, made))
        finally:
            killed = list(pool.map(lambda sandbox: sandbox.kill(), made))
        assert all(killed)
        assert not any(pool.map(lambda sandbox: sandbox.is_running(), made))
    assert_back_to(start, gateway)


@pytest.mark.timeout(120)
def test_making_and_ending_over_and_over_leaves_nothing(gateway):
    start = HostState.of(gateway)
    for _ in range(40):
        with Sandbox.create(timeout=60) as sandbox:
            sandbox.commands.run("sleep 60", background=True)
    assert_back_to(start, gateway)


def test_a_create_killed_at_once_leaves_nothing(gateway):
    start = HostState.of(gateway)
    with ThreadPoolExecutor(10) as pool:
        assert all(pool.map(lambda _: Sandbox.create(timeout=60).kill(), range(20)))
    assert_back_to(start, gateway)
