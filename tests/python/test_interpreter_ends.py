"""Clients that go, kernels that die, sandboxes that end."""

import os
import signal
import threading
import time

import pytest
from e2b import TimeoutException

from hoststate import processes_of

code_interpreter = pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk


@pytest.fixture
def run(interpreter):
    return interpreter.run_code


def gives_up(run, code, **options):
    with pytest.raises(TimeoutException):
        run(code, timeout=1, **options)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(1000)",
        "while True: print('x' * 1000)",
        "import subprocess; subprocess.run(['sleep', '1000'])",
        "!sleep 1000",
    ],
)
def test_code_whose_client_has_gone_is_interrupted_and_the_next_runs(run, code):
    run("kept = 'kept'")
    gives_up(run, code)
    began = time.monotonic()
    assert run("kept").text == "kept"
    assert time.monotonic() - began < 5


def test_code_that_minds_no_interrupt_is_ended_within_limits(run):
    code = """
import time
while True:
    try:
        while True: time.sleep(0.01)
    except BaseException:
        pass
"""
    run("kept = 'kept'")
    gives_up(run, code)
    began = time.monotonic()
    assert run("'kept' in globals()").text == "False"
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(
    "code, how",
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("import ctypes; ctypes.string_at(0)", "segmentation fault"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("a = []\nwhile True: a.append(b'x' * 50_000_000)", "killed"),
    ],
)
def test_a_kernel_that_dies_is_told_and_the_context_answers_again(run, code, how):
    run("kept = 'kept'")
    error = run(code).error
    assert (error.name, error.value) == ("ContextRestarting", "Context was restarted")
    assert how in error.traceback
    assert run("'kept' in globals()").text == "False"


def test_what_a_kernel_printed_before_it_died_is_told(run):
    # Its own publisher has to have sent it.
    code = "import os, time; print('last words', flush=True); time.sleep(0.2); os._exit(3)"
    execution = run(code)
    assert execution.logs.stdout == ["last words\n"]
    assert execution.error.name == "ContextRestarting"


@pytest.mark.linux("waits by /proc")
def test_a_kernel_that_is_killed_from_inside_comes_back(run, interpreter):
    run("kept = 'kept'")
    # Until it is gone it might still be sent the next code, which is then told how it ended.
    interpreter.commands.run(
        "kernels=$(pgrep -f '[i]pykernel'); kill -KILL $kernels;"
        " for pid in $kernels; do while [ -d /proc/$pid ]; do sleep 0.01; done; done",
        user="root",
    )
    assert run("'kept' in globals()").text == "False"


def test_what_a_kernel_started_is_interrupted_but_not_what_left_its_group(run):
    run("import subprocess; own = subprocess.Popen(['sleep', '1000'], start_new_session=True)")
    gives_up(run, "import time; time.sleep(1000)")
    assert run("own.poll()").text is None
    assert run("own.kill(); own.wait()").text == "-9"


def test_a_sandbox_that_ends_ends_what_runs_in_it(gateway):
    sandbox = code_interpreter.Sandbox.create(timeout=60)
    assert sandbox.run_code("1").text == "1"
    threading.Timer(1, lambda: code_interpreter.Sandbox.kill(sandbox.sandbox_id)).start()
    began = time.monotonic()
    with pytest.raises(TimeoutException, match="The sandbox was killed while the request was in progress"):
        sandbox.run_code("import time; time.sleep(60)", timeout=50)
    assert time.monotonic() - began < 10


@pytest.mark.local("kills a process on the gateway's host")
def test_a_sandbox_whose_envd_dies_ends_with_its_kernels_and_no_other_does(
    gateway, interpreter, eventually
):
    interpreter.run_code("kept = 'kept'")
    sandbox = code_interpreter.Sandbox.create(timeout=60)
    died = []

    def kill(_):
        (envd,) = processes_of(sandbox.sandbox_id, "envd")
        os.kill(envd, signal.SIGKILL)
        died.append(time.monotonic())

    with pytest.raises(TimeoutException, match="The sandbox was killed while the request was in progress"):
        code = "import time; print('in it', flush=True); time.sleep(60)"
        sandbox.run_code(code, on_stdout=kill, timeout=50)
    assert time.monotonic() - died[0] < 10
    ending = f"ending sandbox={sandbox.sandbox_id} reason=envd_died"
    eventually(lambda: ending in (gateway.base / "log").read_text(errors="replace"))
    eventually(lambda: not processes_of(sandbox.sandbox_id))
    assert sandbox.sandbox_id not in gateway.ids() and sandbox.kill() is False
    assert interpreter.run_code("kept").text == "kept"


def test_a_client_that_waits_is_forgotten_when_it_goes(run):
    """One that gives up before its turn never has one."""
    busy = threading.Thread(target=lambda: run("import time; time.sleep(3)"))
    run("ran = []")
    busy.start()
    time.sleep(0.5)
    gives_up(run, "ran.append(1)")
    busy.join()
    assert run("ran").text == "[]"
