"""Templates as the SDK finds them; there is one, which the gateway builds at its first start."""

import inspect

import pytest
from e2b import AsyncTemplate, Template

pytestmark = pytest.mark.sdk


@pytest.mark.parametrize("template", [Template, AsyncTemplate])
@pytest.mark.parametrize("name", ["exists", "alias_exists"])
async def test_base_exists_and_nothing_else(gateway, template, name):
    async def exists(alias):
        result = getattr(template, name)(alias)
        return await result if inspect.isawaitable(result) else result

    assert await exists("base") is True
    assert await exists("no-such-template") is False
