"""`coppice template`, and what a gateway does while a template is being built."""

import json
import os
import shutil
import signal

import pytest
from e2b import Sandbox

from gateway import TEMPLATES, coppice
from hoststate import command_lines

NAME = "code-interpreter-v1"


@pytest.fixture
def templates(gateway, tmp_path):
    """A directory with `base` as it was built, and nothing else."""
    own = tmp_path / "templates"
    (own / "layers").mkdir(parents=True)
    for layer in json.loads((TEMPLATES / "base.json").read_text())["layers"]:
        (own / "layers" / layer).symlink_to(TEMPLATES / "layers" / layer)
    shutil.copy(TEMPLATES / "base.json", own)
    return own


def on_top(templates, name, digest, content="nothing"):
    """Puts a template on top of `base`, by hand; its layer."""
    layer = templates / "layers" / digest
    (layer / "opt").mkdir(parents=True)
    (layer / "opt/content").write_text(content)
    layer.chmod(0o755)
    record = json.loads((templates / "base.json").read_text())
    record["layers"].insert(0, digest)
    record["recipe"] = "by hand"
    (templates / "new").write_text(json.dumps(record))
    (templates / "new").rename(templates / f"{name}.json")
    return layer


def data_dir_of(gateway, *argv):
    return coppice("template", *argv, "--data-dir", gateway.data_dir)


def test_templates_are_listed_and_shown(new_gateway, templates):
    own = new_gateway(templates=templates)
    on_top(templates, NAME, "1" * 64)
    on_top(templates, "mine", "2" * 64)
    listed = data_dir_of(own, "list")
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert rows[0] == ["NAME", "BUILT", "SIZE", "STATE"]
    assert [(row[0], " ".join(row[5:])) for row in rows[1:]] == [
        ("base", "current"),
        (NAME, "older recipe"),
        ("mine", "own"),
    ]
    shown = data_dir_of(own, "show", NAME).stdout
    assert "older recipe" in shown and "1024 MiB" in shown and "1" * 64 in shown
    unknown = data_dir_of(own, "show", "nope")
    assert unknown.returncode == 1 and "there is no template nope" in unknown.stderr
    missing = coppice("template", "list", "--data-dir", own.base / "missing")
    assert missing.returncode == 1 and "there is no data directory" in missing.stderr


def test_a_template_goes_with_its_layers_but_never_from_under_anything(new_gateway, templates):
    own = new_gateway(templates=templates)
    layer = on_top(templates, NAME, "1" * 64, content="of the layer")
    refused = data_dir_of(own, "rm", "base")
    assert refused.returncode == 1 and f"{NAME} is built on it" in refused.stderr

    own.start()
    refused = data_dir_of(own, "rm", NAME)
    assert refused.returncode == 1 and "is used by another gateway" in refused.stderr
    sandbox = Sandbox.create(template=NAME, timeout=120, **own.opts)
    own.end()
    refused = data_dir_of(own, "rm", NAME)
    assert refused.returncode == 1 and "1 sandboxes were made from it" in refused.stderr
    own.start()
    assert sandbox.files.read("/opt/content") == "of the layer"
    own.end()
    own.down()

    assert data_dir_of(own, "rm", NAME).returncode == 0
    assert not layer.exists() and not (templates / f"{NAME}.json").exists()
    assert [path.name for path in (templates / "layers").iterdir()] == json.loads(
        (templates / "base.json").read_text()
    )["layers"]


def test_a_template_that_was_built_meanwhile_is_found_without_a_restart(new_gateway, templates):
    own = new_gateway(templates=templates).start()
    with own.http() as http:
        assert http.post("/v2/sandboxes", json={"templateID": NAME}).status_code == 404
    on_top(templates, NAME, "1" * 64, content="came later")
    with Sandbox.create(template=NAME, timeout=60, **own.opts) as sandbox:
        assert sandbox.files.read("/opt/content") == "came later"


def test_a_template_that_is_current_is_not_built_again(new_gateway, interpreter_template):
    own = new_gateway()
    assert data_dir_of(own, "build", NAME).stdout == f"{NAME} is ready, 0 s\n"
    states = [line.split()[-1] for line in data_dir_of(own, "list").stdout.splitlines()]
    assert states == ["STATE", "current", "current"]


def test_there_are_recipes_of_two_templates(new_gateway, templates):
    own = new_gateway(templates=templates)
    refused = data_dir_of(own, "build", "mine")
    assert refused.returncode == 1 and "only of base, code-interpreter-v1" in refused.stderr
    assert data_dir_of(own, "build", "base").stdout == "base is ready, 0 s\n"
    wrong = coppice("serve", "--data-dir", own.data_dir, "--templates", NAME)
    assert wrong.returncode == 1 and "--templates" in wrong.stderr


def test_sandboxes_of_base_are_made_while_the_other_is_built_and_no_half_of_it_is_ever_used(
    new_gateway, templates, tmp_path, eventually
):
    """The build hangs in the host's npm."""
    sleeping = f"601.{os.getpid()}"
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\nexec sleep {sleeping}\n")
    npm.chmod(0o755)
    own = new_gateway(
        templates=templates,
        env={
            "PATH": f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin",
            "COPPICE_TEMPLATES": f"base,{NAME}",
        },
    ).start()

    def told():
        with own.http() as http:
            answer = http.post("/v2/sandboxes", json={"templateID": NAME})
            return answer if "JavaScript" in answer.text else None

    answer = eventually(told, timeout=20)
    assert answer.status_code == 503 and 0 < int(answer.headers["Retry-After"]) <= 60
    assert NAME in answer.json()["message"]
    with Sandbox.create(timeout=60, **own.opts) as sandbox:
        assert sandbox.commands.run("echo meanwhile").stdout == "meanwhile\n"

    eventually(lambda: any(sleeping in line for line in command_lines()))
    own.end(signal.SIGKILL)
    eventually(lambda: not any(sleeping in line for line in command_lines()))
    assert list(templates.glob("build-*"))
    own.env["COPPICE_TEMPLATES"] = "base"
    own.start()
    assert not list(templates.glob("build-*")) and not (templates / f"{NAME}.json").exists()
    with own.http() as http:
        assert http.post("/v2/sandboxes", json={"templateID": NAME}).status_code == 404


def test_a_build_that_fails_says_so_and_leaves_base_working(new_gateway, templates, tmp_path, eventually):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no registry today >&2\nexit 1\n")
    npm.chmod(0o755)
    path = f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"
    own = new_gateway(
        templates=templates, env={"PATH": path, "COPPICE_TEMPLATES": f"base,{NAME}"}
    ).start()

    def failed():
        with own.http() as http:
            answer = http.post("/v2/sandboxes", json={"templateID": NAME})
            return answer if "could not be built" in answer.text else None

    assert eventually(failed, timeout=20).status_code == 503
    assert "no registry today" in own.log_tail()
    with Sandbox.create(timeout=60, **own.opts) as sandbox:
        assert sandbox.commands.run("echo works").stdout == "works\n"
    built = coppice("template", "build", NAME, "--data-dir", own.data_dir, env={"PATH": path})
    assert built.returncode == 1 and "no registry today" in built.stderr
    assert not list(templates.glob("build-*"))
