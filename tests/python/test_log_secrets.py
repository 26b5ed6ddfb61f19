"""No secret is ever in a log, at any level: every route there is, and what goes to sandboxes, with
secrets that are marked, and then a look into everything the gateway writes for people.

The routes and their bodies are those of `/openapi.json`, so that one which is added is tried too.
"""

import itertools
import json
import re
import uuid

import httpx
import pytest
from e2b import Sandbox

from domain import Domain

pytestmark = pytest.mark.plain("TLS of its own")

# Where a sandbox is asked for there is one, with a name that is no secret.
NO_SECRETS = {"sandboxID", "sandboxId", "sandbox_id", "id", "templateID", "templateId", "template"}


class Secrets:
    """Texts of which none may be found again, by what they are."""

    def __init__(self):
        self.known = {}

    def new(self, what):
        secret = f"s3cr3t{uuid.uuid4().hex}"
        self.known[secret] = what
        return secret

    def add(self, what, secret):
        assert len(secret) > 15, what
        self.known[secret] = what
        return secret

    def found_in(self, text):
        return {what for secret, what in self.known.items() if secret in text}


def filled(schema, document, name, text, depth=0):
    """A value that the schema may well admit, with `text()` wherever there is room for some."""
    if depth > 6:
        return None
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    for several in ("oneOf", "anyOf", "allOf"):
        if several in schema:
            schema = next((it for it in schema[several] if it.get("type") != "null"), {})
            return filled(schema, document, name, text, depth + 1)
    kind = schema.get("type")
    kind = next((it for it in kind if it != "null"), None) if isinstance(kind, list) else kind
    more = depth + 1
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "object" or "properties" in schema:
        value = {
            key: filled(below, document, key, text, more)
            for key, below in schema.get("properties", {}).items()
        }
        if isinstance(other := schema.get("additionalProperties"), dict):
            value["KEY"] = filled(other, document, "KEY", text, more)
        return value
    if kind == "array":
        return [filled(schema.get("items", {}), document, name, text, more)]
    if kind in ("integer", "number"):
        return schema.get("minimum", 60)
    if kind == "boolean":
        return False
    return "base" if name in NO_SECRETS else text(name)


def drive(http, document, sandboxes, secrets):
    """Each operation once with each of these headers: those of a known and of an unknown key."""
    wrong = {"X-API-Key": secrets.new("an unknown key")}
    bearer = {"X-API-Key": "", "Authorization": f"Bearer {secrets.new('an unknown bearer')}"}
    ids = itertools.cycle(sandboxes)
    asked = 0
    for path, item in document["paths"].items():
        for method in ("get", "put", "post", "delete", "patch"):
            if not (operation := item.get(method)):
                continue
            text = lambda name, path=path: secrets.new(f"{name} of {path}")  # noqa: E731
            query = {
                it["name"]: text(f"?{it['name']}")
                for it in operation.get("parameters", [])
                if it["in"] == "query"
            }
            content = operation.get("requestBody", {}).get("content", {})
            schema = next(iter(content.values()), {}).get("schema")
            body = filled(schema, document, "body", text) if schema else None
            # The name of what is asked for is told: it is in the path of the audit trail.
            url = re.sub(r"\{[^}]*\}", lambda _: next(ids), path)
            for headers, asking in itertools.product(({}, wrong, bearer), (query, {})):
                try:
                    with http.stream(
                        method, url, params=asking, json=body, headers=headers, timeout=10
                    ) as answer:
                        # Streams are none of our business here.
                        if "event-stream" not in answer.headers.get("content-type", ""):
                            answer.read()
                            remember(answer, secrets)
                except httpx.TransportError:
                    pass
                asked += 1
    return asked


def remember(answer, secrets):
    """Secrets that an answer tells."""
    try:
        body = answer.json()
    except ValueError:
        return
    for one in body if isinstance(body, list) else [body]:
        for name, value in one.items() if isinstance(one, dict) else ():
            secret = re.search("token|secret|password", name, re.IGNORECASE)
            if secret and isinstance(value, str) and len(value) > 15:
                secrets.add(name, value)


