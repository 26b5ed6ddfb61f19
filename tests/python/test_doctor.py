"""`coppice doctor` looks the host over."""

import shutil

import pytest

from gateway import BINARY, coppice

pytestmark = [
    pytest.mark.local("looks over the machine it runs on"),
    pytest.mark.plain("a command that speaks to no gateway"),
]


def test_each_thing_sandboxes_need_has_its_line(gateway):
    done = coppice("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.lower().splitlines()
    for what in (
        "root",
        "namespaces",
        "system calls",
        "cgroup",
        "overlayfs",
        "idmapped",
        "mmdebstrap",
        "inotify",
        "pid_max",
        "nofile",
        "conntrack",
        "room",
        "disk quota",
    ):
        assert any(what in line for line in lines), f"nothing about {what} in\n{done.stdout}"


def test_a_host_that_can_make_no_sandbox_is_told_so_and_how_to_mend_it(short_dir):
    short_dir.chmod(0o755)
    binary = shutil.copy(BINARY, short_dir / "coppice")
    done = coppice("doctor", prefix=["setpriv", "--reuid=65534", "--clear-groups"], binary=binary)
    assert done.returncode != 0
    assert "root" in done.stdout and "panicked" not in done.stderr


def test_help_and_version_are_there():
    assert "serve" in coppice("--help").stdout and "doctor" in coppice("--help").stdout
    assert "--listen" in coppice("serve", "--help").stdout
    assert coppice("--version").stdout.startswith("coppice ")
    assert coppice("no-such-command").returncode != 0
