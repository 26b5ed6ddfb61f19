"""`e2b template ...`, and what the CLI does without a gateway."""


import pytest


def test_templates_are_listed(cli):
    (row,) = [line for line in cli.ok("template", "list").splitlines() if "base" in line]
    assert "1024" in row
    templates = cli.json("template", "list", "--format", "json")
    (base,) = [one for one in templates if one["templateID"] == "base"]
    assert (base["aliases"], base["cpuCount"], base["memoryMB"]) == (["base"], 2, 1024)


@pytest.mark.parametrize("command", ["publish", "unpublish"])
def test_changing_a_template_comes_later(cli, command):
    assert "not implemented yet" in cli.refused("template", command, "--yes", "base")
    assert "base" in cli.ok("template", "list")


def test_the_templates_of_whoever_runs_the_gateway_stay(cli):
    assert "is not a snapshot" in cli.refused("template", "delete", "--yes", "base")
    assert "base" in cli.ok("template", "list")


def test_a_snapshot_is_deleted_as_a_template_too(cli, gateway, sandbox):
    with gateway.http() as http:
        made = http.post(f"/sandboxes/{sandbox}/snapshots", json={"name": "mine"}).json()
        cli.ok("template", "delete", "--yes", "mine")
        assert made not in http.get("/snapshots").json()


def test_building_a_template_comes_later(cli, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM debian:13\nRUN true\n")
    assert "not implemented yet" in cli.refused("template", "create", "mine", cwd=tmp_path)
