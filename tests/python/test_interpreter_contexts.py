"""Contexts: made, listed, restarted and removed, and those who wait in them."""

import asyncio
import threading
import time

import pytest
from e2b import NotFoundException, SandboxException

code_interpreter = pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk

MISSING = "00000000-0000-4000-8000-000000000000"


def test_contexts_have_variables_and_a_directory_of_their_own(interpreter):
    run = interpreter.run_code
    run("where = 'default'")
    context = interpreter.create_code_context(cwd="/tmp", language="Python")
    assert (context.language, context.cwd) == ("python", "/tmp")
    assert run("import os; os.getcwd()", context=context).text == "/tmp"
    assert run("where", context=context).error.name == "NameError"
    run("where = 'own'", context=context)
    assert run("where").text == "default"
    assert context.id in {other.id for other in interpreter.list_code_contexts()}

    interpreter.restart_code_context(context)
    assert run("where", context=context).error.name == "NameError"
    assert run("import os; os.getcwd()", context=context).text == "/home/user"

    interpreter.remove_code_context(context)
    assert context.id not in {other.id for other in interpreter.list_code_contexts()}
    for call in (
        lambda: run("1", context=context),
        lambda: interpreter.restart_code_context(context),
        lambda: interpreter.remove_code_context(context),
    ):
        with pytest.raises(NotFoundException, match=f"Context {context.id} not found"):
            call()


def test_default_contexts_are_there_from_the_beginning(gateway, interpreter_template):
    with code_interpreter.Sandbox.create(timeout=60) as sandbox:
        contexts = sandbox.list_code_contexts()
        assert [(context.language, context.cwd) for context in contexts] == [
            ("python", "/home/user"),
            ("javascript", "/home/user"),
        ]
        sandbox.remove_code_context(contexts[0].id)
        with pytest.raises(NotFoundException, match=f"Context {contexts[0].id} not found"):
            sandbox.run_code("1")


@pytest.mark.parametrize(
    "wanted, why",
    [
        ({"cwd": "/nowhere"}, "does not exist"),
        ({"cwd": "/etc/passwd"}, "is not a directory"),
        ({"language": "cobol"}, "no such kernel"),
    ],
)
def test_a_context_that_cannot_be_is_told_and_leaves_nothing(interpreter, wanted, why):
    before = len(interpreter.list_code_contexts())
    with pytest.raises(SandboxException, match=f"500.*{why}|^500 Internal Server Error$"):
        interpreter.create_code_context(**wanted)
    assert len(interpreter.list_code_contexts()) == before


async def test_two_contexts_run_at_the_same_time_and_one_does_one_at_a_time(gateway):
    sandbox = await code_interpreter.AsyncSandbox.create(timeout=120)
    try:
        contexts = await asyncio.gather(*[sandbox.create_code_context() for _ in range(2)])
        # Each waits for the other.
        meet = """
import pathlib, time
pathlib.Path("/tmp/{0}").touch()
for _ in range(2000):
    if pathlib.Path("/tmp/{1}").exists(): break
    time.sleep(0.01)
pathlib.Path("/tmp/{1}").exists()
"""
        met = await asyncio.gather(
            sandbox.run_code(meet.format("a", "b"), context=contexts[0]),
            sandbox.run_code(meet.format("b", "a"), context=contexts[1]),
        )
        assert [execution.text for execution in met] == ["True", "True"]

        await sandbox.run_code("busy = n = 0", context=contexts[0])
        code = "assert not busy\nbusy = 1\nimport time; time.sleep(0.02)\nbusy = 0\nn += 1\nn"
        many = [sandbox.run_code(code, context=contexts[0]) for _ in range(20)]
        executions = await asyncio.gather(*many)
        assert all(execution.error is None for execution in executions)
        assert sorted(int(execution.text) for execution in executions) == list(range(1, 21))
    finally:
        await sandbox.kill()


def running(sandbox, context, code="import time; print('in it', flush=True); time.sleep(60)"):
    """Code that runs in another thread; returns when it runs, with a way to its outcome."""
    begun, outcome = threading.Event(), []

    def run():
        try:
            given = {"on_stdout": lambda _: begun.set(), "timeout": 90}
            outcome.append(sandbox.run_code(code, context=context, **given))
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)

    def end():
        thread.join(20)
        assert not thread.is_alive()
        return outcome[0]

    return end


def test_a_restart_ends_what_runs_and_what_waits_goes_on(interpreter):
    context = interpreter.create_code_context()
    end, asked = running(interpreter, context), time.monotonic()
    waiting = running_later(interpreter, context)
    interpreter.restart_code_context(context)
    error = end().error
    assert (error.name, error.value) == ("ContextRestarting", "Context was restarted")
    assert waiting().text == "waited"
    assert time.monotonic() - asked < 30
    interpreter.remove_code_context(context)


def running_later(sandbox, context):
    outcome = []
    thread = threading.Thread(
        target=lambda: outcome.append(sandbox.run_code("'waited'", context=context))
    )
    thread.start()

    def end():
        thread.join(30)
        return outcome[0]

    return end


@pytest.mark.linux("looks at the kernel by /proc")
def test_a_removal_ends_what_runs(interpreter):
    context = interpreter.create_code_context()
    pid = interpreter.run_code("import os; os.getpid()", context=context).text
    end = running(interpreter, context)
    interpreter.remove_code_context(context)
    assert not interpreter.files.exists(f"/proc/{pid}"), "the kernel has not ended"
    error = end().error
    assert error.name == "UnexpectedEndOfExecution"
    assert error.value == (
        "Connection to the execution was closed before the execution was finished"
    )
    with pytest.raises(NotFoundException):
        interpreter.run_code("1", context=context)
