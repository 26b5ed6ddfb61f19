"""Fills memory and keeps it full: a child takes all it can get and is replaced when it is killed.

Waits for `/tmp/go`; counts the children that the kernel has killed in `/tmp/killed`.
"""

import os
import time


def devour():
    taken = []
    while True:
        taken.append(b"x" * (16 << 20))


while not os.path.exists("/tmp/go"):
    time.sleep(0.05)
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
