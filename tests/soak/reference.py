"""The reference: what may be answered to requests for one sandbox, and what it is then.

It is all there is to know of a lifecycle from outside, a table, and says nothing of how Coppice
does it.
"""

from itertools import permutations, product

RUNNING, PAUSED, GONE = "running", "paused", "gone"
# Not known, as the gateway went meanwhile: it may have been done or not.
LOST = "lost"
# Of a command: its stream ended before it did.
CUT = "cut"
DONE = "done"

TABLE = {
    "pause": {RUNNING: (204, PAUSED), PAUSED: (409, PAUSED), GONE: (404, GONE)},
    "connect": {RUNNING: (200, RUNNING), PAUSED: (201, RUNNING), GONE: (404, GONE)},
    "resume": {RUNNING: (409, RUNNING), PAUSED: (201, RUNNING), GONE: (404, GONE)},
    "timeout": {RUNNING: (204, RUNNING), PAUSED: (404, PAUSED), GONE: (404, GONE)},
    # Without its memory: its processes are gone, its files are not.
    "halt": {RUNNING: (204, PAUSED), PAUSED: (409, PAUSED), GONE: (404, GONE)},
    "snapshot": {RUNNING: (201, RUNNING), PAUSED: (409, PAUSED), GONE: (404, GONE)},
    "fork": {RUNNING: (201, RUNNING), PAUSED: (409, PAUSED), GONE: (404, GONE)},
    "kill": {RUNNING: (204, GONE), PAUSED: (204, GONE), GONE: (404, GONE)},
    "run": {RUNNING: (DONE, RUNNING), PAUSED: (502, PAUSED), GONE: (502, GONE)},
    # The same in a sandbox that is woken by whoever sends it something.
    "wake": {RUNNING: (DONE, RUNNING), PAUSED: (DONE, RUNNING), GONE: (502, GONE)},
}
# Why it is what it is after that, where that changed.
WHY = {
    ("pause", 204): "user",
    ("halt", 204): "user",
    ("connect", 201): "user",
    ("resume", 201): "user",
    ("kill", 204): "user",
    ("wake", DONE): "traffic",
}
# What `GET /v1/sandboxes/{id}` calls it.
STATES = {
    RUNNING: {"Running"},
    PAUSED: {"Paused"},
    GONE: {"Stopping", "Terminated", "Failed"},
}
# What may be refused with 503 for want of time, on a machine that has much else to do: a second is
# given to envd to say that it is well, and others are copied first.
UNHURRIED = {"halt", "snapshot", "fork"}
# What cuts a command that runs.
CUTS = {"pause", "halt", "kill"}
# What refuses a new timeout with 409 while it is under way; afterwards it is answered as ever.
BUSY = {"pause", "connect", "resume", "wake"}


def finals(state, asked):
    """What a sandbox may be after `asked`, a list of (operation, answer) that went on at the same
    time: as after one of their orders. Empty when these answers are wrong in every order."""
    found = set()
    cut = any(operation in CUTS for operation, _ in asked)
    asked = [one for one in asked if not (one[0] in UNHURRIED and one[1] == 503)]
    if any(operation in BUSY for operation, _ in asked):
        asked = [one for one in asked if one != ("timeout", 409)]
    for order in permutations(asked):
        for done in product((True, False), repeat=len(order)):
            now = state
            for (operation, answer), was_done in zip(order, done, strict=True):
                if not was_done:
                    if answer != LOST:
                        break
                    continue
                expected, then = TABLE[operation][now]
                if not _fits(operation, answer, expected, cut):
                    break
                now = then
            else:
                found.add(now)
    return found


def _fits(operation, answer, expected, cut):
    if answer == LOST or answer == expected:
        return True
    # It began before the one that cut it, which may be before it in every order that fits; with
    # 502 nothing had been answered yet.
    return operation in ("run", "wake") and answer in (CUT, 502) and cut


def after_kill(state, asked):
    """As `finals` where one of them is a kill: it cuts in, so that what it cuts off may be told
    that there is nothing any more though it was told of first."""
    killed = [answer for operation, answer in asked if operation == "kill"]
    others = [one for one in asked if one[0] != "kill"]
    for operation, answer in others:
        right = {TABLE[operation][now][0] for now in (RUNNING, PAUSED, GONE)} | {LOST}
        if operation in ("run", "wake"):
            right.add(CUT)
        else:
            # It is being killed.
            right.add(409)
        if answer not in right:
            return set()
    if state == GONE or LOST not in killed:
        wins = 0 if state == GONE else 1
        right = killed.count(204) == wins and set(killed) <= {204, 404, LOST}
        return {GONE} if right else set()
    return {RUNNING, PAUSED, GONE} if killed.count(204) == 0 else {GONE}


def reasons(before, known, asked):
    """Why it may be what it is now; `known` is why it may have been what it was."""
    if len(asked) == 1 and asked[0][1] != LOST:
        change = WHY.get(asked[0])
        if asked[0][0] == "wake" and before == RUNNING:
            change = None
        return {change} if change else known
    found = known | {WHY[operation, answer] for operation, answer in asked if (operation, answer) in WHY}
    if any(answer == LOST for _, answer in asked):
        found |= {"user", "traffic"}
        if any(operation == "kill" for operation, _ in asked):
            # Of what was left of it when the next gateway came.
            found |= {"no_record", "envd_died"}
    return found


def possible(state, asked):
    """What the sandbox may be now; empty when it was answered wrongly."""
    if any(operation == "kill" for operation, _ in asked) and len(asked) > 1:
        return after_kill(state, asked)
    return finals(state, asked)
