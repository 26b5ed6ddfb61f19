#!/usr/bin/env python3
"""Makes docs/e2b.md of what the tests wrote down in target/e2e/compat.

With `--check` it writes nothing, and fails if the document that is there says otherwise. Fails in
any case if something broke, or was used by no test and reasons.toml does not say why.
"""

import difflib
import json
import re
import sys
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
FOUND = REPO / "target" / "e2e" / "compat"
DOCUMENT = REPO / "docs" / "e2b.md"

# A column, and what it is made of: the verdict of several is the worst of theirs.
COLUMNS = {
    "Python": ["python-sync"],
    "Python, async": ["python-async"],
    "older Python": ["python-old-sync", "python-old-async"],
    "JavaScript": ["js"],
    "browser": ["browser"],
}
WORST_FIRST = ["broken", "untested", "not yet", "cannot", "not run", "client", "works"]
# JavaScript's name for what Python calls otherwise.
ALSO_CALLED = {"sandbox.pty.send_input": "sandbox.pty.send_stdin"}
# A list is made without a request: its pages tell whether there is one.
PAGES = {
    "Sandbox.list": "sandbox_paginator.next_items",
    "Sandbox.list_snapshots": "snapshot_paginator.next_items",
    "sandbox.list_snapshots": "snapshot_paginator.next_items",
    "Secret.list": "secret_paginator.next_items",
}

GROUPS = {
    "Sandbox": "Sandboxes: on the class",
    "sandbox": "Sandboxes: on one",
    "sandbox_paginator": "Sandboxes: pages of a list",
    "sandbox.commands": "Commands: `sandbox.commands`",
    "command_handle": "Commands: a running one",
    "command_input_handle": "Commands: streamed input",
    "sandbox.pty": "Terminals: `sandbox.pty`",
    "sandbox.files": "Files: `sandbox.files`",
    "watch_handle": "Files: a watched directory",
    "sandbox.git": "Git: `sandbox.git`",
    "snapshot_paginator": "Snapshots: pages of a list",
    "Template": "Templates: on the class",
    "template": "Templates: steps of one",
    "Volume": "Volumes: on the class",
    "volume": "Volumes: in one",
    "Secret": "Secrets",
    "secret_paginator": "Secrets: pages of a list",
    "": "Functions and the rest",
}

HEAD = """\
# What of E2B works

{clients}

Every public method of these packages and every command of the CLI, read from the packages
themselves, and what came of it when the test suites used it against a real gateway. Nobody writes
this file: `tests/compat/table.py` does, from what the suites leave in `target/e2e/compat`, and CI
fails when the result is another one. Names are Python's; JavaScript has them in camel case.

- **works**: answered as it should be, in tests that passed.
- **not yet**: refused by name (501, or 400 for a field); nothing is ignored in silence.
- **cannot**: belongs to E2B's own service.
- client: the client's own business, sends nothing.
- not run: tested in node; the browser has the same code and adds nothing to it.
- –: this client does not have it.
"""


