"""`@e2b/cli`, as `npm ci` in this directory installs it."""

import json
import os
import re
import subprocess
from pathlib import Path

from record import is_not_yet
from terminal import Terminal

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "node_modules" / "@e2b" / "cli"


class Cli:
    """The program, for a user with a home of their own who set the variables that README says."""

    def __init__(self, home, env, record=None, prefix=()):
        assert PACKAGE.is_dir(), f"run `npm ci` in {HERE}"
        self.record, self.home, self.prefix = record, home, prefix
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "NO_UPDATE_NOTIFIER": "1", **env}

    def command(self, argv):
        return [*self.prefix, "node", PACKAGE / "dist" / "index.js", *argv]

    def run(self, *argv, input="", env=None, cwd=None):
        """One command to its end."""
        done = subprocess.run(
            self.command(argv),
            input=input,
            env={**self.env, **(env or {})},
            cwd=cwd or self.home,
            capture_output=True,
            text=True,
            timeout=40,
        )
        not_yet = done.returncode != 0 and is_not_yet(done.stderr + done.stdout)
        self.note(argv, "not_yet" if not_yet else "refused" if done.returncode else "passed")
        return done

    def ok(self, *argv, **options):
        """What a command prints that must succeed."""
        done = self.run(*argv, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *argv):
        return json.loads(self.ok(*argv))

    def refused(self, *argv, **options):
        """What a command says that must fail."""
        done = self.run(*argv, **options)
        assert done.returncode == 1, done
        return done.stdout + done.stderr

    def terminal(self, *argv):
        """A command that talks to a terminal."""
        return Terminal(self.command(argv), self.env, lambda: self.note(argv, "passed"))

    def note(self, argv, outcome):
        known = self.record.surface if self.record else ()
        for length in (3, 2):
            if (name := " ".join(argv[:length])) in known:
                self.record.note(name, outcome)
                return

    def commands(self, *above):
        """All it has, by asking each for its help."""
        text = self.ok(*above, "--help")
        _, _, listed = text.partition("\nCommands:\n")
        for name, rest in re.findall(r"^  ([a-z]+)\S*( ?.*)$", listed, re.MULTILINE):
            # One that takes nothing may be a group.
            below = [] if rest.startswith((" [", " <")) else list(self.commands(*above, name))
            if name != "help":
                yield from below or [" ".join([*above, name])]
