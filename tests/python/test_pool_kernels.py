"""The pool as it is by default: sandboxes of the code interpreter, whose kernel runs already."""

import ast
import os
import signal
import time

import pytest
from e2b_code_interpreter import Sandbox

from hoststate import HostState, assert_back_to, processes_of
from test_kernels import MAKE_WHEEL
from test_pool import entries, figure

pytestmark = pytest.mark.plain("what is made before anybody asks")

AVAILABLE = "coppice_pool_available"


def kernels_of(sandbox_id):
    """Pids of the Python kernels in a sandbox."""
    return [
        pid
        for pid in processes_of(sandbox_id, "user")
        if b"ipykernel" in open(f"/proc/{pid}/cmdline", "rb").read()
    ]


@pytest.fixture
def warm(new_gateway, interpreter_template, eventually):
    """A gateway with one such sandbox, ready."""
    gateway = new_gateway(env={"COPPICE_POOL": f"{interpreter_template}=1"})
    before = HostState.of(gateway)
    gateway.start()
    eventually(lambda: figure(gateway, AVAILABLE, interpreter_template) == 1, timeout=120)
    yield gateway
    gateway.end()
    gateway.down()
    assert_back_to(before, gateway)


def test_the_kernel_of_before_is_wholly_the_takers(warm):
    (ready,) = entries(warm)
    (kernel,) = kernels_of(ready)
    with Sandbox.create(envs={"MINE": "yes"}, timeout=120, **warm.opts) as sandbox:
        assert sandbox.sandbox_id == ready
        ran = sandbox.run_code(
            "import os, socket\n"
            "(os.getpid(), os.environ['MINE'], os.getcwd(),"
            " os.environ['E2B_SANDBOX_ID'] == socket.gethostname() or os.environ['E2B_SANDBOX_ID'])"
        )
        assert ran.error is None and ran.execution_count == 1
        assert kernel in kernels_of(ready)
        _, mine, cwd, known_as = ast.literal_eval(ran.text)
        assert (mine, cwd) == ("yes", "/home/user")
        assert known_as in (True, ready)
        called = sandbox.run_code("os.environ['MINE']", envs={"MINE": "for once"})
        assert called.text == "for once"
        assert sandbox.run_code("os.environ['MINE']").text == "yes"
        # Those that nobody has used are there as well.
        languages = sorted(context.language for context in sandbox.list_code_contexts())
        assert languages == ["javascript", "python"]


def test_a_kernel_that_died_in_the_pool_is_a_new_one_for_who_takes_it(warm):
    (ready,) = entries(warm)
    (kernel,) = kernels_of(ready)
    os.kill(kernel, signal.SIGKILL)
    while os.path.exists(f"/proc/{kernel}"):
        time.sleep(0.01)
    with Sandbox.create(timeout=120, **warm.opts) as sandbox:
        assert sandbox.run_code("6 * 7").text == "42"
        assert kernel not in kernels_of(sandbox.sandbox_id)


def test_what_one_taker_installs_the_next_does_not_have(warm, eventually):
    def create():
        eventually(lambda: figure(warm, AVAILABLE, "code-interpreter-v1") == 1, timeout=60)
        (ready,) = entries(warm)
        sandbox = Sandbox.create(timeout=120, **warm.opts)
        assert sandbox.sandbox_id == ready
        return sandbox

    one = create()
    one.files.write("/tmp/wheel.py", MAKE_WHEEL.format(version="1.0"))
    one.commands.run("python3 /tmp/wheel.py && pip install /tmp/tiny-1.0-*.whl")
    assert one.run_code("import tiny; tiny.VERSION").text == "1.0"
    other = create()
    assert other.run_code("import tiny").error.name == "ModuleNotFoundError"
    assert other.run_code("import os; os.path.exists('/tmp/wheel.py')").text == "False"
