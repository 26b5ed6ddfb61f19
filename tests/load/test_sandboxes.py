"""As many sandboxes as there may be."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import KEY, MOST, create, kill
from wire import Wire


@pytest.mark.timeout(180)
def test_three_hundred_sandboxes_at_once_all_answer_and_all_end(load):
    gateway, before = load.gateway, load.gateway.ids()
    with ThreadPoolExecutor(8) as pool:
        try:
            for sandbox in pool.map(lambda n: create(gateway, metadata={"n": str(n)}), range(MOST)):
                load.made.append(sandbox)
            assert len({sandbox.id for sandbox in load.made}) == MOST

            with Wire(gateway.address) as wire:
                body = json.dumps({"templateID": "base"}).encode()
                status, _ = wire.ask("POST", "/sandboxes", body, **{"X-API-Key": KEY})
            assert status == 503, "one more than there is room for"

            assert all(pool.map(lambda sandbox: answers(gateway, sandbox), load.made))
        finally:
            ended = list(pool.map(lambda sandbox: end(gateway, sandbox), load.made))
    assert set(ended) == {204}
    assert gateway.ids() == before


def answers(gateway, sandbox):
    """Whether its envd runs a command that says what only this sandbox can say."""
    with Wire(gateway.address) as wire:
        output, ended = wire.start(sandbox, "/bin/sh", "-c", "echo $E2B_SANDBOX_ID").end()
        return output.decode() == f"{sandbox.id}\n" and ended["exited"]


def end(gateway, sandbox):
    with Wire(gateway.address) as wire:
        return kill(wire, sandbox)
