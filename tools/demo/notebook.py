"""A small notebook in each of several sandboxes at once, and a row for what came of every cell.

`demo-notebook.sh` starts it. Ends with 1 when a cell gave anything else than it should.
"""

import base64
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from e2b_code_interpreter import Sandbox

LINES = 20_000
ROW = "{:<22} {:<10} {:<36} {:>6}"


def says(text):
    def check(execution):
        expect(execution.text == text, f"{execution.text!r}, not {text!r}")
        return f"text {text}"

    return check


def nothing(execution):
    expect(not execution.results, f"{len(execution.results)} results of an assignment")
    return "nothing"


def picture(execution):
    (figure,) = execution.results
    png, values = base64.b64decode(figure.png), [bar.value for bar in figure.chart.elements]
    expect(png.startswith(b"\x89PNG"), "the picture is no PNG")
    expect(list(map(float, values)) == [3, 5, 4], f"the bars are {values}")
    return f"png {len(png) // 1024} KiB, {figure.chart.type.value} chart"


def table(execution):
    (frame,) = execution.results
    expect(frame.data == {"month": ["Jan", "Feb"], "sold": [3, 5]}, f"data {frame.data}")
    expect("<table" in frame.html, "no HTML of the table")
    return "data 2 x 2, html"


def failed(execution):
    error = execution.error
    expect(error is not None and error.name == "ZeroDivisionError", f"error {error}")
    return f"error {error.name}"


def long(execution):
    lines = "".join(execution.logs.stdout).splitlines()
    expect(lines == [f"line {n}" for n in range(LINES)], f"{len(lines)} lines")
    return f"stdout {LINES} lines"


def notebook(number):
    """The cells of one sandbox: a name, the code, and what tells what came back of it."""
    return [
        ("state", f"mine = {number}", nothing),
        ("result", "mine * 2", says(str(number * 2))),
        (
            "plot",
            "import matplotlib.pyplot as plt\nplt.bar(['a', 'b', 'c'], [3, 5, 4])\nplt.show()",
            picture,
        ),
        (
            "DataFrame",
            "import pandas as pd\npd.DataFrame({'month': ['Jan', 'Feb'], 'sold': [3, 5]})",
            table,
        ),
        ("error", "mine / 0", failed),
        ("output", f"for n in range({LINES}): print('line', n)", long),
        ("state", "mine", says(str(number))),
    ]


def expect(condition, otherwise):
    if not condition:
        raise ValueError(otherwise)


def run(number):
    """Runs the notebook in a sandbox of its own; gives how many cells it had and how many were wrong."""
    cells, wrong, began = 0, 0, time.monotonic()
    try:
        with Sandbox.create(timeout=300) as sandbox:
            row(sandbox.sandbox_id, "create", "sandbox", began)
            for name, code, check in notebook(number):
                began, cells = time.monotonic(), cells + 1
                try:
                    execution = sandbox.run_code(code)
                    if execution.error and check is not failed:
                        raise ValueError(f"{execution.error.name}: {execution.error.value}")
                    row(sandbox.sandbox_id, name, check(execution), began)
                except Exception as error:
                    wrong += 1
                    row(sandbox.sandbox_id, name, f"WRONG: {error}", began)
    except Exception as error:
        wrong += 1
        row(f"number {number}", "create", f"WRONG: {type(error).__name__}: {error}", began)
    return cells, wrong


def row(sandbox, cell, kind, began):
    ms = round((time.monotonic() - began) * 1000)
    # In one piece: others print too, and the end of a line would be a piece of its own.
    print(ROW.format(sandbox, cell, kind, ms) + "\n", end="", flush=True)


def main():
    count, began = int(sys.argv[1]) if len(sys.argv) > 1 else 10, time.monotonic()
    print(ROW.format("sandbox", "cell", "came back", "ms"))
    with ThreadPoolExecutor(count) as pool:
        done = list(pool.map(run, range(1, count + 1)))
    cells, wrong = (sum(column) for column in zip(*done, strict=True))
    seconds = time.monotonic() - began
    told = f"{wrong} wrong" if wrong else "all as it should be"
    print(f"\n{count} sandboxes, {cells} cells in {seconds:.1f} s: {told}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
