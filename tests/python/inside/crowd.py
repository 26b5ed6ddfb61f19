"""Fills the process table: forks sleepers until no more can be made, says so and stays."""

import os
import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleepers = 0
while True:
    try:
        if os.fork() == 0:
            while True:
                signal.pause()
    except OSError:
        print(f"full after {sleepers}", flush=True)
        break
    sleepers += 1
while True:
    signal.pause()
