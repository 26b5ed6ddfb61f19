"""SIGHUP takes up a new certificate and another log level, and never ends a gateway."""

import signal

import pytest
from e2b import Sandbox

from domain import Domain

pytestmark = pytest.mark.plain("TLS of its own where it matters")

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


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_level_of_the_file_is_taken_up(new_gateway, tmp_path, eventually, form):
    settings = tmp_path / "coppice.toml"
    settings.write_text(f'log-level = "info"\nlog-format = "{form}"\n')
    gateway = new_gateway("--config", settings).start()

    def told(level):
        settings.write_text(f'log-level = "{level}"\nlog-format = "{form}"\n')
        gateway.process.send_signal(signal.SIGHUP)

    def speaks_of_details():
        with Sandbox.create(**gateway.opts) as sandbox:
            sandbox.commands.run("true")
        return "DEBUG" in gateway.log_tail(1000)

    assert not speaks_of_details()
    told("debug")
    eventually(lambda: "the log level was INFO and is DEBUG" in gateway.log_tail())
    eventually(speaks_of_details)
    told("warn")
    eventually(lambda: "the log level was DEBUG and is WARN" in gateway.log_tail())
    before = len(gateway.log_tail(10000))
    speaks_of_details()
    assert len(gateway.log_tail(10000)) == before


def test_settings_that_cannot_be_read_change_nothing(new_gateway, tmp_path, eventually):
    settings = tmp_path / "coppice.toml"
    settings.write_text('log-level = "info"\n')
    gateway = new_gateway("--config", settings).start()
    settings.write_text('log-level = "loud"\n')
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: "the log level stays" in gateway.log_tail())
    assert "loud" in gateway.log_tail()
    with Sandbox.create(**gateway.opts) as sandbox:
        assert sandbox.commands.run("echo there").stdout == "there\n"


def test_a_flag_is_not_overruled_by_the_file(new_gateway, tmp_path, eventually):
    settings = tmp_path / "coppice.toml"
    settings.write_text("")
    gateway = new_gateway("--config", settings, "--log-level", "info").start()
    settings.write_text('log-level = "error"\n')
    for times in (1, 2):
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda times=times: gateway.log_tail().count("SIGHUP: without TLS") == times)
    assert "the log level" not in gateway.log_tail()
