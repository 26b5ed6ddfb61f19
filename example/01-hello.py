"""A first sandbox: code, a command, the end."""

from e2b_code_interpreter import Sandbox

with Sandbox.create() as sandbox:
    print(sandbox.run_code("sum(range(10))").text)
    print(sandbox.commands.run("id -un").stdout, end="")

    # What a run leaves stays for the next; an error is an answer, not an exception.
    sandbox.run_code("numbers = [1, 2, 3]")
    print(sandbox.run_code("numbers[7]").error.name)
