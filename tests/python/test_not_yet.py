"""What the SDK can ask for and this version has not: said so, and nothing happens instead.

Whoever builds one of these moves it to a test of what it does.
"""

import inspect
from types import SimpleNamespace

import e2b
import pytest
from e2b.template.main import TemplateBuilder
from e2b.template.types import BuildInfo

pytestmark = pytest.mark.sdk

SYNC = SimpleNamespace(
    **{name: getattr(e2b, name, None) for name in ("Sandbox", "Template", "Volume", "Secret")}
)
ASYNC = SimpleNamespace(**{name: getattr(e2b, f"Async{name}", None) for name in vars(SYNC)})

BUILD = BuildInfo(alias="mine", name="mine", tags=[], template_id="mine", build_id="1" * 36)

# By the name of the method: a call of it, given the half of the SDK, or a volume.
OF_TEMPLATES = {
    "Template.build_in_background": lambda sdk: sdk.Template.build_in_background(
        sdk.Template().from_base_image(), "mine"
    ),
    "Template.get_build_status": lambda sdk: sdk.Template.get_build_status(BUILD),
    "Template.assign_tags": lambda sdk: sdk.Template.assign_tags("base:default", "mine"),
    "Template.remove_tags": lambda sdk: sdk.Template.remove_tags("base", "mine"),
    "Template.get_tags": lambda sdk: sdk.Template.get_tags("base"),
}
OF_SECRETS = {
    "Secret.create": lambda sdk: sdk.Secret.create("mine", "value"),
    "Secret.update": lambda sdk: sdk.Secret.update("mine", "value"),
    "Secret.get_info": lambda sdk: sdk.Secret.get_info("mine"),
    "Secret.exists": lambda sdk: sdk.Secret.exists("mine"),
    "Secret.destroy": lambda sdk: sdk.Secret.destroy("mine"),
    "Secret.list": lambda sdk: sdk.Secret.list().next_items(),
}
OF_ALL_VOLUMES = {
    "Volume.create": lambda sdk: sdk.Volume.create("mine"),
    "Volume.connect": lambda sdk: sdk.Volume.connect("mine"),
    "Volume.get_info": lambda sdk: sdk.Volume.get_info("mine"),
    "Volume.list": lambda sdk: sdk.Volume.list(),
    "Volume.destroy": lambda sdk: sdk.Volume.destroy("mine"),
}
OF_A_VOLUME = {
    "volume.get_info": lambda it: it.get_info("a"),
    "volume.list": lambda it: it.list("a"),
    "volume.exists": lambda it: it.exists("a"),
    "volume.make_dir": lambda it: it.make_dir("a"),
    "volume.read_file": lambda it: it.read_file("a"),
    "volume.write_file": lambda it: it.write_file("a", "text"),
    "volume.update_metadata": lambda it: it.update_metadata("a", mode=0o600),
    "volume.remove": lambda it: it.remove("a"),
}
SOURCES = {
    "from_image": ["debian:13"],
    "from_base_image": [],
    "from_debian_image": [],
    "from_ubuntu_image": [],
    "from_fedora_image": [],
    "from_alpine_image": [],
    "from_arch_image": [],
    "from_python_image": [],
    "from_node_image": [],
    "from_bun_image": [],
    "from_template": ["base"],
    "from_dockerfile": ["FROM debian:13\nRUN true\n"],
    "from_aws_registry": ["host/image", "id", "key", "region"],
    "from_gcp_registry": ["host/image", {"client_email": "nobody"}],
}
STEPS = {
    "copy": ["test_not_yet.py", "/tmp/"],
    "copy_items": [[{"src": "test_not_yet.py", "dest": "/tmp/"}]],
    "remove": ["/tmp/x"],
    "rename": ["/tmp/x", "/tmp/y"],
    "make_dir": ["/tmp/x"],
    "make_symlink": ["/tmp/x", "/tmp/y"],
    "run_cmd": ["true"],
    "set_workdir": ["/tmp"],
    "set_user": ["user"],
    "set_envs": [{"A": "1"}],
    "skip_cache": [],
    "pip_install": ["six"],
    "npm_install": ["left-pad"],
    "bun_install": ["left-pad"],
    "apt_install": ["hello"],
    "git_clone": ["/srv/r.git", "/tmp/r"],
}
ENDINGS = {"set_start_cmd": ["true", "true"], "set_ready_cmd": ["true"]}

halves = pytest.mark.parametrize("sdk", [SYNC, ASYNC], ids=["sync", "async"])


def cases(calls):
    return pytest.mark.parametrize("name", calls)


def has(sdk, name):
    owner, _, member = name.partition(".")
    if not hasattr(getattr(sdk, owner.capitalize()), member):
        pytest.skip(f"e2b {e2b.__name__} has no {name}")


async def settled(result):
    return await result if inspect.isawaitable(result) else result


async def refused(call):
    with pytest.raises(Exception, match="501|not implemented yet"):
        await settled(call())


@halves
@cases(OF_TEMPLATES | OF_SECRETS | OF_ALL_VOLUMES)
async def test_templates_secrets_and_volumes_cannot_be_changed_yet(gateway, sdk, name):
    has(sdk, name)
    call = (OF_TEMPLATES | OF_SECRETS | OF_ALL_VOLUMES)[name]
    await refused(lambda: call(sdk))


@halves
@cases(OF_A_VOLUME)
async def test_a_volume_has_no_contents_yet(gateway, sdk, name, monkeypatch):
    has(sdk, name)
    monkeypatch.setenv("E2B_VOLUME_API_URL", gateway.url)
    await refused(lambda: OF_A_VOLUME[name](sdk.Volume("mine", "mine", token="some")))


@halves
@cases(SOURCES)
async def test_no_template_is_built_yet(gateway, sdk, name):
    template = getattr(sdk.Template(), name)(*SOURCES[name])
    await refused(lambda: sdk.Template.build(template, "mine"))


@halves
@cases(STEPS | ENDINGS)
async def test_no_step_of_a_template_is_built_yet(gateway, sdk, name):
    assert hasattr(TemplateBuilder, name)
    template = getattr(sdk.Template().from_base_image(), name)(*(STEPS | ENDINGS)[name])
    await refused(lambda: sdk.Template.build(template, "mine"))


@halves
async def test_no_template_has_a_cache_or_mcp_servers_or_a_dev_container_yet(gateway, sdk):
    template = sdk.Template().skip_cache().from_template("mcp-gateway").add_mcp_server("time")
    await refused(lambda: sdk.Template.build(template, "mine"))
    container = sdk.Template().from_template("devcontainer").beta_dev_container_prebuild("/d")
    template = container.beta_set_dev_container_start("/d")
    await refused(lambda: sdk.Template.build(template, "mine"))
