"""As many sandboxes as there may be."""

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import KEY, MOST, create, kill
from wire import Wire


@pytest.mark.timeout(180)
def test_three_hundred_sandboxes_at_once_all_answer_and_all_end(load, healthy):
    gateway, before = load.gateway, load.gateway.ids()
    more = range(MOST - len(load.made))
    with ThreadPoolExecutor(8) as pool:
        try:
            for sandbox in pool.map(lambda n: create(gateway, metadata={"n": str(n)}), more):
                load.made.append(sandbox)
            assert len({sandbox.id for sandbox in load.made}) == MOST

            with Wire(gateway.address) as wire:
                body = json.dumps({"templateID": "base"}).encode()
                status, _ = wire.ask("POST", "/sandboxes", body, **{"X-API-Key": KEY})
            assert status == 503, "one more than there is room for"

            assert all(pool.map(lambda sandbox: answers(gateway, sandbox), load.made))

            in_turn = itertools.cycle(load.made)

            def one_is_asked():
                assert answers(gateway, next(in_turn))
                time.sleep(0.02)

            healthy.assert_unharmed(one_is_asked)
        finally:
            load.made.remove(healthy.sandbox)
            ended = list(pool.map(lambda sandbox: end(gateway, sandbox), load.made))
            load.made.append(healthy.sandbox)
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
