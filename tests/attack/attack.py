"""How an attack is declared, and the worlds it is tried in.

    @attack("own-ipc", without="ipc-namespace")
    def test_memory_of_a_neighbour_is_attached_by_its_key(world):
        ...
        return "what was reached"

It is tried twice: against a gateway as it is, where it has to be held, and against one without the
walls named, where it has to succeed. So an attack that cannot work, or whose wall is not what holds
it, fails here. The first argument is a claim of SECURITY.md. What an attack returns is what it has
reached; that it was held it says by returning nothing or raising `Held`. `world.inside` runs a
function of the test's in a sandbox, where an `OSError` means that it was held.

An attack that no single wall of ours stops is declared with `nothing_without`, the reason.

With `COPPICE_TEST_URL` the gateway there is attacked, which has all its walls: what is marked
`linux` or `freebsd` is tried where sandboxes are of that system, what is marked `local`, or takes
a gateway of its own, is not.
"""

import functools
import inspect
import os
import shlex
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
from e2b import CommandExitException, Sandbox

from gateway import BINARY, REPO, Gateway, Remote

# The gateway that the environment names, if it does.
REMOTE = Remote.of_environment()
# A release refuses to take walls down. `cargo test` leaves this one.
DEBUG = REPO / os.environ.get("COPPICE_DEBUG_BIN", "target/debug/coppice")
WALLS_DOWN = "COPPICE_UNSAFE_WALLS_DOWN"
PRELUDE = (Path(__file__).parent / "inside.py").read_text()
FIRST_BUILD = 600
# What a gateway's host thinks of it, when memory runs out, as no sandbox is to be thought of. It
# would be less than zero, which not every root may write.
SCORE = 200
SCORED = ("sh", "-c", f'echo {SCORE} >/proc/self/oom_score_adj && exec "$@"', "sh")


class Held(Exception):
    """What stopped an attack."""


def attack(claim, without=(), nothing_without=None):
    """Declares the test below it to be an attack on `claim`, stopped by the walls `without` which
    it succeeds."""
    walls = (without,) if isinstance(without, str) else tuple(without)
    assert bool(walls) != bool(nothing_without), "name the walls that stop it, or why there is none"

    def declare(run):
        @pytest.mark.claim(claim)
        @pytest.mark.parametrize(
            "world",
            [pytest.param((), id="held")]
            + [pytest.param(walls, id=f"without {' and '.join(walls)}")] * bool(walls),
            indirect=True,
        )
        @functools.wraps(run)
        def test(world, **fixtures):
            try:
                reached, held = run(world, **fixtures), "it reached nothing"
            except Held as error:
                reached, held = None, str(error)
            if world.down:
                assert reached, f"succeeds without {world.down}, but: {held}"
            else:
                assert not reached, f"reached: {reached}"
            print(f"reached: {reached}" if reached else f"held: {held}")

        return test

    return declare


def to_envd(sandbox):
    """The headers of a request of one's own to a sandbox's envd."""
    return {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "E2b-Sandbox-Port": "49983",
        "X-Access-Token": sandbox._envd_access_token or "",
    }


class World:
    """A gateway without some of its walls, and two sandboxes that are strangers to each other."""

    def __init__(self, down=(), env=None, data_dir=None):
        self.down, self._sandboxes = down, {}
        if REMOTE:
            assert not down and not env, "it is as whoever started it would have it"
            self.gateway = REMOTE
            return
        env = dict(env or {})
        if down:
            env[WALLS_DOWN] = ",".join(down)
        if "network-namespace" in down:
            env["COPPICE_NETWORK"] = "none"
        binary = DEBUG if down else BINARY
        self.gateway = Gateway(env=env, prefix=SCORED, binary=binary, data_dir=data_dir)

    def start(self):
        if not REMOTE:
            self.gateway.start(patience=FIRST_BUILD)
        return self

    def remove(self):
        if not REMOTE:
            return self.gateway.remove()
        for sandbox in self._sandboxes.values():
            sandbox.kill()

    @property
    def attacker(self):
        return self._sandbox("attacker")

    @property
    def neighbour(self):
        return self._sandbox("neighbour")

    def _sandbox(self, name):
        if name not in self._sandboxes:
            self._sandboxes[name] = self.create()
        return self._sandboxes[name]

    def create(self, **options):
        """One more, which whoever asks has to end."""
        sandbox = Sandbox.create(**{"timeout": 600, **options}, **self.gateway.opts)
        sandbox.files.write("/opt/inside.py", PRELUDE, user="root")
        return sandbox

    @contextmanager
    def another(self, **options):
        """A sandbox of an attack's own, that it may ruin."""
        sandbox = self.create(**options)
        try:
            yield sandbox
        finally:
            sandbox.kill()

    def inside(
        self, attempt, *arguments, sandbox=None, user="root", timeout=20, may_be_killed=False
    ):
        """Has a function do its worst in a sandbox, the attacker's if none is given, and returns
        what it returned. It sees its arguments, what is in `inside.py`, and nothing of the test.
        That it is killed counts as held only where that is what is to happen to it."""
        command, sandbox = self.command(attempt, *arguments), sandbox or self.attacker
        try:
            done = sandbox.commands.run(command, user=user, timeout=timeout)
        except CommandExitException as error:
            if error.exit_code == -1 and may_be_killed:
                raise Held(f"it was ended: {error.error}") from error
            raise AssertionError(f"an attack is broken: {error} {error.error}") from error
        kind, _, told = done.stdout.rpartition("\n@")[2].rstrip("\n").partition(" ")
        assert kind in ("REACHED", "HELD"), done
        if kind == "HELD":
            raise Held(told)
        return told

    @contextmanager
    def while_inside(self, attempt, *arguments, sandbox=None, user="root"):
        """The same for one that goes on: until it has told something, and then meanwhile."""
        command, sandbox = self.command(attempt, *arguments), sandbox or self.attacker
        running = sandbox.commands.run(command, user=user, background=True, timeout=0)
        said = ""
        for out, _, _ in running:
            said += out or ""
            if "@" in said and said.endswith("\n"):
                break
        try:
            yield said.partition("@")[2].strip()
        finally:
            running.kill()

    @staticmethod
    def command(attempt, *arguments):
        source = textwrap.dedent(inspect.getsource(attempt))
        given = ", ".join(map(repr, arguments))
        program = f"import sys\nsys.path.insert(0, '/opt')\nfrom inside import *\n{source}"
        program += f"\ntell({attempt.__name__}, {given})"
        return f"python3 -B -u -c {shlex.quote(program)}"
