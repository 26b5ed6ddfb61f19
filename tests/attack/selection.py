"""Which attacks are tried where: on sandboxes of which system, by whom, and how far from its host."""

import os
import subprocess
from dataclasses import dataclass
from typing import ClassVar

# What a test that asks for them does.
LOCAL = {
    "pooled": "starts a gateway with a pool of its own",
    "strangers": "starts a gateway with tenants of its own",
}
HERE = {"secret": "looks for a file of the host's"}


@dataclass(frozen=True)
class Place:
    """Where the gateway is that is attacked."""

    # As `uname` has it.
    system: str
    # Started by somebody else, so that all its walls are up.
    is_remote: bool = False
    # It runs on the kernel that the tests run on.
    is_here: bool = True

    # Its system, and what is another for each kernel that is started.
    QUESTION: ClassVar = (
        "uname -s; sysctl -n kern.boottime 2>/dev/null | cut -d , -f 1 | grep . "
        "|| cat /proc/sys/kernel/random/boot_id"
    )

    @classmethod
    def local(cls):
        return cls(os.uname().sysname)

    @classmethod
    def remote(cls, answer):
        """One whose sandboxes have answered so."""
        ours = subprocess.run(["sh", "-c", cls.QUESTION], capture_output=True, text=True).stdout
        return cls(answer.split()[0], is_remote=True, is_here=answer == ours)

    def __str__(self):
        where = "this machine" if self.is_here else "another machine"
        return f"sandboxes of {self.system} on {where}"


def applies(item, place):
    """Whether there is such an attack at all: there, without those walls."""
    systems = {mark for mark in ("linux", "freebsd") if item.get_closest_marker(mark)}
    if systems and place.system.lower() not in systems:
        return False
    callspec = getattr(item, "callspec", None)
    down = callspec.params.get("world", ()) if callspec else ()
    return not (place.is_remote and down)


def why_not(item, place):
    """Why it cannot be tried there, if it cannot."""
    if not place.is_remote:
        return None
    fixtures = set(item.fixturenames)
    if mark := item.get_closest_marker("local"):
        return f"not remotely: {mark.args[0]}"
    for name in sorted(fixtures & LOCAL.keys()):
        return f"not remotely: {LOCAL[name]}"
    for name in sorted(fixtures & HERE.keys()):
        if not place.is_here:
            return f"not from another machine: {HERE[name]}"
    return None
