"""`coppice template build NAME --from`: any root file system as a template."""

import json
import subprocess

import pytest
from e2b import Sandbox

from gateway import KEY, TEMPLATES, coppice

pytestmark = pytest.mark.plain("what a command does with templates")

# Everything a shell needs from the host, and nothing else of it.
PROGRAMS = ["sh", "cat", "id", "ls", "uname"]


@pytest.fixture(scope="module")
def small_root(tmp_path_factory):
    """A root file system of five programs and their libraries."""
    root = tmp_path_factory.mktemp("small") / "root"
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/motd").write_text("a root of our own\n")
    for program in PROGRAMS:
        path = f"/bin/{program}"
        subprocess.run(["cp", "--dereference", path, root / "bin"], check=True)
        listed = subprocess.run(["ldd", path], check=True, capture_output=True, text=True).stdout
        for library in {word for word in listed.split() if word.startswith("/")}:
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "--dereference", library, target], check=True)
    # What SDKs start.
    (root / "bin/bash").write_text('#!/bin/sh\n[ "$1" = -l ] && shift\nexec /bin/sh "$@"\n')
    (root / "bin/bash").chmod(0o755)
    return root


@pytest.fixture
def own(new_gateway, tmp_path):
    """A gateway that runs, with nothing but `base`, and what builds beside it."""
    templates = tmp_path / "templates"
    (templates / "layers").mkdir(parents=True)
    record = json.loads((TEMPLATES / "base.json").read_text())
    for layer in record["layers"]:
        (templates / "layers" / layer).symlink_to(TEMPLATES / "layers" / layer)
    (templates / "base.json").write_text(json.dumps(record))
    gateway = new_gateway(templates=templates)
    gateway.start()
    return gateway


def build(gateway, name, source, code=0):
    done = coppice(
        "template", "build", name, "--from", source, "--data-dir", gateway.data_dir, patience=120
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_usable(gateway, name):
    with Sandbox.create(template=name, timeout=60, **gateway.opts) as sandbox:
        assert sandbox.commands.run("cat /etc/motd").stdout == "a root of our own\n"
        assert sandbox.commands.run("id -un").stdout == "user\n"
        sandbox.files.write("/home/user/note", "kept")
        assert sandbox.commands.run("cat note").stdout == "kept"
        assert sandbox.commands.run("cat /etc/passwd", user="root").exit_code == 0
        assert "victim" not in sandbox.commands.run("ls /").stdout


def test_a_directory_becomes_a_template_of_a_running_gateway(own, small_root):
    said = build(own, "small", small_root)
    assert "small: copying" in said and "small is ready" in said
    assert_usable(own, "small")
    listed = coppice("template", "list", "--data-dir", own.data_dir).stdout
    (row,) = [line.split() for line in listed.splitlines() if line.startswith("small ")]
    assert row[-1] == "own"
    with own.http() as http:
        assert "small" in str(http.get("/templates").json())


def test_a_tarball_becomes_the_same_template(own, small_root, tmp_path):
    tarball = tmp_path / "base.txz"
    subprocess.run(["tar", "-cJf", tarball, "-C", small_root, "."], check=True)
    build(own, "packed", tarball)
    build(own, "copied", small_root)
    layers = [
        json.loads((own.data_dir / "templates" / f"{name}.json").read_text())["layers"]
        for name in ("packed", "copied")
    ]
    assert layers[0] == layers[1]
    assert_usable(own, "packed")


def test_base_can_be_of_ones_own_and_stays(own, small_root):
    build(own, "base", small_root)
    own.end()
    own.start()
    assert_usable(own, "base")
    done = coppice("template", "build", "base", "--data-dir", own.data_dir)
    assert done.returncode == 0 and "base is ready" in done.stdout
    assert_usable(own, "base")


def test_what_is_no_root_says_so_and_leaves_nothing(own, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no root file system" in build(own, "empty", empty, code=1)
    assert "/no/such/thing" in build(own, "empty", "/no/such/thing", code=1)
    assert "keys and passwords" in build(own, "host", "/", code=1)
    for name in ("..", "a/b", "Upper"):
        assert "cannot be a template's name" in build(own, name, empty, code=1)
    left = {path.name for path in (own.data_dir / "templates").iterdir()}
    assert left == {"base.json", "layers", "lock"}
    with own.http(**{"X-API-Key": KEY}) as http:
        refused = http.post("/sandboxes", json={"templateID": "empty"})
        assert refused.status_code == 404, refused.text
