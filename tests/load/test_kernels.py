"""A hundred sandboxes that run code, and what one costs that has nothing to do."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hoststate import processes_of
from measure import Footprint
from wire import Wire

KERNELS = 100
INTERPRETER = 49999
# Two processors start kernels; more at once would only wait for each other.
AT_ONCE = 4
# What the gateway may hold for them (MiB), and what questions may add once all are there.
FOR_ALL, FOR_MORE = 32, 8
# Proportional set size of an idle sandbox with a kernel (MiB): 35 have been seen.
MOST_EACH = 100


@pytest.mark.timeout(400)
def test_a_hundred_kernels_at_once_all_answer(load, interpreter_template):
    start, began = Footprint.of(load.pid), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:

        def begin(number):
            sandbox = load.sandbox(templateID=interpreter_template)
            return sandbox, execute(load, sandbox, f"mine = {number}\n1 + 1")

        begun = list(pool.map(begin, range(KERNELS)))
        assert [text for _, text in begun] == ["2"] * KERNELS
        sandboxes = [sandbox for sandbox, _ in begun]
        print(f"{KERNELS} kernels begun in {time.monotonic() - began:.0f} s")

        def ask_all():
            texts = pool.map(lambda sandbox: execute(load, sandbox, "1 + 1, mine"), sandboxes)
            assert list(texts) == [f"(2, {number})" for number in range(KERNELS)]

        ask_all()
        full = Footprint.of(load.pid)
        for _ in range(3):
            ask_all()
        grown, more = full.grown(start), Footprint.of(load.pid).grown(full)
        print(f"memory of the gateway: {grown:.1f} MiB for {KERNELS}, then {more:.1f} MiB")
        assert grown < FOR_ALL and more < FOR_MORE

    sizes = {part: [pss(sandbox, part) for sandbox in sandboxes] for part in ("envd", "user")}
    envd, kernel = (sum(found) / KERNELS for found in sizes.values())
    print(f"idle, with a kernel: {envd + kernel:.1f} MiB each (envd {envd:.1f}, kernel {kernel:.1f})")
    assert 0 < envd < kernel and envd + kernel < MOST_EACH


def execute(load, sandbox, code):
    """The text of the main result."""
    body = json.dumps({"code": code}).encode()
    headers = {"Content-Type": "application/json", **sandbox.routing(INTERPRETER)}
    with Wire(load.gateway.address, patience=60) as wire:
        status, body = wire.ask("POST", "/execute", body, **headers)
    assert status == 200, (status, body)
    said = [json.loads(line) for line in body.splitlines()]
    assert said[-1] == {"type": "end_of_execution"}, said
    (text,) = [line["text"] for line in said if line.get("is_main_result")]
    return text


def pss(sandbox, part):
    """The proportional set size of the processes in one of its cgroups (MiB)."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in processes_of(sandbox.id, part)]
    found = [int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) for rollup in rollups]
    return sum(found) / 1024
