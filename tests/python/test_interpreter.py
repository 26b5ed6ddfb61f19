"""Code in the default contexts: what comes back, in which form, and what stays."""

import base64
import time

import pytest

pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk


@pytest.fixture
def run(interpreter):
    return interpreter.run_code


def test_the_last_expression_is_the_main_result(run):
    execution = run("1 + 1")
    assert (execution.text, execution.error, execution.logs.stdout) == ("2", None, [])
    (result,) = execution.results
    assert result.is_main_result and list(result.formats()) == ["text"]
    for nothing in ["1 + 1;", "x = 1", "None", ""]:
        execution = run(nothing)
        assert (execution.text, execution.results, execution.error) == (None, [], None), nothing


def test_state_and_count_stay_between_runs(run):
    first = run("kept = [1]").execution_count
    assert run("kept.append(2); kept").text == "[1, 2]"
    assert run("kept").execution_count == first + 2


def test_output_goes_to_callbacks_as_it_comes(run):
    stdout, stderr, results, errors = [], [], [], []
    code = """
        import sys, time
        for n in range(3):
            print("out", n, flush=True)
            time.sleep(0.3)
        print("err", file=sys.stderr)
        display(7)
        raise RuntimeError("at last")
    """
    execution = run(
        "if True:" + code,
        on_stdout=lambda message: stdout.append((message.line, time.monotonic())),
        on_stderr=lambda message: stderr.append(message),
        on_result=results.append,
        on_error=errors.append,
    )
    assert "".join(line for line, _ in stdout) == "out 0\nout 1\nout 2\n"
    assert stdout[-1][1] - stdout[0][1] > 0.3, "they came together"
    assert [message.line for message in stderr] == ["err\n"] and stderr[0].error
    assert [result.text for result in results] == ["7"] and not results[0].is_main_result
    assert [(error.name, error.value) for error in errors] == [("RuntimeError", "at last")]
    assert execution.error == errors[0] and "at last" in errors[0].traceback


@pytest.mark.parametrize(
    "code, name, value",
    [
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("def f(:", "SyntaxError", "invalid syntax"),
        ("if 1:\n  1\n 2", "IndentationError", "unindent"),
        ("input('? ')", "StdinNotImplementedError", "does not support input"),
        ("import sys; sys.exit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt('own')", "KeyboardInterrupt", "own"),
        ("import os, time; os.kill(os.getpid(), 2); time.sleep(30)", "KeyboardInterrupt", ""),
        ("raise Exception('\\0 é \\u2028')", "Exception", "é \u2028"),
    ],
)
def test_an_exception_is_an_error_of_the_execution(run, code, name, value):
    error = run(code).error
    assert error.name == name and value in error.value
    assert "\x1b[" not in error.traceback, "in colour"
    assert run("'still here'").text == "still here"


def test_an_error_names_the_users_own_lines(run):
    error = run("a = 1\nb = 2\n\n1 / 0", envs={"A": "1"}).error
    assert "line 4" in error.traceback


def test_every_format_has_its_place(run):
    execution = run("""
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
display({"application/vnd.own+json": {"n": 1}, "text/plain": "raw"}, raw=True)
Shown()
""")
    raw, shown = execution.results
    assert (raw.text, raw.extra, raw.is_main_result) == (
        "raw",
        {"application/vnd.own+json": {"n": 1}},
        False,
    )
    texts = {"text": "text", "html": "<b>html</b>", "markdown": "# m", "svg": "<svg/>"}
    texts |= {"latex": "$x$", "javascript": "1", "json": {"a": [1, None]}, "data": {"a": [1]}}
    assert {name: shown[name] for name in texts} == texts
    for name in ["png", "jpeg", "pdf"]:
        assert base64.b64decode(shown[name]) == name.encode()
    assert {*shown.formats()} == {*texts, "png", "jpeg", "pdf"}


def test_an_exception_too_large_to_be_held_is_an_error_nevertheless(run):
    began = time.monotonic()
    execution = run("raise ValueError('x' * 20_000_000)")
    assert (execution.error.name, execution.results) == ("Error", [])
    assert execution.error.value.endswith(" MiB was left out")
    assert run("'still here'").text == "still here"
    assert time.monotonic() - began < 30