def snake(name):
    """`sandbox.getInfo` and `sandbox.get_info` are the same; a class keeps its capital."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    name = re.sub(r"[A-Z]+", lambda capitals: capitals[0].lower(), words)
    name = words[0] + name[1:] if "." in words else name
    return ALSO_CALLED.get(name, name)


class Reasons:
    def __init__(self):
        told = tomllib.loads((HERE / "reasons.toml").read_text())
        self.client = told["client_only"]["names"]
        self.not_run = {"browser": told["not_run_in_a_browser"]["names"]}
        self.why = {"cannot": told["cannot"], "not yet": told["not_yet"]}

    def is_client(self, name):
        return any(fnmatchcase(name, pattern) for pattern in self.client)

    def verdict(self, name, column):
        """What is to be said of something untested, and why."""
        if self.is_client(name):
            return "client", None
        if any(fnmatchcase(name, pattern) for pattern in self.not_run.get(column, ())):
            return "not run", None
        for verdict, reasons in self.why.items():
            for pattern, reason in reasons.items():
                if fnmatchcase(name, pattern):
                    return verdict, reason
        return "untested", None


class Table:
    """Verdicts by name of a row, for each of some columns."""

    def __init__(self, columns, reasons, spell=lambda name: name):
        self.columns, self.rows, self.notes, self.clients = list(columns), {}, {}, {}
        for column, names in columns.items():
            for name in names:
                found = load(name)
                self.clients.setdefault(column, f"{found['client']} {found['version']}")
                calls = {spell(name): count for name, count in found["calls"].items()}
                for row in dict.fromkeys(map(spell, found["surface"])):
                    self.add(row, column, calls.get(PAGES.get(row, row), {}), reasons)

    def add(self, row, column, count, reasons):
        verdict, note = of_count(count), None
        if verdict == "untested" or reasons.is_client(row):
            verdict, note = reasons.verdict(row, column)
        if note:
            self.notes[row] = note
        cells = self.rows.setdefault(row, {})
        cells[column] = min(verdict, cells.get(column, verdict), key=WORST_FIRST.index)

    def wrong(self):
        for row, cells in self.rows.items():
            for column, verdict in cells.items():
                if verdict in ("broken", "untested"):
                    yield f"{verdict}: {row}" + (f" ({column})" if column else "")

    def lines(self, title, rows, label=lambda row: row):
        widths = [*self.columns, *(["why"] if any(row in self.notes for row in rows) else [])]
        yield f"| {title} | {' | '.join(widths)} |"
        yield f"|---|{'---|' * len(widths)}"
        for row in rows:
            cells = [self.rows[row].get(column, "–") for column in self.columns]
            cells = [
                f"*{cell}*" if cell not in ("works", "client", "not run", "–") else cell
                for cell in cells
            ]
            if "why" in widths:
                cells.append(self.notes.get(row, ""))
            yield f"| {label(row)} | {' | '.join(cells)} |"


def load(name):
    try:
        return json.loads((FOUND / f"{name}.json").read_text())
    except FileNotFoundError:
        sys.exit(f"error: {FOUND}/{name}.json is missing: run the suite that writes it")


def of_count(count):
    for outcome, verdict in (("failed", "broken"), ("passed", "works"), ("not_yet", "not yet")):
        if count.get(outcome):
            return verdict
    return "untested"


def sections(table, section_of, titles, label):
    """A table for each section, the rows in their order."""
    by_section = {}
    for row in table.rows:
        by_section.setdefault(section_of(row), []).append(row)
    for section in titles or by_section:
        if rows := by_section.get(section):
            yield from ["", f"### {titles[section] if titles else section}", ""]
            yield from table.lines("", sorted(rows) if titles else rows, label)


def owner(method):
    """The heading a method belongs under."""
    owner = method.rpartition(".")[0]
    return owner if owner in GROUPS else ""


def document():
    reasons = Reasons()
    methods = Table(COLUMNS, reasons, snake)
    commands = Table({"": ["cli"]}, reasons)
    http = Table({"": ["routes"]}, reasons)
    clients = [f"- {name}: {client}" for name, client in methods.clients.items()]
    clients += [f"- CLI: {client}" for client in commands.clients.values()]
    lines = [HEAD.format(clients="\n".join(clients)), "## SDK"]
    lines += sections(
        methods, owner, GROUPS, lambda row: f"`{row.rpartition('.')[2] if owner(row) else row}`"
    )
    lines += ["", "## CLI", ""]
    lines += commands.lines("", list(commands.rows), lambda row: f"`e2b {row}`")
    lines += ["", "## HTTP", "", "What no method stands for, by small real requests."]
    lines += sections(
        http, lambda row: row.partition(": ")[0], None, lambda row: row.partition(": ")[2]
    )
    wrong = [*methods.wrong(), *commands.wrong(), *http.wrong()]
    return "\n".join(lines) + "\n", wrong


def main():
    text, wrong = document()
    for one in wrong:
        print(f"error: {one}", file=sys.stderr)
    if "--check" in sys.argv:
        committed = DOCUMENT.read_text() if DOCUMENT.exists() else ""
        change = difflib.unified_diff(
            committed.splitlines(), text.splitlines(), "committed", "as tested", lineterm="", n=1
        )
        if committed != text:
            print("\n".join(change), file=sys.stderr)
            wrong.append("docs/e2b.md is not what the tests say: run tests/compat/table.py")
            print(f"error: {wrong[-1]}", file=sys.stderr)
    else:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(text)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
