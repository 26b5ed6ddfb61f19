"""Output while the code still runs."""

from e2b_code_interpreter import Sandbox

CODE = """
import sys, time
for step in range(3):
    print("step", step)
    time.sleep(0.2)
print("a warning", file=sys.stderr)
"""

with Sandbox.create() as sandbox:
    sandbox.run_code(
        CODE,
        on_stdout=lambda message: print(message.line, end="", flush=True),
        on_stderr=lambda message: print("err:", message.line, end=""),
    )
    # Commands stream too.
    sandbox.commands.run("for i in 1 2; do echo $i; done", on_stdout=lambda text: print(text, end=""))
