"""Code in other languages, and what each does with variables."""

import pytest
from e2b import SandboxException

pytest.importorskip("e2b_code_interpreter")
pytestmark = pytest.mark.sdk

# How each prints the variable A.
PRINTS = {
    "python": "import os; print(os.environ.get('A', 'none'))",
    "bash": "echo ${A-none}",
    "javascript": "console.log(process.env.A ?? 'none')",
    "typescript": "const a: string = process.env.A ?? 'none'; console.log(a)",
}


@pytest.fixture(scope="module")
def languages(interpreter):
    """Those the template has a kernel for."""
    listed = interpreter.files.list("/usr/local/share/jupyter/kernels")
    names = {entry.name for entry in listed}
    found = {"python", *names} - {"python3"}
    return found | ({"typescript"} if "javascript" in found else set())


@pytest.mark.parametrize("language", PRINTS)
def test_variables_of_a_call_are_gone_after_it(interpreter, languages, language):
    if language not in languages:
        pytest.skip(f"the template has no kernel for {language}")
    run = interpreter.run_code

    def printed(**options):
        execution = run(PRINTS[language], language=language, **options)
        assert execution.error is None, execution.error
        return "".join(execution.logs.stdout)

    assert printed() == "none\n"
    assert printed(envs={"A": "it's \"quoted\" $HOME \\ é"}) == "it's \"quoted\" $HOME \\ é\n"
    assert printed() == "none\n"


def test_each_language_has_a_default_context_and_short_names(interpreter):
    assert interpreter.run_code("kept=bash", language="bash").error is None
    assert interpreter.run_code("echo $kept $PWD", language=" Bash ").logs.stdout == [
        "bash /home/user\n"
    ]
    languages = [context.language for context in interpreter.list_code_contexts()]
    assert languages.count("bash") == 1 and languages.count("python") == 1


def test_an_unknown_language_is_refused_and_makes_no_context(interpreter):
    before = len(interpreter.list_code_contexts())
    for language in ["cobol", "../python3", ".", "x" * 1000]:
        with pytest.raises(SandboxException, match="500.*no such kernel|500 Internal"):
            interpreter.run_code("1", language=language)
    assert len(interpreter.list_code_contexts()) == before
