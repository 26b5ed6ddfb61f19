"""`coppice template`, and what a gateway does while a template is being built."""

import json
import os
import shutil
import signal
import subprocess

import pytest
from e2b import Sandbox

from gateway import BINARY, STARTED_WITH, TEMPLATES, coppice
from hoststate import command_lines

pytestmark = [
    pytest.mark.local("builds templates on its own machine"),
    pytest.mark.plain("what a command does with templates"),
]

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
    assert "older recipe" in shown and "memory=1024" in shown and "1" * 64 in shown
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


# Says where it is, and goes on when it is let; its root has just what is asked for.
BUILDER = """#!/bin/sh
for step in downloading extracting; do
    echo "I: $step packages..." >&2
    while [ ! -e "$0.$step" ]; do sleep 0.02; done
done
[ ! -e "$0.fails" ] || exit 1
for root; do case $root in */root) break ;; esac; done
mkdir -p "$root/etc/apt" "$root/etc/sudoers.d" "$root/var/cache" "$root/var/lib/apt"
"""
DEBIAN, FETCHING = "base: installing Debian", "base: installing Debian: downloading packages"
UNPACKING = "base: installing Debian: extracting packages"
REST = [
    "base: leaving Node out: the host has no npm to fetch it with",
    "base: clearing away what the build left",
    "base: naming it by its content",
    "base: built",
]


@pytest.fixture
def build(gateway, short_dir):
    """Starts a build of `base` by a builder that waits: a process, and the builder."""
    builder = short_dir / "mmdebstrap"
    builder.write_text(BUILDER)
    builder.chmod(0o755)
    # Everything that a build runs, but for npm.
    for tool in ("mkdir", "setpriv", "sh", "sleep", "unshare"):
        (short_dir / tool).symlink_to(shutil.which(tool))
    started = []

    def start(**streams):
        argv = [BINARY, "template", "build", "base", "--data-dir", short_dir / "d"]
        env = {**STARTED_WITH, "PATH": str(short_dir)}
        started.append(subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, **streams))
        return started[-1], builder

    yield start
    for process in started:
        process.kill()
        process.wait()


def let(builder, step):
    builder.with_name(f"{builder.name}.{step}").touch()


def test_a_build_tells_each_step_as_it_comes(build, short_dir):
    process, builder = build(stdout=subprocess.PIPE, text=True)
    with process.stdout as out:
        assert [out.readline(), out.readline()] == [f"{DEBIAN}\n", f"{FETCHING}\n"]
        let(builder, "downloading")
        assert out.readline() == f"{UNPACKING}\n"
        let(builder, "extracting")
        *rest, ready = out.read().splitlines()
    assert rest == REST and ready.startswith("base is ready, ")
    assert process.wait() == 0
    listed = coppice("template", "list", "--data-dir", short_dir / "d").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "base"]


@pytest.mark.parametrize("fails", [False, True], ids=["built", "failed"])
def test_on_a_terminal_each_step_takes_the_place_of_the_one_before(build, fails):
    ours, its = os.openpty()
    process, builder = build(stdout=its, stderr=its)
    os.close(its)
    said = b""

    def until(*steps):
        nonlocal said
        wanted = "".join(f"\r\x1b[K{step}" for step in steps).encode()
        while not said.endswith(wanted):
            said += os.read(ours, 4096)

    until(DEBIAN, FETCHING)
    let(builder, "downloading")
    until(UNPACKING)
    if fails:
        let(builder, "fails")
    let(builder, "extracting")
    try:
        while more := os.read(ours, 4096):
            said += more
    except OSError:
        pass  # Linux: what reads a terminal nobody writes to.
    os.close(ours)
    shown = said.decode().split("\r\x1b[K")[-1].splitlines()
    if fails:
        assert shown[0] == UNPACKING and shown[1].startswith("coppice: template base: ")
        assert process.wait() == 1
    else:
        assert shown[0] == REST[-1] and shown[1].startswith("base is ready, ")
        assert process.wait() == 0


def test_who_builds_what_is_being_built_waits_for_it_and_says_so(build):
    first, builder = build(stdout=subprocess.DEVNULL)
    builds = builder.parent / "d/templates"
    while not list(builds.glob("build-*")):
        assert first.poll() is None
    second, _ = build(stdout=subprocess.PIPE, text=True)
    with second.stdout as out:
        assert out.readline() == "base: waiting for another build in the same place\n"
        let(builder, "downloading")
        let(builder, "extracting")
        assert out.read().startswith("base is ready, ")
    assert (first.wait(), second.wait()) == (0, 0)
