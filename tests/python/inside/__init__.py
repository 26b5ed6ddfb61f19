"""Programs that the tests put into sandboxes."""

from pathlib import Path


def source(name):
    return (Path(__file__).parent / name).read_text()


def serve(sandbox, port=8080):
    """Starts `web.py` in a sandbox and waits until it listens."""
    sandbox.files.write("/tmp/web.py", source("web.py"))
    sandbox.commands.run(f"python3 /tmp/web.py {port}", background=True, timeout=0)
    sandbox.commands.run(
        f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.05; done", timeout=10
    )
