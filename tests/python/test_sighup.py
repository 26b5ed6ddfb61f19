"""SIGHUP takes up a new certificate, and never ends a gateway."""

import signal

import pytest
from e2b import Sandbox

from domain import Domain

# Holds the start up until it is let go.
SLOW = """#!/bin/sh
touch "$0.waits"
while [ -e "$0.waits" ]; do sleep 0.05; done
exec /usr/sbin/nft "$@"
"""


@pytest.fixture(params=["plain", "TLS"])
def flags(request):
    if request.param == "plain":
        yield []
        return
    domain = Domain()
    yield domain.flags
    domain.remove()


def test_a_gateway_that_starts_is_not_ended_by_it(new_gateway, tmp_path, eventually, flags):
    nft = tmp_path / "nft"
    nft.write_text(SLOW)
    nft.chmod(0o755)
    gateway = new_gateway(*flags, env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"})
    gateway.spawn()
    waits = tmp_path / "nft.waits"
    eventually(waits.exists, timeout=20)
    gateway.process.send_signal(signal.SIGHUP)
    waits.unlink()
    gateway.wait()
    with Sandbox.create(**gateway.opts) as sandbox:
        assert sandbox.commands.run("echo there").stdout == "there\n"
    said = "certificate taken up" if flags else "SIGHUP: without TLS"
    eventually(lambda: said in gateway.log_tail())


def test_a_gateway_without_tls_says_that_there_is_nothing_to_take_up(new_gateway, eventually):
    gateway = new_gateway().start()
    for times in (1, 2):
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda times=times: gateway.log_tail().count("SIGHUP: without TLS") == times)
    with Sandbox.create(**gateway.opts) as sandbox:
        assert sandbox.commands.run("echo there").stdout == "there\n"
