"""The kernels of `code-interpreter-v1`, each by its own kernelspec."""

import pytest
from e2b_code_interpreter import Sandbox

pytestmark = pytest.mark.plain("what kernels make of code, however it comes")

INTERRUPT = "interrupt when it prints"


def test_python_starts_without_the_libraries_it_will_show(interpreter_template):
    heavy = ["matplotlib", "numpy", "pandas", "PIL", "e2b_charts", "sympy", "plotly"]
    with Sandbox.create(interpreter_template) as sandbox:
        ran = sandbox.run_code(f"import sys; [name for name in {heavy} if name in sys.modules]")
    assert ran.text == "[]"


def test_everything_promised_can_be_imported(python):
    names = "numpy pandas matplotlib scipy sklearn seaborn plotly PIL openpyxl requests sympy"
    python.run(f"import {', '.join(names.split())}, e2b_charts, scipy.stats, sklearn.svm")
    assert python.text("scipy.stats.norm.cdf(0).item()") == "0.5"


def test_the_packages_agree_with_each_other(kernels):
    assert "No broken requirements" in kernels.commands.run("pip check").stdout


def test_what_a_user_installs_lands_where_kernels_find_it(kernels, python):
    """By pip from a wheel, as no test reaches a network; a newer one takes the older's place."""
    for version in ("1.0", "2.0"):
        kernels.files.write("/tmp/wheel.py", MAKE_WHEEL.format(version=version))
        kernels.commands.run(f"python3 /tmp/wheel.py && pip install /tmp/tiny-{version}-*.whl")
        code = "import importlib, tiny; importlib.reload(tiny); tiny.VERSION"
        assert python.text(code) == f"'{version}'"
    assert kernels.commands.run("tiny").stdout == "2.0\n"
    with Sandbox.create(kernels.get_info().template_id) as other:
        assert other.run_code("import tiny").error.name == "ModuleNotFoundError"
        assert "tiny" not in other.commands.run("pip list; ls /usr/local/bin").stdout


MAKE_WHEEL = """
import zipfile
meta = "Metadata-Version: 2.1\\nName: tiny\\nVersion: {version}\\n"
tags = "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
info = "tiny-{version}.dist-info/"
with zipfile.ZipFile("/tmp/tiny-{version}-py3-none-any.whl", "w") as wheel:
    wheel.writestr("tiny.py", "VERSION = '{version}'\\ndef main(): print(VERSION)\\n")
    wheel.writestr(info + "METADATA", meta)
    wheel.writestr(info + "WHEEL", tags)
    wheel.writestr(info + "entry_points.txt", "[console_scripts]\\ntiny = tiny:main\\n")
    wheel.writestr(info + "RECORD", "")
"""


def test_bash_keeps_its_state_and_tells_of_failures(bash):
    assert bash.printed("export GREETING=hello; cd /tmp") == ""
    assert bash.printed("echo $GREETING from $PWD") == "hello from /tmp\n"
    assert bash.error("false")["evalue"] == "1"
    assert bash.printed("echo still here") == "still here\n"


@pytest.mark.parametrize(
    "code, text",
    [
        ("1 + 2", "3"),
        ("'text'", "'text'"),
        ("const add = (x, y) => x + y;\nadd(1, 2);", "3"),
        ("await Promise.resolve(4)", "4"),
        ("async function five() { return 5 }\nawait five()", "5"),
        ("{a: 1}", "{ a: 1 }"),
        ("new Map([[1, {b: 2}]])", "Map(1) { 1 => { b: 2 } }"),
        ("process.cwd()", "'/home/user'"),
        ("require('path').join('a', 'b')", "'a/b'"),
        ("import { sep } from 'node:path'\nsep", "'/'"),
        ("import * as os from 'os'; os.EOL.length", "1"),
        ("import path, { join as put } from 'path'; path.join === put", "true"),
        ("(await import('node:path')).sep", "'/'"),
        ("const text: string = 'typed'; text", "'typed'"),
        ("interface Point { x: number }\nconst p: Point = { x: 6 }\np.x", "6"),
        ("enum Color { Red, Green }\nColor.Green", "1"),
        ("const one = await 1, [two, ...rest] = [2, 3, 4]; one + two + rest.length", "5"),
        ("[one, two, rest]", "[ 1, 2, [ 3, 4 ] ]"),
        ("const said = await later()\nasync function later() { return 'hoisted' }\nsaid", "'hoisted'"),
        ("await later()", "'hoisted'"),
        ("await null; class Late { v = 3 }\nnew Late().v", "3"),
        ("let n = 0; for await (const x of [1, Promise.resolve(2)]) n += x; n", "3"),
        ("export const seven = 7; seven", "7"),
    ],
)
def test_javascript_and_typescript_give_the_last_value(javascript, code, text):
    assert javascript.text(code) == text


def test_javascript_variables_stay_and_may_be_declared_again(javascript):
    assert javascript.run("const x = 1; let y = 2; class Z {}") == []
    assert javascript.text("x + y") == "3"
    assert javascript.text("const x = 'one'; class Z { z = 1 }; x + new Z().z") == "'one1'"


def test_javascript_prints_in_order_and_as_it_goes(javascript):
    code = "console.log('a'); console.error('b'); process.stdout.write('c'); display({d: 1})"
    messages = javascript.run(code)
    assert [one.get("text") or one["data"]["application/json"] for one in messages] == [
        *("a\n", "b\n", "c"),
        {"d": 1},
    ]
    many = javascript.printed("for (let i = 0; i < 100000; i++) console.log(`line ${i}`)")
    assert many.splitlines() == [f"line {number}" for number in range(100000)]


@pytest.mark.parametrize(
    "code, name, value",
    [
        ("throw new TypeError('wrong')", "TypeError", "wrong"),
        ("await Promise.reject(new RangeError('late'))", "RangeError", "late"),
        ("throw 'text'", "Error", "'text'"),
        ("nowhere", "ReferenceError", "nowhere is not defined"),
        ("let = = 1", "SyntaxError", None),
    ],
)
def test_javascript_errors_have_a_name_a_value_and_frames_of_the_cell_only(
    javascript, code, name, value
):
    error = javascript.error(code)
    assert error["ename"] == name and (value is None or error["evalue"] == value)
    assert error["traceback"] and "coppice" not in "".join(error["traceback"])
    assert javascript.text("'unharmed'") == "'unharmed'"


@pytest.mark.parametrize(
    "code",
    [
        "console.log('on'); while (true) {}",
        "console.log('on'); await new Promise(() => {})",
        "console.log('on'); await null; for (;;) {}",
        "for (;;) console.log('on')",
    ],
)
def test_javascript_that_never_ends_is_interrupted_and_keeps_its_state(javascript, code):
    javascript.run("globalThis.kept = 1")
    commented = f"{code} // {INTERRUPT}"
    assert javascript.error(commented)["ename"] == "KeyboardInterrupt"
    assert javascript.text("kept") == "1"


def test_javascript_that_fails_later_says_so_and_goes_on(javascript):
    code = "setTimeout(() => { throw new Error('later') }, 1); await new Promise(r => setTimeout(r, 50))"
    assert "Error: later" in javascript.printed(code, "stderr")
    assert javascript.text("8") == "8"


def test_python_is_interrupted(python):
    code = f"import time\nprint('on', flush=True)\ntime.sleep(60)  # {INTERRUPT}"
    assert python.error(code)["ename"] == "KeyboardInterrupt"
    assert python.text("9") == "9"
