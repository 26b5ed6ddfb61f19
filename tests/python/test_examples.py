"""The programs in `example/`, as a user runs them: with the settings that `run.sh` prints."""

import os
import subprocess
import sys

import pytest

from gateway import REPO

pytest.importorskip("e2b_code_interpreter")

SAID = {
    "01-hello.py": "45\nuser\nIndexError\n",
    "01-hello.sh": "45\n",
    "02-files.py": "[3, 8, 12]\nsales.csv\nsales.xlsx\nb'PK'\n",
    "03-streaming.py": "step 0\nstep 1\nstep 2\nerr: a warning\n1\n2\n",
    "04-charts.py": "picture: {tmp}/sales.png\nbar chart, Sales, in thousands\nJan 3.0\nFeb 5.0\nMar 4.0\n",
    "05-server.py": "<h1>from a sandbox</h1>\n",
    "06-agent.py": "seen: NameError: name 'divisors' is not defined\nseen: (168, 997)\nanswer: (168, 997)\n",
}

BY_ADDRESS = pytest.mark.plain("an example of what is reached by address")


def source(program):
    return (REPO / "example" / program).read_text()


def run(gateway, program, tmp_path, **env):
    command = ["sh"] if program.endswith(".sh") else [sys.executable]
    return subprocess.run(
        [*command, REPO / "example" / program],
        env={**os.environ, **gateway.settings, "TMPDIR": str(tmp_path), **env},
        capture_output=True,
        text=True,
        timeout=55,
    )


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(name, marks=BY_ADDRESS if "E2B_SANDBOX_URL" in source(name) else ())
        for name in SAID
    ],
)
def test_an_example_does_what_it_says(gateway, interpreter_template, tmp_path, program):
    before = gateway.ids()
    done = run(gateway, program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == SAID[program].replace("{tmp}", str(tmp_path))
    assert gateway.ids() == before


# Whose pool fills beside the tests that follow.
@pytest.mark.usefixtures("fanout")
def test_every_example_is_run():
    programs = {path.name for path in (REPO / "example").iterdir()} - {"README.md"}
    elsewhere = {name for name in programs if name.endswith(".mjs")}
    # The one of the pool is run by `test_pool_fanout.py`.
    assert programs - elsewhere == {*SAID, "07-pool-fanout.sh"}
