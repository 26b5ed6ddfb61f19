"""SECURITY.md says nothing that is not tried, and what is tried is said there."""

import re
import subprocess
from pathlib import Path

import pytest

from attack import DEBUG, WALLS_DOWN
from gateway import BINARY, REPO, Gateway
from selection import Place, applies, why_not

HERE = Path(__file__).parent
TEXT = (REPO / "SECURITY.md").read_text()
ROWS = re.findall(r"^\| `([a-z-]+)` \|.*\|(.*)\|$", TEXT, re.MULTILINE)
SOURCES = "\n".join(path.read_text() for path in HERE.glob("test_*.py"))


def test_every_claim_is_attacked_and_every_attack_is_on_a_claim():
    attacked = set(re.findall(r'^@attack\(\s*"([a-z-]+)"', SOURCES, re.MULTILINE))
    assert {claim for claim, _ in ROWS} == attacked


def test_every_test_that_is_named_exists():
    there = set(re.findall(r"^def (test_\w+)", SOURCES, re.MULTILINE))
    for claim, tests in ROWS:
        named = set(re.findall(r"`(test_\w+)`", tests))
        assert named and named <= there, (claim, named - there)


def test_what_is_said_to_be_tried_elsewhere_is_there():
    suites = [path for path in (REPO / "tests").glob("*/*.py")]
    rust = [path for tree in ("gateway", "envd") for path in (REPO / tree).rglob("*.rs")]
    defined = re.compile(r"\b(?:def|fn) (\w+)")
    there = {name for path in suites + rust for name in defined.findall(path.read_text())}
    for page in ("SECURITY.md", "docs/listeners.md"):
        text = (REPO / page).read_text()
        for name in set(re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+){2,})`", text)) - {"perf_event_open"}:
            assert name in there, f"{page}: there is no test {name}"
        for path in set(re.findall(r"`((?:gateway|envd|tests)/[\w/.]+)`", text)):
            assert (REPO / path).exists(), f"{page}: there is no {path}"


def test_every_wall_is_taken_down_by_some_attack():
    names = re.findall(r'Self::\w+ => "([a-z-]+)"', (REPO / "envd/src/walls.rs").read_text())
    declared = re.findall(r"\bwithout=(\([^)]+\)|[^)]+)", SOURCES)
    taken = {name for line in declared for name in re.findall(r'"([a-z-]+)"', line)}
    assert len(names) > 5 and set(names) <= taken, set(names) - taken


@pytest.mark.local("starts a gateway that is to refuse")
def test_a_release_takes_no_wall_down():
    if BINARY.resolve() == DEBUG.resolve():
        pytest.skip("the gateway that is tried is a build for tests")
    gateway = Gateway(env={WALLS_DOWN: "masks"}, binary=BINARY)
    gateway.spawn()
    try:
        assert gateway.process.wait(30) != 0
        assert f"{WALLS_DOWN} is set: only builds for tests" in gateway.log_tail()
    finally:
        gateway.remove()


class Item:
    """As much of a test as its selection looks at."""

    def __init__(self, *marks, fixtures=(), down=None):
        self.marks = {mark.name: mark for mark in marks}
        self.fixturenames = list(fixtures)
        if down is not None:
            self.callspec = type("", (), {"params": {"world": down}})

    def get_closest_marker(self, name):
        return self.marks.get(name)


def test_each_place_has_the_attacks_that_there_are_on_it():
    linux, freebsd = pytest.mark.linux.mark, pytest.mark.freebsd.mark
    own = Place("Linux")
    theirs = Place("Linux", is_remote=True, is_here=False)
    jails = Place("FreeBSD", is_remote=True)
    for item, places in [
        (Item(), {own, theirs, jails}),
        (Item(down=()), {own, theirs, jails}),
        (Item(down=("masks",)), {own}),
        (Item(linux), {own, theirs}),
        (Item(freebsd, down=()), {jails}),
    ]:
        assert {place for place in (own, theirs, jails) if applies(item, place)} == places
    alone = Item(pytest.mark.local("looks").mark)
    assert [why_not(alone, place) for place in (own, theirs)] == [None, "not remotely: looks"]
    of_tenants, of_files = Item(fixtures=["strangers"]), Item(fixtures=["secret"])
    assert not why_not(of_tenants, own) and "tenants" in why_not(of_tenants, jails)
    assert not why_not(of_files, jails) and "another machine" in why_not(of_files, theirs)


def test_another_kernel_is_another_machine():
    assert Place.remote("FreeBSD\n{ sec = 1\n") == Place("FreeBSD", True, False)
    ours = subprocess.run(["sh", "-c", Place.QUESTION], capture_output=True, text=True).stdout
    assert Place.remote(ours) == Place("Linux", True, True)
