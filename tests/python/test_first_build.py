"""While the first template is being built: no sandbox yet, and the reason why."""

import httpx

from hoststate import command_lines


def test_a_create_is_told_of_the_progress_and_the_gateway_still_ends_in_time(building, eventually):
    gateway, mark = building

    def told():
        """The answer to a create, once it knows how far the build has come."""
        try:
            answer = http.post("/v2/sandboxes", json={"templateID": "base"})
        except httpx.ConnectError:
            return None
        return answer if "downloading packages" in answer.text else None

    with gateway.http() as http:
        answer = eventually(told, timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, 503)
        assert http.get("/health").status_code != 200
        assert http.get("/v2/sandboxes").json() == []
    assert (gateway.base / "out").read_text() == ""
    assert any(mark in line for line in command_lines())
    assert gateway.end() < 5
    eventually(lambda: not [line for line in command_lines() if mark in line], timeout=30)
