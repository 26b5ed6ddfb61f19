"""Fills memory and keeps it full: a child takes all it can get and is replaced when it is killed.

The first child is there from the start and waits for `/tmp/go`, so that a full process table does
not stop it; every later one takes its place. `/tmp/killed` counts those the kernel has killed.
"""

import os
import time


def devour():
    while not os.path.exists("/tmp/go"):
        time.sleep(0.05)
    taken = []
    while True:
        taken.append(b"x" * (16 << 20))


killed = 0
while True:
    try:
        child = os.fork()
    except OSError:
        time.sleep(0.01)
        continue
    if child == 0:
        devour()
    os.waitpid(child, 0)
    killed += 1
    try:
        with open("/tmp/killed", "w") as note:
            note.write(str(killed))
    except OSError:
        pass  # the disk is full as well
