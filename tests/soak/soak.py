"""Thousands of random operations of many clients on one gateway, which is killed and started again
meanwhile: nothing may be stuck, lost or left over, and every answer has to be one that the
reference (`reference.py`) gives too.

As root: `python tests/soak/soak.py --seconds 180`. The seed makes the same choices again; what
comes of them depends on the machine. `COPPICE_BIN` names the binary.
"""

import argparse
import faulthandler
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from subjects import Wrong
from world import World
from clients import Client

SEED = 20_261_122
CLIENTS = 32
# Whatever happens, all is over so long after the time that was asked for (s).
FINISH = 180
TELL_EVERY = 10


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("--seconds", type=float, default=180)
    options.add_argument("--seed", type=int, default=SEED)
    options.add_argument("--clients", type=int, default=CLIENTS)
    options.add_argument("--slack", type=float, default=1, help="for a machine with much else to do")
    options.add_argument("--log", type=Path, help="where the gateway's log is kept when it failed")
    given = options.parse_args()
    if os.geteuid() != 0:
        sys.exit("sandboxes take root")
    print(f"{given.clients} clients for {given.seconds:.0f} s, seed {given.seed}", flush=True)
    world = World(random.Random(given.seed), given.slack)
    stopper = Stopper(given.seconds + FINISH * given.slack, world)
    try:
        failure = run(world, given)
        if failure:
            report(world, failure, given)
    finally:
        world.gateway.remove()
        stopper.cancel()
    sys.exit(1 if failure else 0)


def run(world, given):
    """What went wrong, or nothing."""
    signal.signal(signal.SIGTERM, lambda *_: world.stop.set())
    clients = [Client(world, number, given.seed) for number in range(given.clients)]
    try:
        world.start()
        trouble = threading.Thread(target=guarded, args=(world, world.trouble), name="trouble")
        everyone = [trouble, *clients]
        for thread in everyone:
            thread.start()
        watch(world, clients, given.seconds)
        for thread in everyone:
            thread.join(FINISH / 3 * given.slack)
            if thread.is_alive() and not world.failure:
                faulthandler.dump_traceback(all_threads=True)
                world.fail(Wrong(f"{thread.name} is stuck"))
        if not world.failure:
            world.finish()
            tell(world, clients, given.seconds)
            print("nothing stuck, nothing lost, nothing left over")
    except (Wrong, AssertionError) as error:
        world.fail(error)
    return world.failure


def guarded(world, work):
    try:
        work()
    except Exception as error:
        world.fail(error)


def watch(world, clients, seconds):
    began = time.monotonic()
    try:
        while not world.stop.wait(min(TELL_EVERY, max(0.1, began + seconds - time.monotonic()))):
            tell(world, clients, time.monotonic() - began)
            if time.monotonic() >= began + seconds:
                break
    except KeyboardInterrupt:
        print("stopping")
    world.stop.set()


def tell(world, clients, seconds):
    counts = sum((client.counts for client in clients), Counter())
    lost = sum(client.lost for client in clients)
    refused = sum(client.refused for client in clients)
    slowest, what = max(client.slowest for client in clients)
    print(
        f"{seconds:5.0f} s: {counts.total()} operations, {world.subjects.count} sandboxes, "
        f"{world.restarts} restarts (the slowest {world.slowest_start:.1f} s), {world.audits} audits, "
        f"{lost} cut off, {refused} refused, the slowest {slowest:.1f} s ({what}); "
        + ", ".join(f"{name} {count}" for name, count in counts.most_common()),
        flush=True,
    )


def report(world, failure, given):
    print(f"\nFAILED with seed {given.seed}: {type(failure).__name__}: {failure}")
    subject = getattr(failure, "subject", None)
    log = world.gateway.base / "log"
    if subject:
        print("\n".join(subject.told()))
        print("of the gateway's log:")
        lines = log.read_text(errors="replace").splitlines()
        print("\n".join(f"  {line}" for line in lines if subject.id in line))
    else:
        print(world.gateway.log_tail())
    if given.log:
        given.log.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(log, given.log)
        print(f"all of it: {given.log}")


class Stopper(threading.Timer):
    """Ends a run that does not end."""

    def __init__(self, seconds, world):
        super().__init__(seconds, self.stop_all, [world])
        self.daemon = True
        self.start()

    def stop_all(self, world):
        faulthandler.dump_traceback(all_threads=True)
        print("FAILED: the run does not end", flush=True)
        if world.gateway.process:
            world.gateway.process.kill()
        os._exit(1)


if __name__ == "__main__":
    main()
