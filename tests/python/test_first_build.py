"""While the first template is being built: no sandbox yet, and the reason why."""

import os
import socket

import httpx

from hoststate import command_lines

MARK = f"600.{os.getpid()}"
NEVER_DONE = f"""#!/bin/sh
echo 'I: downloading packages...' >&2
exec sleep {MARK}
"""


def test_a_create_is_told_of_the_progress_and_the_gateway_still_ends_in_time(
    new_gateway, tmp_path, eventually
):
    builder = tmp_path / "mmdebstrap"
    builder.write_text(NEVER_DONE)
    builder.chmod(0o755)
    gateway = new_gateway(
        env={"PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"}, templates=tmp_path / "templates"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        gateway.listen = f"127.0.0.1:{free.getsockname()[1]}"
    gateway.spawn()

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
    assert any(MARK in line for line in command_lines())
    assert gateway.end() < 5
    eventually(lambda: not any(MARK in line for line in command_lines()))
