"""What the reference takes for right and for wrong."""

import pytest

from reference import CUT, DONE, GONE, LOST, PAUSED, RUNNING, possible

RIGHT = [
    (RUNNING, [("pause", 204)], {PAUSED}),
    (PAUSED, [("connect", 201)], {RUNNING}),
    (RUNNING, [("pause", LOST)], {RUNNING, PAUSED}),
    (RUNNING, [("pause", 204), ("connect", 201)], {RUNNING}),
    (RUNNING, [("pause", 204), ("connect", 200)], {PAUSED}),
    (RUNNING, [("pause", 204), ("pause", 409)], {PAUSED}),
    (RUNNING, [("pause", 204), ("run", CUT)], {PAUSED}),
    (RUNNING, [("pause", 204), ("run", DONE)], {PAUSED}),
    (RUNNING, [("pause", 204), ("timeout", 409)], {PAUSED}),
    (RUNNING, [("pause", 404), ("kill", 204)], {GONE}),
    (RUNNING, [("kill", 204), ("kill", 404)], {GONE}),
    (RUNNING, [("kill", LOST)], {RUNNING, GONE}),
    (RUNNING, [("halt", 503)], {RUNNING}),
    (PAUSED, [("wake", DONE)], {RUNNING}),
    (RUNNING, [("wake", 502), ("pause", 204)], {PAUSED, RUNNING}),
]
WRONG = [
    (RUNNING, [("pause", 409)]),
    (RUNNING, [("pause", 404)]),
    (RUNNING, [("pause", 500)]),
    (RUNNING, [("pause", 503)]),
    (RUNNING, [("timeout", 409)]),
    (RUNNING, [("run", DONE), ("timeout", 409)]),
    (RUNNING, [("run", CUT)]),
    (RUNNING, [("run", 502)]),
    (PAUSED, [("wake", 502)]),
    (RUNNING, [("pause", 204), ("pause", 204)]),
    (PAUSED, [("connect", 201), ("connect", 201)]),
    (RUNNING, [("kill", 204), ("kill", 204)]),
    (RUNNING, [("kill", 404), ("pause", 204)]),
    (RUNNING, [("kill", 204), ("pause", 500)]),
    (GONE, [("connect", 200)]),
    (GONE, [("kill", 204), ("kill", 404)]),
]


@pytest.mark.parametrize("state, asked, finals", RIGHT)
def test_what_is_right_in_some_order_is_right(state, asked, finals):
    assert possible(state, asked) == finals


@pytest.mark.parametrize("state, asked", WRONG)
def test_what_is_wrong_in_every_order_is_wrong(state, asked):
    assert possible(state, asked) == set()
