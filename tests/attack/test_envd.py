"""An envd that has been taken over: whatever it says, or does not say, the gateway's other
sandboxes are served, and its own is ended when it is to be."""

import contextlib
import itertools
import json
import re
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from attack import World, attack
from hoststate import processes_of
from liars import BEHAVIOURS, GOOD, Liar
from test_exhaustion import Watch

pytestmark = [
    pytest.mark.local("starts a gateway with a pool of its own"),
    pytest.mark.timeout(120),
]
BOUNDED = "what an envd says has bounds in size and time, and decides nothing"
# A client's, for an answer that may never come.
PATIENCE = 0.75
STEP = 30
# What may be taken for the word that it knows whose it is: success. A sandbox whose envd
# says that and lies later on is as any other whose envd has been taken over.
SAYS_YES = {
    "answers ten thousand times",
    "answers with no status there is",
    "lies about lengths",
    "sends a body without end",
    "sends chunks that are none",
}
WORKS = "d29ya3MK"
# Asked for whether it is well before a pause, which is waited for.
PAUSED = ("never answers", "closes at once", "sends headers without end")


# One for each way to lie, and those that are paused.
NAMES = [*BEHAVIOURS, *PAUSED]
IN_POOL = len(NAMES)


class Liars:
    """A gateway whose pool has one sandbox for each way to lie."""

    def __init__(self):
        self.world = World(env={"COPPICE_POOL": f"base={IN_POOL}"}).start()
        self.gateway, self.liars = self.world.gateway, []
        self.tokens = {}
        assert self.world.neighbour.commands.run("echo calm").stdout == "calm\n"

    def put_into_pool(self, asked_whose, names=NAMES):
        """What is in the pool gets liars of these names, which answer `asked_whose` of their
        behaviour to who tells them whose they are. Returns names and liars by their sandboxes."""
        deadline = time.monotonic() + 40
        while len(there := self._available()) < IN_POOL:
            assert time.monotonic() < deadline, f"the pool has {len(there)}"
            time.sleep(0.05)
        put = {}
        for directory, name in zip(there, itertools.cycle(names), strict=False):
            behave = BEHAVIOURS[name]
            put[directory.name] = name, Liar(directory, behave, asked_whose(behave))
        self.liars += [liar for _, liar in put.values()]
        return put

    def _available(self):
        with self.gateway.http() as http:
            told = re.findall(r"^coppice_pool_available\S* (\d+)", http.get("/metrics").text, re.M)
        if sum(map(int, told)) < IN_POOL:
            return []
        there = [path.parent for path in self.gateway.data_dir.glob("sandboxes/*/envd.sock")]
        return [directory for directory in there if not (directory / "sandbox.json").exists()]

    def create(self, _=None):
        with self.gateway.http() as http:
            made = http.post("/sandboxes", json={"templateID": "base", "timeout": 600})
        assert made.status_code == 201, made.text
        self.tokens[made.json()["sandboxID"]] = made.json()["envdAccessToken"] or ""
        return made.json()["sandboxID"]

    def run_echo(self, sandbox):
        """What a command of a sandbox answers, of one whose envd is its own."""
        body = json.dumps({"process": {"cmd": "echo", "args": ["works"]}}).encode()
        headers = {**routed(sandbox), "X-Access-Token": self.tokens[sandbox]}
        with self.gateway.http(**headers, **{"Content-Type": "application/connect+json"}) as http:
            body = struct.pack(">BI", 0, len(body)) + body
            return http.post("/process.Process/Start", content=body).text

    def remove(self):
        for liar in self.liars:
            liar.close()
        self.world.remove()


def at_once(do, over):
    with ThreadPoolExecutor(len(over)) as pool:
        return list(pool.map(do, over))


@pytest.fixture(scope="module")
def liars():
    liars = Liars()
    yield liars
    liars.remove()


@pytest.fixture(scope="module")
def lying(liars):
    """Sandboxes by the way that their envds lie, each with its liar: that has said that it knows
    whose it is, and lies from then on. On a busy machine one may not have said so in time, so that
    its sandbox was not given away."""
    lying, wanted = {name: [] for name in BEHAVIOURS}, list(NAMES)
    for _ in range(5):
        put = liars.put_into_pool(lambda _: GOOD, wanted)
        for sandbox in at_once(liars.create, put):
            name, liar = put.get(sandbox, (None, None))
            if name in wanted:
                wanted.remove(name)
                lying[name].append((sandbox, liar))
            else:
                kill(liars.gateway, sandbox)
        if not wanted:
            return lying
    raise AssertionError(f"nobody was given {wanted}")


@pytest.fixture(scope="module", autouse=True)
def paused(liars, lying):
    """What becomes of some that are paused and are to go on, beside all that is tried meanwhile."""

    def there_and_back(name):
        sandbox, _ = lying[name][1]
        with liars.gateway.http() as http:
            said = [http.post(f"/sandboxes/{sandbox}/pause", timeout=STEP).status_code]
            # By its memory, which has what has taken envd's place, and then by its files.
            for memory in (True, False):
                how = {"timeout": 600, "memory": memory}
                answer = http.post(f"/sandboxes/{sandbox}/connect", json=how, timeout=STEP)
                said.append(answer.status_code)
            return sandbox, said, liars.run_echo(sandbox)

    with ThreadPoolExecutor(len(PAUSED)) as pool:
        yield [pool.submit(there_and_back, name) for name in PAUSED]


@pytest.fixture
def watch(liars):
    return Watch(liars.world)


def unharmed(liars):
    """What a gateway says that had to be kept from falling."""
    assert liars.gateway.process.poll() is None, "the gateway has ended"
    return re.findall(r".*panicked at.*", liars.gateway.log_tail(10_000))


