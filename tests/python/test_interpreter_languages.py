"""Code in other languages, and what each does with variables."""

import json

import pytest
from e2b import SandboxException, TimeoutException

from inside import source
from interpreter import with_our_zeromq

code_interpreter = pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk

# How each prints the variables A and B.
PRINTS = {
    "python": "import os; print(os.environ.get('A', 'none'), os.environ.get('B', 'none'))",
    "bash": "echo ${A-none} ${B-none}",
    "javascript": "console.log(process.env.A ?? 'none', process.env.B ?? 'none')",
    "typescript": (
        "const of = (name: string): string => process.env[name] ?? 'none'\n"
        "console.log(of('A'), of('B'))"
    ),
}
FAILS = {"python": "1 / 0", "bash": "false"}


@pytest.fixture(scope="module")
def sandbox(gateway, interpreter_template):
    """One that has variables of its own."""
    with code_interpreter.Sandbox.create(timeout=600, envs={"A": "sandbox"}) as sandbox:
        yield sandbox


@pytest.mark.parametrize("language", PRINTS)
def test_after_a_call_variables_are_the_sandboxes_again(sandbox, language):
    def run(code, **options):
        return sandbox.run_code(code, language=language, **options)

    def printed(**options):
        execution = run(PRINTS[language], **options)
        assert execution.error is None, execution.error
        return "".join(execution.logs.stdout)

    assert printed() == "sandbox none\n"
    nasty = "it's \"quoted\" $HOME \\ é"
    assert printed(envs={"A": nasty, "B": "call"}) == f"{nasty} call\n"
    assert printed() == "sandbox none\n"
    assert printed(envs={"B": "call"}) == "sandbox call\n"
    failed = run(FAILS.get(language, "throw new Error('no')"), envs={"A": "call", "B": "call"})
    assert failed.error is not None
    assert printed() == "sandbox none\n"


def test_javascript_runs_where_no_zeromq_is_built(gateway, interpreter_template):
    with code_interpreter.Sandbox.create(timeout=300) as sandbox:
        with_our_zeromq(sandbox, "/usr/local/lib/coppice/javascript", "javascript")

        def run(code, **options):
            return sandbox.run_code(code, language="javascript", **options)

        assert run("let x = 20; x + 1").text == "21"
        many = run("for (let i = 0; i < 20000; i++) console.log(`line ${i}`); x")
        assert "".join(many.logs.stdout).splitlines() == [f"line {i}" for i in range(20000)]
        assert many.text == "20"
        assert len("".join(run("console.log('a'.repeat(3000000))").logs.stdout)) == 3000001
        assert run("throw new TypeError('wrong')").error.name == "TypeError"
        with pytest.raises(TimeoutException):
            run("for (;;) {}", timeout=1)
        assert run("x", timeout=30).text == "20"


def test_each_language_has_a_default_context_and_short_names(sandbox):
    assert sandbox.run_code("kept=bash", language="bash").error is None
    assert sandbox.run_code("echo $kept $PWD", language=" Bash ").logs.stdout == [
        "bash /home/user\n"
    ]
    languages = [context.language for context in sandbox.list_code_contexts()]
    assert languages.count("bash") == 1 and languages.count("python") == 1


def test_an_unknown_language_is_refused_and_makes_no_context(sandbox):
    before = len(sandbox.list_code_contexts())
    for language in ["cobol", "../python3", ".", "x" * 1000]:
        with pytest.raises(SandboxException, match="500.*no such kernel|500 Internal"):
            sandbox.run_code("1", language=language)
    assert len(sandbox.list_code_contexts()) == before


# Directory and language of a kernelspec, the languages it answers to, and how it is told of variables.
BROUGHT = {
    "R": (
        "/usr/local/share/jupyter/kernels/ir",
        ("r", " R "),
        'invisible(do.call(Sys.setenv, stats::setNames(list("{}"), "A")))',
    ),
    "java": (
        "/usr/share/jupyter/kernels/ijava",
        ("java", "Java"),
        'System.setProperty("A", "{}");',
    ),
}


@pytest.mark.parametrize("language", BROUGHT)
def test_a_kernel_that_a_template_brings_is_found_by_its_language(sandbox, language):
    """It is no R and no Java: it says what it was sent, also what shows nothing."""
    directory, names, sets = BROUGHT[language]
    sandbox.files.write("/opt/heard.py", source("heard.py"), user="root")
    argv = ["/usr/bin/python3", "/opt/heard.py", "-f", "{connection_file}"]
    spec = json.dumps({"argv": argv, "display_name": language, "language": language})
    sandbox.files.write(f"{directory}/kernel.json", spec, user="root")

    def heard(code, **options):
        execution = sandbox.run_code(code, **options)
        assert execution.error is None, execution.error
        lines = "\n".join(json.loads("".join(execution.logs.stdout))).splitlines()
        return [line for line in lines if line and "E2B_" not in line]

    given = {"R": ["first"], "java": [sets.format("sandbox"), "first"]}[language]
    assert heard("first", language=names[0]) == given
    given += [sets.format("call"), "second"]
    assert heard("second", language=names[1], envs={"A": "call"}) == given
    given += [sets.format("sandbox"), "third"]
    assert heard("third", language=names[0]) == given
    contexts = [context.language for context in sandbox.list_code_contexts()]
    assert contexts.count(names[0]) == 1
    context = sandbox.create_code_context(language=names[0], cwd="/tmp")
    assert heard("own", context=context)[-1:] == ["own"]


def test_a_kernel_of_another_language_runs_by_its_name_but_takes_no_variables(sandbox):
    sandbox.files.write("/opt/heard.py", source("heard.py"), user="root")
    argv = ["/usr/bin/python3", "/opt/heard.py", "-f", "{connection_file}"]
    spec = json.dumps({"argv": argv, "language": "forth"})
    sandbox.files.write("/usr/local/share/jupyter/kernels/own/kernel.json", spec, user="root")
    assert sandbox.run_code("a", language="own").logs.stdout == ['["a"]']
    with pytest.raises(SandboxException, match="400"):
        sandbox.run_code("b", language="own", envs={"A": "1"})
    assert sandbox.run_code("c", language="own").logs.stdout == ['["a", "c"]']