def work(sandbox, gateway, secrets):
    """What users do inside."""
    run = lambda what, *argv, **options: sandbox.commands.run(*argv, **options)  # noqa: E731, ARG005
    run("a command", f"echo {secrets.new('a command line')}")
    run("", "echo $PASSWORD >&2; exit 0", envs={"PASSWORD": secrets.new("a command's variable")})
    with pytest.raises(Exception):  # noqa: B017, PT011
        run("", f"echo {secrets.new('output of a failure')}; exit 3")
    with pytest.raises(Exception):  # noqa: B017, PT011
        run("", "true", cwd=f"/{secrets.new('a directory')}")
    background = run("", "cat", background=True, stdin=True)
    sandbox.commands.send_stdin(background.pid, secrets.new("standard input"))
    background.kill()
    path = f"/tmp/{secrets.new('the path of a file')}"
    sandbox.files.write(path, secrets.new("a file's content"))
    assert sandbox.files.read(path)
    sandbox.files.list("/tmp")
    sandbox.files.remove(path)
    with pytest.raises(Exception):  # noqa: B017, PT011
        sandbox.files.read(f"/tmp/{secrets.new('the path of no file')}")
    for link in (
        sandbox.download_url("/etc/hostname", use_signature_expiration=60),
        sandbox.download_url(f"/tmp/{secrets.new('a path in a link')}"),
        sandbox.upload_url(f"/tmp/{secrets.new('a path to upload to')}"),
    ):
        secrets.add("a signature", re.search("signature=([^&]*)", link)[1])
        httpx.get(link)
        httpx.get(link.replace("signature=v1_", f"signature=v1_{secrets.new('a wrong one')}"))
    to = {"E2b-Sandbox-Id": sandbox.sandbox_id}
    with gateway.http() as http:
        for port in ("49983", "49999", "9"):
            for token in ("X-Access-Token", "E2b-Traffic-Access-Token", "Authorization", "Cookie"):
                headers = {**to, "E2b-Sandbox-Port": port, token: secrets.new(f"a wrong {token}")}
                where = f"/{secrets.new('a path of a port')}?q={secrets.new('a query of a port')}"
                http.post(where, headers=headers, content=secrets.new("a body to a port"))
        code = {"code": f"print('{secrets.new('code')}')"}
        http.post("/execute", headers={**to, "E2b-Sandbox-Port": "49999"}, json=code)


@pytest.mark.timeout(120)
def test_no_secret_is_in_any_log(new_gateway, tmp_path, eventually):
    secrets = Secrets()
    domain = Domain()
    flags = [*domain.flags, "--enable-file-log", "--log-file-path", tmp_path / "coppice.log"]
    key = secrets.add("the API key", f"e2b_{uuid.uuid4().hex}{uuid.uuid4().hex[:8]}")
    gateway = new_gateway(*flags, "--log-level=trace", env={"COPPICE_API_KEYS": key})
    try:
        gateway.start()
        for path in (domain.base / "ca").rglob("*key*"):
            for number, line in enumerate(path.read_text().splitlines()):
                if "-----" not in line and len(line) > 15:
                    secrets.add(f"line {number} of {path.name}", line)
        opts = {**gateway.opts, "api_key": key}
        variables = {"TOKEN": secrets.new("a sandbox's variable")}
        metadata = {"about": secrets.new("metadata")}
        made = [Sandbox.create(envs=variables, metadata=metadata, **opts) for _ in range(3)]
        for sandbox in made:
            secrets.add("an access token", sandbox._envd_access_token)  # noqa: SLF001
        work(made[0], gateway, secrets)
        with gateway.http(**{"X-API-Key": key}) as http:
            closed = {"templateID": "base", "secure": True, "network": {"allowPublicTraffic": False}}
            answer = http.post("/v2/sandboxes", json=closed)
            remember(answer, secrets)
            http.put("/admin/log-level", json={"level": "trace"})
            document = http.get("/openapi.json").json()
            sandboxes = [sandbox.sandbox_id for sandbox in made[1:]]
            asked = drive(http, document, sandboxes, secrets)
            http.put("/admin/log-level", json={"level": "trace"})
            http.get("/health", headers={"X-Request-Id": "the-last"})
        assert asked > 100
        eventually(lambda: "the-last" in (tmp_path / "coppice.log").read_text())
        logs = [gateway.base / "log", tmp_path / "coppice.log", gateway.base / "out"]
        logs += gateway.data_dir.glob("sandboxes/*/envd.log")
        logs += gateway.data_dir.glob("audit/*")
        texts = {path: path.read_text(errors="replace") for path in logs}
        assert any(path.name == "envd.log" for path in texts)
        found = {str(path): sorted(secrets.found_in(text)) for path, text in texts.items()}
        found = {path: what for path, what in found.items() if what}
        assert not found, json.dumps(found, indent=2)
    finally:
        domain.remove()
