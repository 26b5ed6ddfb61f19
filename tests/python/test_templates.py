"""Templates as the SDK finds them: one that the gateway builds at its first start, and one that the
command does. CI has both built by these tests, before those that take minutes."""

import inspect

import pytest
from e2b import AsyncTemplate, Sandbox, Template

pytestmark = pytest.mark.sdk


@pytest.mark.parametrize("template", [Template, AsyncTemplate])
@pytest.mark.parametrize("name", ["exists", "alias_exists"])
async def test_base_exists_and_nothing_else(gateway, template, name):
    async def exists(alias):
        result = getattr(template, name)(alias)
        return await result if inspect.isawaitable(result) else result

    assert await exists("base") is True
    assert await exists("no-such-template") is False


def test_one_that_is_built_meanwhile_is_there_at_once(gateway, interpreter_template):
    assert Template.exists(interpreter_template) is True
    with Sandbox.create(interpreter_template) as sandbox:
        assert sandbox.commands.run("python3 -c 'import ipykernel'").exit_code == 0
