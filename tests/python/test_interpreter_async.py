"""The asynchronous client of the interpreter."""

import asyncio

import pytest
import pytest_asyncio
from e2b import NotFoundException, TimeoutException

code_interpreter = pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk


@pytest_asyncio.fixture(scope="module")
async def sandbox(gateway):
    sandbox = await code_interpreter.AsyncSandbox.create(timeout=300, envs={"A": "sandbox"})
    yield sandbox
    await sandbox.kill()


async def test_code_runs_with_callbacks_of_both_kinds(sandbox):
    heard = []

    async def hear(message):
        heard.append(message)

    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)\ndisplay(1)\n1 / 0"
    execution = await sandbox.run_code(
        code, on_stdout=hear, on_stderr=heard.append, on_result=hear, on_error=hear
    )
    assert len(heard) == 4 and execution.error.name == "ZeroDivisionError"
    assert (await sandbox.run_code("import os; os.environ['A']")).text == "sandbox"
    assert (await sandbox.run_code("os.environ['A']", envs={"A": "call"})).text == "call"
    assert (await sandbox.run_code("os.environ['A']")).text == "sandbox"


async def test_a_run_that_is_given_up_is_interrupted(sandbox):
    await sandbox.run_code("kept = 1")
    with pytest.raises(TimeoutException):
        await sandbox.run_code("while True: pass", timeout=1)
    execution = await asyncio.wait_for(sandbox.run_code("kept"), 5)
    assert execution.text == "1"
    begun = asyncio.Event()
    code = "import time; print('in', flush=True); time.sleep(99)"
    task = asyncio.create_task(sandbox.run_code(code, on_stdout=lambda _: begun.set()))
    await asyncio.wait_for(begun.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    execution = await asyncio.wait_for(sandbox.run_code("kept"), 5)
    assert execution.text == "1"


async def test_contexts_are_made_and_removed(sandbox):
    context = await sandbox.create_code_context(cwd="/tmp")
    assert (await sandbox.run_code("import os; os.getcwd()", context=context)).text == "/tmp"
    assert context.id in [other.id for other in await sandbox.list_code_contexts()]
    await sandbox.restart_code_context(context)
    await sandbox.remove_code_context(context)
    with pytest.raises(NotFoundException):
        await sandbox.run_code("1", context=context)
