"""While the first template is being built: no sandbox yet, and the reason why."""

import socket
import time
from pathlib import Path

import httpx

from gateway import KEY

NEVER_DONE = """#!/bin/sh
echo $$ > "${0%/*}/pid"
echo 'I: downloading packages...' >&2
exec sleep 600
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

    deadline = time.monotonic() + 20
    while True:
        try:
            answer = httpx.post(
                f"{gateway.url}/v2/sandboxes",
                json={"templateID": "base"},
                headers={"X-API-Key": KEY},
                trust_env=False,
            )
            break
        except httpx.ConnectError:
            assert time.monotonic() < deadline, gateway.log_tail()
            time.sleep(0.1)
    assert answer.status_code == 503
    assert answer.json()["code"] == 503 and "base" in answer.json()["message"]
    assert httpx.get(f"{gateway.url}/health", trust_env=False).status_code != 200
    assert (gateway.base / "out").read_text() == ""
    builder_pid = int((tmp_path / "pid").read_text())
    assert gateway.end() < 5
    eventually(lambda: not Path(f"/proc/{builder_pid}").exists())
