"""The CLI with nothing but `E2B_DOMAIN`: names, TLS and a private authority.

The names are given to it alone, by an /etc/hosts in a mount namespace of its own.
"""

import re

import pytest

from domain import NAME, Domain
from gateway import KEY, Gateway
from program import Cli

WITH_HOSTS = ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" /etc/hosts; exec "$@"']


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    path = tmp_path_factory.mktemp("etc") / "hosts"
    path.write_text(f"127.0.0.1 api.{NAME}\n")
    return path


@pytest.fixture(scope="module")
def own():
    domain = Domain()
    # The log then has a line for every handshake.
    gateway = Gateway(domain=domain, env={"COPPICE_LOG_LEVEL": "debug"})
    try:
        yield gateway.start()
    finally:
        gateway.remove()
        domain.remove()


@pytest.fixture(scope="module")
def by_name(own, hosts, record, tmp_path_factory):
    env = {**own.domain.settings, "E2B_API_KEY": KEY}
    return Cli(tmp_path_factory.mktemp("home"), env, record, [*WITH_HOSTS, hosts])


@pytest.fixture
def named(by_name, hosts):
    """A sandbox, whose own name is known too."""
    id = by_name.ok("sandbox", "create", "--detach").strip()
    with hosts.open("a") as file:
        file.write(f"127.0.0.1 49983-{id}.{NAME}\n")
    yield id
    by_name.ok("sandbox", "kill", id)


def test_sandboxes_are_created_listed_and_killed(by_name):
    id = by_name.ok("sandbox", "create", "-d").strip()
    assert id in by_name.ok("sandbox", "list")
    assert (
        by_name.json("sandbox", "info", "-f", "json", id)["sandboxDomain"]
        == by_name.env["E2B_DOMAIN"]
    )
    assert "has been killed" in by_name.ok("sandbox", "kill", id)
    assert "wasn't found" in by_name.refused("sandbox", "info", id)


def test_commands_run(by_name, named):
    done = by_name.run("sandbox", "exec", named, "cat; exit 4", input="through TLS\n")
    assert (done.returncode, done.stdout) == (4, "through TLS\n")


def test_all_of_it_is_http_2(own, by_name, named):
    log = own.base / "log"
    before = log.stat().st_size
    assert named in by_name.ok("sandbox", "list")
    assert by_name.ok("sandbox", "exec", named, "echo spoken") == "spoken\n"
    with open(log) as text:
        text.seek(before)
        assert set(re.findall(r" TLS .*protocol=(\S+)", text.read())) == {"h2"}


def test_a_terminal_opens(by_name, named):
    with by_name.terminal("sandbox", "connect", named) as terminal:
        terminal.wait_for("$")
        terminal.type("echo by''name; exit\n")
        terminal.wait_for("byname")
        assert terminal.ended() == 0


def test_a_certificate_of_an_unknown_authority_is_refused(by_name):
    said = by_name.refused("sandbox", "list", env={"NODE_EXTRA_CA_CERTS": ""})
    assert "certificate" in said
