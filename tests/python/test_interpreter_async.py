"""The asynchronous client of the interpreter."""

import asyncio
import base64
import time

import pytest
import pytest_asyncio
from e2b import NotFoundException, SandboxException, TimeoutException

from test_charts import PIE, fields

code_interpreter = pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk


@pytest_asyncio.fixture(scope="module")
async def sandbox(gateway, interpreter_template):
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
    await sandbox.run_code("mine = 1", context=context)
    await sandbox.restart_code_context(context)
    assert (await sandbox.run_code("mine", context=context)).error.name == "NameError"
    await sandbox.remove_code_context(context)
    with pytest.raises(NotFoundException):
        await sandbox.run_code("1", context=context)


async def test_a_sandbox_has_its_contexts_from_the_beginning_and_ends_what_runs(gateway):
    sandbox = await code_interpreter.AsyncSandbox.create(timeout=60)
    contexts = await sandbox.list_code_contexts()
    assert [context.language for context in contexts] == ["python", "javascript"]
    begun, died = asyncio.Event(), []

    async def kill():
        await begun.wait()
        died.append(time.monotonic())
        await code_interpreter.AsyncSandbox.kill(sandbox.sandbox_id)

    killing = asyncio.create_task(kill())
    code = "import time; print('in', flush=True); time.sleep(60)"
    with pytest.raises(TimeoutException, match="The sandbox was killed while the request was in"):
        await sandbox.run_code(code, on_stdout=lambda _: begun.set(), timeout=50)
    assert time.monotonic() - died[0] < 10
    await killing


async def test_languages_have_contexts_and_variables_of_their_own(sandbox):
    for language, code in {
        "js": "console.log(process.env.A)",
        "ts": "const a: string = process.env.A!; console.log(a)",
    }.items():
        for given, expect in ({}, "sandbox"), ({"A": "call"}, "call"), ({}, "sandbox"):
            execution = await sandbox.run_code(code, language=language, envs=given)
            assert execution.error is None and execution.logs.stdout == [f"{expect}\n"], language
    languages = [context.language for context in await sandbox.list_code_contexts()]
    assert {*languages} == {"python", "javascript", "typescript"}
    with pytest.raises(SandboxException, match="500.*no such kernel|500 Internal"):
        await sandbox.run_code("1", language="cobol")


async def test_results_have_their_formats_and_figures_their_charts(sandbox):
    execution = await sandbox.run_code("""
class Shown:
    def _repr_html_(self): return "<b>html</b>"
    def _repr_markdown_(self): return "# m"
    def _repr_svg_(self): return "<svg/>"
    def _repr_png_(self): return b"png"
    def _repr_jpeg_(self): return b"jpeg"
    def _repr_pdf_(self): return b"pdf"
    def _repr_latex_(self): return "$x$"
    def _repr_json_(self): return {"a": [1, None]}
    def _repr_javascript_(self): return "1"
    def _repr_e2b_data_(self): return {"a": [1]}
    def __repr__(self): return "text"
display({"application/vnd.own+json": {"n": 1}}, raw=True)
Shown()
""")
    raw, shown = execution.results
    assert raw.extra == {"application/vnd.own+json": {"n": 1}} and not raw.is_main_result
    texts = {"text": "text", "html": "<b>html</b>", "markdown": "# m", "svg": "<svg/>"}
    texts |= {"latex": "$x$", "javascript": "1", "json": {"a": [1, None]}, "data": {"a": [1]}}
    assert {name: shown[name] for name in texts} == texts and shown.is_main_result
    assert [base64.b64decode(shown[name]) for name in ("png", "jpeg", "pdf")] == [
        *(b"png", b"jpeg", b"pdf")
    ]
    assert {*shown.formats()} == {*texts, "png", "jpeg", "pdf"}
    drawing, chart = PIE
    figure = await sandbox.run_code(f"import matplotlib.pyplot as plt\n{drawing}\nplt.show()")
    assert fields(figure.results[0].chart) == chart


@pytest.mark.timeout(180)
async def test_long_output_of_any_characters_comes_whole(sandbox):
    text = "añ😀\u2028日本\x85 \u0301\u2029"
    execution = await sandbox.run_code(f"print({text!r} * 200_000)")
    assert "".join(execution.logs.stdout) == text * 200_000 + "\n"
    execution = await sandbox.run_code("print('x' * 50_000_000)")
    assert sum(map(len, execution.logs.stdout)) == 50_000_001


@pytest.mark.parametrize(
    "code, name",
    [
        ("def f(:", "SyntaxError"),
        ("input()", "StdinNotImplementedError"),
        ("import os, time; os.kill(os.getpid(), 2); time.sleep(30)", "KeyboardInterrupt"),
        ("import os; os._exit(3)", "ContextRestarting"),
    ],
)
async def test_what_goes_wrong_is_an_error_of_the_execution(sandbox, code, name):
    assert (await sandbox.run_code(code)).error.name == name
    assert (await sandbox.run_code("'still here'")).text == "still here"
