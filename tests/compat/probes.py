"""Probes: small real requests for what no method of an SDK stands for. A pytest plugin.

Each is one or more rows of docs/e2b.md. What the gateway says it cannot yet is a row too, and
passes: the document, which CI compares with the one that is committed, tells when that changes.
"""

import pytest
from e2b import Sandbox

from record import Record, is_not_yet

BASE = {"templateID": "base"}


class NotYet(Exception):
    pass


class Probes:
    """Those of one file: `(section, names, probe)`, a probe being a function of a `Place`."""

    every = []

    def __init__(self):
        self.here = []

    def row(self, section, *names):
        """Makes a probe of a function; it may stand for several rows."""

        def add(probe):
            self.here.append((section, names, probe))
            self.every.append((section, names))
            return probe

        return add

    def simple(self, section, method, path, status, body=None):
        """A row whose probe is one request."""

        @self.row(section, f"`{method} {path}`")
        def probe(at):
            asked = path.replace("{id}", at.id if "sandboxes" in path else "mine")
            for name, value in (("build", "0" * 32), ("hash", "0" * 64), ("alias", "base")):
                asked = asked.replace(f"{{{name}}}", value)
            expect(at.api.request(method, asked, json=body), status)


def expect(answer, *statuses):
    """The answer, if it is as it must be."""
    if answer.status_code in (400, 404, 501) and is_not_yet(answer.text):
        raise NotYet(answer.text)
    if answer.status_code == 404 and "no such route" in answer.text:
        raise NotYet(answer.text)
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text}"
    return answer


class Place:
    """A gateway with one sandbox in it, and the clients to knock with."""

    def __init__(self, gateway, new_gateway, sandbox):
        self.gateway, self.new_gateway, self.sandbox = gateway, new_gateway, sandbox
        self.id, self.api = sandbox.sandbox_id, gateway.http()
        self.token = self.api.get(f"/sandboxes/{self.id}").json()["envdAccessToken"]
        self.routing = {"E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": "49983"}
        self.envd = gateway.http(**self.routing, **{"X-Access-Token": self.token})
        self.anybody = gateway.http(**{"X-API-Key": None})

    def close(self):
        for client in (self.api, self.envd, self.anybody):
            client.close()

    def created(self, path="/v2/sandboxes", headers=None, **fields):
        """A sandbox of that request, described, and ended again."""
        made = expect(self.api.post(path, json={**BASE, **fields}, headers=headers), 201).json()
        described = self.api.get(f"/sandboxes/{made['sandboxID']}").json()
        assert self.api.delete(f"/sandboxes/{made['sandboxID']}").status_code == 204
        return made, described


def pytest_generate_tests(metafunc):
    """Has the one test of a file try all its probes."""
    if "probe" in metafunc.fixturenames:
        here = metafunc.module.probes.here
        names = [f"{section}: {names[0]}" for section, names, _ in here]
        metafunc.parametrize(("section", "names", "probe"), here, ids=names)


@pytest.fixture(scope="session")
def rows(pytestconfig):
    """Where the outcome of a probe goes."""
    record = Record("routes", "HTTP", "")
    record.surface = [f"{section}: {name}" for section, names in Probes.every for name in names]
    if pytestconfig.getoption("--compat"):
        pytestconfig.recorder.records.append(record)
    return record


@pytest.fixture(scope="module")
def standing(gateway):
    """A sandbox for a whole file."""
    with Sandbox.create(timeout=300) as sandbox:
        yield sandbox


@pytest.fixture
def place(gateway, new_gateway, standing):
    place = Place(gateway, new_gateway, standing)
    yield place
    place.close()


@pytest.fixture
def attempt(place, rows, section, names):
    """Tries a probe and notes how that ended."""

    def attempt(probe):
        outcome = "passed"
        try:
            probe(place)
        except NotYet:
            outcome = "not_yet"
        for name in names:
            rows.note(f"{section}: {name}", outcome)

    return attempt
