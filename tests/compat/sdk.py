"""The public methods of the Python SDKs, and a watch over their use: a pytest plugin.

Names are as a user writes them and alike for both halves: `Sandbox.create`, `sandbox.kill`,
`sandbox.files.read`, `commandHandle.wait`. What a method calls inside the SDK is no use of it.
"""

import dataclasses
import enum
import functools
import importlib.metadata
import inspect

import e2b
import e2b_code_interpreter
from e2b.template.main import TemplateBuilder

from record import INSIDE, Record, inside, is_not_yet

# How a user comes by an instance; the others are named after their class.
INSTANCES = {
    "Filesystem": "sandbox.files",
    "Commands": "sandbox.commands",
    "Pty": "sandbox.pty",
    "Git": "sandbox.git",
    "TemplateBuilder": "template",
}
# Settings of a client: nothing a user calls.
INTERNAL = {"ApiClient", "ConnectionConfig", "VolumeConnectionConfig", "TemplateBase"}


@dataclasses.dataclass(frozen=True)
class Method:
    name: str
    member: str
    on_class: bool


def classes(half):
    """Of the synchronous or the asynchronous half: the exported ones, and a sandbox's parts."""
    found = [getattr(e2b, name) for name in e2b.__all__]
    found = [one for one in found if inspect.isclass(one) and one.__module__.startswith("e2b")]
    sandbox = e2b.AsyncSandbox if half == "async" else e2b.Sandbox
    for part in ("files", "commands", "pty", "git"):
        found.append(inspect.signature(getattr(sandbox, part).fget).return_annotation)
    found += [TemplateBuilder, code_sandbox(half)]
    no_methods = (Exception, enum.Enum, dict)

    def belongs(one):
        is_async = one.__module__.split(".")[1].endswith("_async") or "Async" in one.__name__
        return is_async if half == "async" else not is_async

    return [
        one
        for one in dict.fromkeys(found)
        if one.__name__ not in INTERNAL
        and not issubclass(one, no_methods)
        and not dataclasses.is_dataclass(one)
        and (one is TemplateBuilder or belongs(one))
    ]


def code_sandbox(half):
    """The sandbox of the SDK for code, which adds to the other's."""
    sandboxes = e2b_code_interpreter.AsyncSandbox, e2b_code_interpreter.Sandbox
    return sandboxes[half != "async"]


def methods(owner):
    """The public ones of a class, each with the names it goes by."""
    code = owner.__module__.startswith(e2b_code_interpreter.__name__)
    title = owner.__name__.removeprefix("Async")
    instance = INSTANCES.get(title, title[0].lower() + title[1:])
    for member in vars(owner) if code else dir(owner):
        kind = inspect.getattr_static(owner, member)
        if member.startswith("_") or not callable(getattr(owner, member)):
            continue
        both = type(kind).__name__ in ("class_method_variant", "DualMethod")
        on_class = both or isinstance(kind, (classmethod, staticmethod))
        if on_class:
            yield Method(f"{title}.{member}", member, on_class=True)
        if both or not on_class:
            yield Method(f"{instance}.{member}", member, on_class=False)


class Watched:
    """In the place of a method: gives what was there, with somebody looking."""

    def __init__(self, original, member, names, record):
        self.original, self.member, self.names, self.record = original, member, names, record

    def __get__(self, instance, owner=None):
        found = self.original.__get__(instance, owner)
        on_class = instance is None
        name = self.names.get((self.member, on_class)) or self.names[self.member, not on_class]
        if name.startswith("template."):
            return functools.partial(step, found, name, instance)
        return watch(found, name, self.record)


def watch(call, name, record):
    def ended(args, outcome):
        record.note(name, outcome)
        # A template's steps send nothing: they share the fate of its build.
        for taken in getattr(getattr(args[0] if args else None, "_template", None), "taken", ()):
            record.note(taken, outcome)

    def raised(args, error):
        ended(args, "not_yet" if is_not_yet(str(error)) else "refused")

    async def wait(args, coroutine):
        with inside():
            try:
                result = await coroutine
            except Exception as error:
                raised(args, error)
                raise
        ended(args, "passed")
        return result

    @functools.wraps(call)
    def watched(*args, **options):
        if INSIDE.get():
            return call(*args, **options)
        with inside():
            try:
                result = call(*args, **options)
            except Exception as error:
                raised(args, error)
                raise
        if inspect.iscoroutine(result):
            return wait(args, result)
        ended(args, "passed")
        return result

    return watched


def step(call, name, instance, *args, **options):
    if not INSIDE.get():
        template = getattr(instance, "_template", instance)
        template.taken = [*getattr(template, "taken", ()), name]
    with inside():
        return call(*args, **options)


def pytest_configure(config):
    run = config.getoption("--compat")
    if run is None:
        return
    versions = map(importlib.metadata.version, ("e2b", "e2b-code-interpreter"))
    version = " with e2b-code-interpreter ".join(versions)
    functions = [name for name in e2b.__all__ if inspect.isfunction(getattr(e2b, name))]
    for half in ("sync", "async"):
        record = Record(f"{run}-{half}", "e2b (PyPI)", version)
        for owner in classes(half):
            names = {(method.member, method.on_class): method.name for method in methods(owner)}
            record.surface += names.values()
            if owner is TemplateBuilder and half == "async":
                continue  # Both halves have it, and it is watched already.
            for member in {member for member, _ in names}:
                original = inspect.getattr_static(owner, member)
                setattr(owner, member, Watched(original, member, names, record))
        record.surface = list(dict.fromkeys(record.surface + functions))
        config.recorder.records.append(record)
