"""What the sandboxes of agents use, in Evonic's shapes, and what agents may have."""

import re
import time

import httpx
import pytest
from e2b import Sandbox

from network import PUBLIC, RESOLVER, gateway_in

pytestmark = pytest.mark.plain("what no SDK asks for")
SPIN = "sh -c 'while :; do :; done'"
MIB = 1 << 20
AGENTS = """
[[agents]]
id = "admin"
name = "Admin Assistant"
cpu-threshold = 5
max-containers = 2

[[agents]]
id = "guest"
sandbox-enabled = false
"""
KEYS = {
    "session_id",
    "external_user_id",
    "agent_id",
    "container_id",
    "container_name",
    "state",
    "cpu_percent",
    "memory",
    "network",
    "block_io",
    "pids",
    "pids_current",
}

# Takes what is posted, and gives as many bytes as its path says.
MANY = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        count = int(self.path.strip("/"))
        self.send_response(200)
        self.send_header("Content-Length", str(count))
        self.end_headers()
        self.wfile.write(b"x" * count)
    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 65536)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_): pass
print("up", flush=True)
http.server.ThreadingHTTPServer(("0.0.0.0", 8001), Handler).serve_forever()
"""


def ok(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    config = tmp_path_factory.mktemp("agents") / "coppice.toml"
    config.write_text(AGENTS)
    return config


@pytest.fixture
def served(new_gateway, agents):
    """A gateway that knows agents."""
    return new_gateway("--config", agents).start()


def one_of(gateway, agent, **metadata):
    return Sandbox.create(timeout=300, metadata={"agent_id": agent, **metadata}, **gateway.opts)


def test_stats_of_agents_have_all_that_the_original_has(served, eventually):
    with served.http() as http:
        empty = ok(http.get("/api/agents/admin/sandbox/stats"))
        assert (empty["active_containers"], empty["containers"]) == (0, [])
        assert http.get("/api/agents/nosuch/sandbox/stats").status_code == 404
        disabled = http.get("/api/agents/guest/sandbox/stats")
        assert disabled.status_code == 400 and "disabled" in disabled.json()["message"]

        user = {"session_id": "6c1d9542", "external_user_id": "user@example.com"}
        busy, idle = one_of(served, "admin", **user), one_of(served, "other")
        busy.commands.run(SPIN, background=True, timeout=300)

        # What it took to begin is seen on its own at times: looked at when the command runs.
        def spins():
            told = ok(http.get("/api/agents/admin/sandbox/stats?fresh=1"))
            (one,) = told["containers"]
            return one.get("cpu_percent", 0) > 5 and one["pids_current"] >= 2 and told

        told = eventually(spins, timeout=60)
        assert (told["agent_name"], told["sandbox_enabled"]) == ("Admin Assistant", True)
        (container,) = told["containers"]
        assert container.keys() == KEYS
        assert user.items() <= container.items()
        assert container["container_id"] == busy.sandbox_id
        memory = container["memory"]
        assert memory["limit"] == "1GiB"
        number, unit = re.fullmatch(r"([\d.]+)(KiB|MiB)", memory["used"]).groups()
        used = float(number) * {"KiB": 1 << 10, "MiB": MIB}[unit]
        assert abs(used - memory["used_bytes"]) <= used / 1000, memory
        assert 0 < memory["used_bytes"] < memory["limit_bytes"] == 1 << 30
        assert float(memory["percent"].rstrip("%")) < 100
        assert int(container["pids"]) == container["pids_current"] >= 2

        pool = ok(http.get("/api/sandbox/stats"))
        assert (pool["pool_size"], pool["max_containers"]) == (2, 200)
        ids = {one["container_id"]: one for one in pool["containers"]}
        assert ids[idle.sandbox_id]["agent_id"] == "other"
        total, each = pool["aggregate"], pool["containers"]
        assert abs(total["total_cpu_percent"] - sum(it["cpu_percent"] for it in each)) < 0.1
        assert total["total_memory_bytes"] == sum(it["memory"]["used_bytes"] for it in each)
        assert total["total_pids"] == sum(it["pids_current"] for it in each)

        past = eventually(
            lambda: (it := ok(http.get("/api/agents/admin/sandbox/stats/history")))["containers"][0][
                "samples"
            ]
            and it
        )
        (history,) = past["containers"]
        assert history["container_id"] == busy.sandbox_id
        assert history["samples"][-1].keys() == {
            "timestamp",
            "cpu_percent",
            "memory_bytes",
            "disk_bytes",
        }
        later = int(time.time()) + 60
        (none,) = ok(http.get(f"/api/agents/admin/sandbox/stats/history?since={later}"))["containers"]
        assert none["samples"] == []

        # What stays above its agent's threshold is told of, once.
        def crossed():
            query = {"search": "threshold"}
            logs = ok(http.get(f"/v2/sandboxes/{busy.sandbox_id}/logs", params=query))["logs"]
            return [entry["fields"] for entry in logs]

        (above,) = eventually(crossed, timeout=60)
        assert (above["resource"], above["agent"], above["threshold"]) == ("cpu", "admin", "5")
        assert float(above["percent"]) >= 5

        # It may have two at once, and this is the third.
        second = one_of(served, "admin")
        busy.commands.run("true")
        third = one_of(served, "admin")
        state = lambda one: ok(http.get(f"/v1/sandboxes/{one.sandbox_id}"))["status"]
        # Whoever found first that there are too many ends it, and the create need not wait for that.
        gone = eventually(lambda: (it := state(second))["state"] == "Terminated" and it)
        assert gone["reason"] == "evicted"
        assert {state(one)["state"] for one in (busy, third, idle)} == {"Running"}


def test_block_io_is_what_was_moved_to_and_from_the_disk(served):
    sandbox = one_of(served, "admin")
    with served.http() as http:

        def block():
            (one,) = ok(http.get("/api/agents/admin/sandbox/stats?fresh=1"))["containers"]
            return one["block_io"]

        def run(command):
            sandbox.commands.run(command)
            # Once more after it has run.
            time.sleep(0.3)

        run("dd if=/dev/zero of=/home/user/file bs=1M count=1 oflag=direct")
        before = block()
        run("dd if=/dev/zero of=/home/user/file bs=1M count=16 oflag=direct")
        written = block()
        moved = written["write_bytes"] - before["write_bytes"]
        # And what its start has left to be written; counted twice it were more.
        assert 16 * MIB <= moved < 28 * MIB, (before, written)
        run("dd if=/home/user/file of=/dev/null bs=1M iflag=direct")
        read = block()
        moved = read["read_bytes"] - written["read_bytes"]
        assert 16 * MIB <= moved < 18 * MIB, (written, read)
        assert read["write"].endswith("B") and read["read"].endswith("B")


def test_network_is_what_went_over_its_link(internet):
    with gateway_in(internet, RESOLVER) as gateway:
        internet.python(internet.world, MANY)
        url = f"http://{PUBLIC}:8001"
        opts = {"timeout": 120, **gateway.outside}
        sandbox = Sandbox.create(metadata={"agent_id": "any"}, **opts)
        def network():
            url, key = gateway.outside["api_url"], {"X-API-Key": gateway.outside["api_key"]}
            told = httpx.get(f"{url}/api/sandbox/stats?fresh=1", headers=key)
            (one,) = ok(told)["containers"]
            return one["network"]

        sandbox.commands.run("head -c 3000000 /dev/zero > /tmp/some")
        before = network()
        sandbox.commands.run(f"curl -sSf {url}/5000000 -o /dev/null")
        time.sleep(0.3)
        down = network()
        sandbox.commands.run(f"curl -sSf --data-binary @/tmp/some {url}/")
        time.sleep(0.3)
        up = network()
        received = down["input_bytes"] - before["input_bytes"]
        sent = up["output_bytes"] - down["output_bytes"]
        # With headers, and with whatever was sent again.
        assert 5_000_000 <= received < 5_600_000, (before, down)
        assert 3_000_000 <= sent < 3_400_000, (down, up)
        assert down["output_bytes"] - before["output_bytes"] < 400_000
        sandbox.kill()
