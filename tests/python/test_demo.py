"""The demonstration: a notebook in several sandboxes, as a user starts it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import REPO

pytest.importorskip("e2b_code_interpreter")


def demo(settings, *argv):
    # This environment has the SDK; elsewhere it would be installed.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    return subprocess.run(
        ["sh", REPO / "tools" / "demo-notebook.sh", *argv],
        env={**clean, "PATH": path, **settings},
        capture_output=True,
        text=True,
        timeout=55,
    )


def test_a_notebook_gives_in_every_sandbox_what_it_should(gateway, interpreter_template):
    before = gateway.ids()
    done = demo(gateway.settings, "3")
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows, _, total = done.stdout.splitlines()
    assert head.split() == ["sandbox", "cell", "came", "back", "ms"]
    for cell in ("result", "plot", "DataFrame", "error", "output"):
        assert sum(row.split()[1] == cell for row in rows) == 3, done.stdout
    assert total.startswith("3 sandboxes, 21 cells in ") and total.endswith(": all as it should be")
    assert gateway.ids() == before


def test_what_went_wrong_is_told_and_is_how_it_ends(gateway):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nowhere = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = demo({**gateway.settings, "E2B_API_URL": nowhere}, "1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG: " in done.stdout and done.stdout.endswith(": 1 wrong\n")


@pytest.mark.plain("a command that speaks to no gateway")
@pytest.mark.parametrize("settings", [{}, {"E2B_API_KEY": "e2b_" + "0" * 40}])
def test_without_a_gateway_it_says_how_to_come_by_one(settings):
    done = demo(settings)
    assert done.returncode == 1 and done.stdout == ""
    assert "no gateway" in done.stderr and "tools/run.sh" in done.stderr
