"""What a web page gets to see: by raw HTTP, with the headers that browsers send."""

import pytest

from gateway import KEY

PAGE = "https://page.example"
NOWHERE = "i0123456789abcdefghij"
TO_NOWHERE = {"E2b-Sandbox-Id": NOWHERE, "E2b-Sandbox-Port": "49983"}
ASKS = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type,e2b-sandbox-id,x-access-token,x-api-key",
}


@pytest.fixture
def keyed(new_gateway):
    return new_gateway(env={"COPPICE_API_KEYS": KEY}).start()


def test_a_page_of_anywhere_may_use_a_gateway_with_keys(keyed):
    with keyed.http(**{"X-API-Key": None, "Origin": PAGE}) as browser:
        for path in ["/v2/sandboxes", "/process.Process/Start", "/files"]:
            asked = browser.options(path, headers=ASKS)
            assert asked.status_code == 204
            assert asked.headers["Access-Control-Allow-Origin"] == "*"
            allowed = asked.headers["Access-Control-Allow-Headers"]
            assert allowed == ASKS["Access-Control-Request-Headers"]
        wanted, key = {"templateID": "base"}, {"X-API-Key": KEY}
        made = browser.post("/v2/sandboxes", json=wanted, headers=key)
        refused = browser.get("/v2/sandboxes")
        assert (made.status_code, refused.status_code) == (201, 401)
        for answer in [made, refused]:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_a_strangers_page_may_not_use_a_gateway_without_keys(gateway):
    with gateway.http(Origin=PAGE) as browser:
        assert browser.options("/v2/sandboxes", headers=ASKS).status_code == 403
        refused = browser.post("/v2/sandboxes", json={"templateID": "base"})
        assert refused.status_code == 403
        assert "Access-Control-Allow-Origin" not in refused.headers
    with gateway.http(Origin="http://localhost:5173") as browser:
        listed = browser.get("/v2/sandboxes")
        assert listed.status_code == 200
        assert listed.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"


def test_a_page_can_read_that_its_sandbox_is_gone(gateway):
    with gateway.http(Origin=PAGE) as browser:
        gone = browser.get("/health", headers=TO_NOWHERE)
        assert (gone.status_code, gone.headers["Access-Control-Allow-Origin"]) == (502, "*")
        below = gateway.domain.given if gateway.domain else "localhost"
        host = {"Host": f"49983-{NOWHERE}.{below}", **ASKS}
        assert browser.options("/health", headers=host).status_code == 204


def test_what_a_server_in_a_sandbox_says_to_pages_is_left_alone(sandbox, gateway, eventually):
    sandbox.commands.run("cd /tmp && python3 -m http.server 8000", background=True)
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8000"}
    with gateway.http(Origin=PAGE) as browser:
        answer = eventually(
            lambda: (got := browser.get("/", headers=headers)).status_code == 200 and got
        )
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert browser.options("/", headers={**headers, **ASKS}).status_code == 501
