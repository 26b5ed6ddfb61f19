"""The example for HAProxy, by HAProxy itself."""

import shutil
import subprocess

import httpx
import pytest

from gateway import REPO, free_port

pytestmark = [
    pytest.mark.plain("what HAProxy asks"),
    pytest.mark.local("starts HAProxy beside the gateway"),
]
EXAMPLE = REPO / "deploy" / "haproxy" / "haproxy.cfg"


@pytest.fixture
def haproxy():
    found = shutil.which("haproxy")
    assert found, "apt install haproxy"
    return found


def test_haproxy_understands_it_and_sends_nothing_to_who_is_not_healthy(
    haproxy, gateway, tmp_path, eventually
):
    checked = subprocess.run([haproxy, "-c", "-f", EXAMPLE], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "warning" not in checked.stderr.lower(), checked.stderr

    # The first is not there; checks are as often as a test has time for.
    port, figures = free_port(), free_port()
    text = EXAMPLE.read_text()
    for wrong, right in [
        ("bind :8080", f"bind 127.0.0.1:{port}"),
        ("127.0.0.1:3000", f"127.0.0.1:{free_port()}"),
        ("127.0.0.1:3001", gateway.listen),
        ("inter 2s fall 3", "inter 100ms fall 1"),
    ]:
        assert wrong in text, wrong
        text = text.replace(wrong, right)
    text += f"""
frontend figures
    bind 127.0.0.1:{figures}
    stats enable
    stats uri /
"""
    config = tmp_path / "haproxy.cfg"
    config.write_text(text)
    proxy = subprocess.Popen([haproxy, "-db", "-f", config], stderr=subprocess.DEVNULL)
    try:

        def states():
            try:
                lines = httpx.get(f"http://127.0.0.1:{figures}/;csv").text.splitlines()
            except httpx.ConnectError:
                return {}
            names = lines[0].lstrip("# ").split(",")
            rows = [dict(zip(names, line.split(","))) for line in lines[1:]]
            servers = [row for row in rows if row["pxname"] == "gateways"]
            return {row["svname"]: (row["status"], row["check_code"]) for row in servers}

        # Before it has been asked one is up, too.
        def known():
            found = states()
            return found and found["first"][0] == "DOWN" and found["second"] == ("UP", "200")

        eventually(known)
        answer = httpx.get(f"http://127.0.0.1:{port}/health?verbose=1")
        assert answer.status_code == 200 and answer.json()["status"] == "healthy"
    finally:
        proxy.terminate()
        proxy.wait(10)