@attack("envd", nothing_without=BOUNDED)
def test_an_envd_lies_when_it_is_told_whose_it_is(world, liars, watch):
    """Nobody is given one of those: whoever wanted one gets another."""
    put = liars.put_into_pool(lambda behave: behave)
    with watch.throughout():
        began = time.monotonic()
        made = at_once(liars.create, put)
        took = time.monotonic() - began
    reached = [put[sandbox][0] for sandbox in made if sandbox in put]
    reached = [name for name in reached if name not in SAYS_YES]
    others = [sandbox for sandbox in made if sandbox not in put]
    assert len(others) >= len(BEHAVIOURS) - len(SAYS_YES)
    # In base64, as Connect's JSON has bytes.
    reached += [said for said in at_once(liars.run_echo, others) if WORKS not in said]
    assert max(at_once(lambda sandbox: kill(liars.gateway, sandbox), made)) < 10
    print(f"{len(made)} creates took {took:.1f} s")
    # Of sandboxes, those that the pool has meanwhile included.
    watch.opened = 0
    return reached or unharmed(liars) or watch.felt() or took > 30 and f"{took:.0f} s"


def routed(sandbox, port=49983):
    return {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": f"{port}"}


def kill(gateway, sandbox):
    """Seconds that it took."""
    began = time.monotonic()
    with gateway.http() as http:
        assert http.delete(f"/sandboxes/{sandbox}").status_code == 204
    return time.monotonic() - began


CALLS = [
    (49983, "GET", "/health", b"", None),
    (49983, "GET", "/metrics", b"", None),
    (49983, "GET", "/files?path=/etc/passwd", b"", None),
    (49983, "POST", "/files?path=/tmp/up", b"a" * (1 << 20), "application/octet-stream"),
    (49983, "POST", "/process.Process/Start", b"\0\0\0\0\2{}", "application/connect+json"),
    (49983, "POST", "/filesystem.Filesystem/WatchDir", b"\0\0\0\0\2{}", "application/connect+json"),
    (49983, "POST", "/filesystem.Filesystem/Stat", b"{}", "application/json"),
    (49999, "POST", "/execute", b'{"code":"1"}', "application/json"),
    (8080, "GET", "/", b"", None),
]


def call(gateway, sandbox, port, method, path, body, kind):
    """What a client that does not wait for ever hears at first, and whether it heard anything more:
    it stops reading after a while."""
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in routed(sandbox, port).items()]
    head += [f"Content-Type: {kind}"] if kind else []
    end, heard, read = time.monotonic() + PATIENCE, b"", 0
    with gateway.dial(PATIENCE) as connection, contextlib.suppress(OSError):
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        while time.monotonic() < end and read < 16 << 20:
            connection.settimeout(max(0.01, end - time.monotonic()))
            piece = connection.recv(1 << 16)
            heard, read = (heard + piece)[:200], read + len(piece)
            if not piece:
                break
    return heard


@pytest.mark.parametrize("name", BEHAVIOURS)
@attack("envd", nothing_without=BOUNDED)
def test_an_envd_lies_to_clients_and_in_its_reports(world, liars, lying, watch, name):
    sandbox, liar = lying[name][0]
    with watch.throughout():
        heard = at_once(lambda one: call(liars.gateway, sandbox, *one), CALLS)
    deadline = time.monotonic() + 20
    while liar.served <= len(CALLS) // 2:
        assert time.monotonic() < deadline, f"it was asked {liar.served} times"
        time.sleep(0.05)
    for (port, method, path, *_), said in zip(CALLS, heard, strict=True):
        print(f"{port} {method} {path}: {said.partition(bytes([13]))[0]}")
    # Whoever hears something hears an answer, and never a piece of what is none.
    broken = [said for said in heard if said and not re.match(rb"HTTP/1\.1 [1-9]\d\d ", said)]
    return broken or unharmed(liars) or watch.felt()


@attack("envd", nothing_without=BOUNDED)
def test_an_envd_that_lies_is_paused_and_goes_on(world, liars, paused):
    """By the kernel, whatever it says; it is asked whether it is well, and waited for so long. From
    its files a sandbox goes on with an envd of its own again."""
    ends = [future.result(timeout=50) for future in paused]
    print(ends)
    wrong = [end for end in ends if end[1] != [204, 409, 201] or WORKS not in end[2]]
    return wrong or unharmed(liars)


@attack("envd", nothing_without=BOUNDED)
def test_a_gateway_begins_among_envds_that_lie(world, liars, lying):
    sandboxes = {sandbox for one in lying.values() for sandbox, _ in one}
    began = time.monotonic()
    liars.gateway.end()
    liars.gateway.start()
    took = time.monotonic() - began
    assert sandboxes <= liars.gateway.ids(), "they are adopted"
    assert liars.world.neighbour.commands.run("echo calm").stdout == "calm\n"
    print(f"it began in {took:.1f} s")
    return unharmed(liars) or took > STEP and f"{took:.0f} s"


@attack("envd", nothing_without="a sandbox is ended by the kernel, and nobody in it is asked")
def test_an_envd_that_lies_outlives_its_sandbox(world, liars, lying, watch):
    sandboxes = [sandbox for one in lying.values() for sandbox, _ in one]
    with watch.throughout():
        took = max(at_once(lambda sandbox: kill(liars.gateway, sandbox), sandboxes))
    left, end = sandboxes, time.monotonic() + 5
    # One that has been killed is seen until it has been waited for.
    while left and time.monotonic() < end:
        left = [sandbox for sandbox in left if processes_of(sandbox)]
    print(f"the slowest took {took:.1f} s")
    return left or unharmed(liars) or watch.felt() or took > 10 and f"{took:.0f} s"
