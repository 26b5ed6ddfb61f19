"""`e2b sandbox metrics` and `e2b sandbox logs` against the real gateway."""

import json


def lines(text):
    """What a command with `--format json` prints: an object a line."""
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def logged(cli, id, *options):
    return lines(cli.ok("sandbox", "logs", "--format", "json", *options, id))


def test_metrics_are_shown(cli, sandbox, eventually):
    show = lambda: lines(cli.ok("sandbox", "metrics", "--format", "json", sandbox))  # noqa: E731
    first = eventually(show, timeout=30)[0]
    assert first["cpuCount"] == 2 and first["memTotal"] == 1 << 30
    assert 0 < first["memUsed"] < first["memTotal"] and first["diskTotal"] > 0
    assert "/ 1024" in cli.ok("sandbox", "metrics", sandbox)


def test_logs_are_shown_by_level_and_logger(cli, sandbox, eventually):
    assert cli.run("sandbox", "exec", sandbox, "exit 3").returncode == 3
    messages = lambda *options: [it["message"] for it in logged(cli, sandbox, *options)]  # noqa: E731
    eventually(lambda: "command ended" in messages(), timeout=30)
    assert messages()[0] == "created"
    (failed,) = [it for it in logged(cli, sandbox, "--level", "WARN") if "exitCode" in it]
    assert (failed["exitCode"], failed["logger"]) == ("3", "sandbox")
    assert "created" not in messages("--level", "WARN")
    assert set(messages("--loggers", "gateway")) == {"created"}
    assert "created" in cli.ok("sandbox", "logs", sandbox)


def test_logs_are_followed_to_the_end_of_the_sandbox(cli, gateway, sandbox):
    with cli.terminal("sandbox", "logs", "--follow", sandbox) as terminal:
        terminal.wait_for("created")
        cli.ok("sandbox", "exec", sandbox, "true")
        terminal.wait_for("command ended")
        with gateway.http() as http:
            assert http.delete(f"/sandboxes/{sandbox}").status_code == 204
        terminal.wait_for("closed")
        assert terminal.ended() == 0
