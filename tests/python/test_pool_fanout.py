"""`example/07-pool-fanout.sh`: fifty sandboxes at once, every one of them out of the pool."""

import re

import pytest

from interpreter import FANOUT, NAME
from test_examples import run
from test_pool import figure

pytestmark = pytest.mark.plain("what is made before anybody asks")

# For those that are not there yet: each, and the rest after it, takes a second or two.
FILLED_WITHIN = 300


@pytest.fixture
def full(fanout, eventually):
    def available():
        return figure(fanout, "coppice_pool_available", NAME)

    eventually(lambda: available() == FANOUT, timeout=FILLED_WITHIN, every=0.5)


@pytest.mark.usefixtures("full")
def test_fifty_sandboxes_of_the_pool_work_side_by_side(fanout, tmp_path):
    done = run(fanout, "07-pool-fanout.sh", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("50 sandboxes in ") and "pi is about 3.14" in done.stdout
    log = (fanout.base / "log").read_text()
    pooled = re.findall("created sandbox=.* pooled=(true|false)", log)
    assert len(pooled) == FANOUT and "true" in pooled
    # A host that is busy enough may keep an entry from answering in time; there is no other reason.
    assert pooled.count("true") + log.count("pool: cannot be given away") >= FANOUT
    assert fanout.ids() == set() and figure(fanout, "coppice_pool_allocated", NAME) == 0
    # It would be filled again, beside the tests that follow.
    fanout.end()