def test_quotes_around_a_text_are_taken_off(run):
    assert run("'a'").text == "a"
    assert run('"it\'s"').text == "it's"
    assert run("['a']").text == "['a']"


def test_unicode_is_whole_wherever_it_is_cut(run):
    text = "añ😀\u2028日本\x85 \u0301\u2029"
    # It is passed on in pieces, which begin elsewhere each time.
    for shift in range(4):
        execution = run(f"print('x' * {shift} + {text!r} * 40_000)")
        assert "".join(execution.logs.stdout) == "x" * shift + text * 40_000 + "\n"
    execution = run("for char in 'é😀日': print(char, end='', flush=True)")
    assert "".join(execution.logs.stdout) == "é😀日"
    assert run("'\\ud83d'").error is None, "half a character"


def test_fifty_megabytes_come_whole(run):
    start = time.monotonic()
    execution = run("print('x' * 50_000_000)")
    assert sum(map(len, execution.logs.stdout)) == 50_000_001
    execution = run("for _ in range(50): print('y' * 999_999, flush=True)")
    assert sum(map(len, execution.logs.stdout)) == 50_000_000
    assert time.monotonic() - start < 60


def test_thousands_of_results_come_whole_and_in_order(run):
    results = run("for n in range(3000): display(n)").results
    assert [result.text for result in results] == [str(n) for n in range(3000)]


def test_a_result_too_large_to_be_held_is_said_to_be_left_out(run):
    execution = run("class Big:\n  def _repr_html_(self): return 'x' * 40_000_000\nBig()")
    assert execution.results == [] and execution.error is None
    assert "".join(execution.logs.stderr) == "a result of 38 MiB was left out\n"
    execution = run("class Big:\n  def _repr_html_(self): return 'x' * 20_000_000\nBig()")
    assert len(execution.results[0].html) == 20_000_000


def test_generators_left_open_and_threads_left_running_hurt_nobody(run):
    code = """
        import threading
        def numbers():
            try:
                while True: yield 1
            finally:
                ended.append("generator")
        def late():
            go.wait(60)
            print("late")
            ended.append("thread")
        ended, go = [], threading.Event()
        left = numbers(); next(left)
        thread = threading.Thread(target=late); thread.start()
    """
    assert run("if True:" + code).error is None
    # What the thread of an earlier cell prints belongs to that, whose client has gone, or to this.
    execution = run("go.set(); thread.join(60); print('own')")
    stdout = "".join(execution.logs.stdout)
    assert execution.error is None and stdout.replace("late\n", "", 1) == "own\n", stdout
    assert run("del left; ended").text == "['thread', 'generator']"


def test_variables_are_the_sandboxes_the_calls_and_then_the_sandboxes_again(sandboxes_of_code):
    sandbox = sandboxes_of_code(envs={"A": "sandbox", "B": "it's \"b\"\n\\ é"})
    run, look = sandbox.run_code, "import os; [os.environ.get(n) for n in ('A', 'B', 'C', 'PATH')]"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    sandboxs = ["sandbox", "it's \"b\"\n\\ é", None, path]
    assert eval(run(look).text) == sandboxs
    given = {"A": "call", "C": "\t'''\\", "PATH": "/x"}
    assert eval(run(look, envs=given).text) == ["call", sandboxs[1], "\t'''\\", "/x"]
    assert eval(run(look).text) == sandboxs
    error = run("1 / 0", envs=given).error
    assert error.name == "ZeroDivisionError" and "line 1" in error.traceback
    assert eval(run(look).text) == sandboxs


@pytest.fixture
def sandboxes_of_code(gateway):
    made = []

    def make(**options):
        code = pytest.importorskip("e2b_code_interpreter")
        made.append(code.Sandbox.create(**{"timeout": 120, **options}))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.kill()


def test_code_runs_as_root_in_the_users_home_among_the_users_processes(run, interpreter):
    assert run("import os; os.getuid(), os.getcwd()").text == "(0, '/home/user')"
    listed = [process.cmd for process in interpreter.commands.list()]
    assert not any("python" in cmd for cmd in listed), listed
    assert run("import socket; socket.gethostname()").error is None


def test_magics_and_shell_escapes_are_the_kernels(run):
    assert run("!echo $((6*7))").logs.stdout == ["42\r\n"]
    assert run("%%bash\necho $A", envs={"A": "magic"}).logs.stdout == ["magic\n"]
