"""Fixtures: the template `code-interpreter-v1`, and kernels in a sandbox of it.

The kernels are spoken to from inside, so that what is tested is the template and nothing else.
"""

import tempfile
from pathlib import Path

import pytest
from e2b import Sandbox

from gateway import REPO, TEMPLATES, Gateway, Remote, coppice
from inside import source

NAME = "code-interpreter-v1"
FIRST_BUILD = 1200
OUR_ZEROMQ = REPO / "gateway" / "src" / "template" / "freebsd" / "javascript" / "zeromq.js"
FANOUT = 50


@pytest.fixture(scope="session")
def interpreter_template(gateway):
    """Has the command build it, in the place all gateways of the run share; its name."""
    if isinstance(gateway, Remote):
        with gateway.http() as http:
            names = [name for one in http.get("/templates").json() for name in one["aliases"]]
        if NAME not in names:
            pytest.skip(f"{gateway.url} has no template {NAME}")
        return NAME
    with tempfile.TemporaryDirectory(prefix="cop", dir="/tmp") as data_dir:
        (Path(data_dir) / "templates").symlink_to(TEMPLATES)
        built = coppice("template", "build", NAME, "--data-dir", data_dir, patience=FIRST_BUILD)
    assert built.returncode == 0, built.stdout + built.stderr
    return NAME


@pytest.fixture(scope="session")
def kernels(interpreter_template):
    """A sandbox of it that many tests share."""
    with Sandbox.create(template=interpreter_template, timeout=600) as sandbox:
        sandbox.files.write("/tmp/kernel.py", source("kernel.py"))
        yield sandbox


@pytest.fixture(scope="session")
def fanout(interpreter_template):
    """A gateway with a pool for fifty at once, which takes a minute or more to fill."""
    # Without a network its entries come and go unseen by tests that count what is left on the host.
    flags = ["--network", "none", "--pool", f"{NAME}={FANOUT}", "--pool-memory", "6144"]
    gateway = Gateway(*flags)
    try:
        yield gateway.start()
    finally:
        gateway.remove()


class Kernel:
    def __init__(self, gateway, sandbox, name, port):
        self.gateway, self.route = gateway, {
            "E2b-Sandbox-Id": sandbox.sandbox_id,
            "E2b-Sandbox-Port": str(port),
        }
        command = f"exec python3 /tmp/kernel.py {name} {port} > /tmp/{name}.log 2>&1"
        sandbox.commands.run(command, user="root", cwd="/home/user", background=True, timeout=0)
        sandbox.commands.run(
            f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done",
            timeout=50,
        )

    def run(self, code):
        """The messages that a cell was answered with."""
        with self.gateway.http(**self.route) as http:
            answer = http.post("/", content=code, timeout=50)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def data(self, code):
        """What the one result or display of a cell offers, by MIME type."""
        (shown,) = [message for message in self.run(code) if "data" in message]
        return shown["data"]

    def text(self, code):
        return self.data(code)["text/plain"]

    def error(self, code):
        (error,) = [message for message in self.run(code) if message["kind"] == "error"]
        return error

    def printed(self, code, stream="stdout"):
        streams = [message for message in self.run(code) if message["kind"] == "stream"]
        return "".join(message["text"] for message in streams if message["name"] == stream)


@pytest.fixture(scope="session")
def python(gateway, kernels):
    return Kernel(gateway, kernels, "python3", 9001)


@pytest.fixture(scope="session", params=["its package", "ours"])
def javascript(request, gateway, kernels):
    """By what it speaks ZeroMQ: where no package is built, as on FreeBSD, that is ours."""
    if request.param != "ours":
        return Kernel(gateway, kernels, "javascript", 9002)
    with_our_zeromq(kernels, "/tmp/ours", "javascript-ours")
    return Kernel(gateway, kernels, "javascript-ours", 9004)


def with_our_zeromq(sandbox, home, spec):
    """Has the JavaScript kernel of that name, in that directory, use it."""
    installed, specs = "/usr/local/lib/coppice/javascript", "/usr/local/share/jupyter/kernels"
    zeromq = f"{home}/node_modules/zeromq"
    steps = [
        f"test {home} -ef {installed} || cp -R {installed} {home}",
        f"rm -rf {zeromq} && mkdir {zeromq}",
        f"mkdir -p {specs}/{spec}",
        f"sed 's|{installed}|{home}|' {specs}/javascript/kernel.json >/tmp/spec.json",
        f"cp /tmp/spec.json {specs}/{spec}/kernel.json",
    ]
    sandbox.commands.run(" && ".join(steps), user="root")
    sandbox.files.write(f"{zeromq}/index.js", OUR_ZEROMQ.read_text(), user="root")


@pytest.fixture(scope="session")
def bash(gateway, kernels):
    return Kernel(gateway, kernels, "bash", 9003)
