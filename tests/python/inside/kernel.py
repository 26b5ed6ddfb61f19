"""A kernel and a client of it, in a sandbox of `code-interpreter-v1`.

`kernel.py start NAME FILE` starts a kernel and stays; `kernel.py run NAME FILE` runs the cell that
comes on stdin in it, and prints each message it was answered with, as JSON, one a line.
"""

import json
import sys
from pathlib import Path

from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.kernelspec import KernelSpecManager

PATIENCE = 30
INTERRUPTED_AFTER = "# interrupt when it prints"


def start(name, file):
    manager = KernelManager(kernel_name=name, connection_file=file, transport="ipc")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    print("ready", flush=True)
    manager.provisioner.process.wait()


def run(name, file):
    client = BlockingKernelClient(connection_file=file)
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    code = sys.stdin.read()
    asked = client.execute(code, allow_stdin=False)
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            break
        if kind not in ("status", "execute_input"):
            print(json.dumps({"kind": kind, **content}), flush=True)
        if kind == "stream" and INTERRUPTED_AFTER in code:
            interrupt(name, client)


def interrupt(name, client):
    spec = KernelSpecManager().get_kernel_spec(name)
    if spec.interrupt_mode == "message":
        client.control_channel.send(client.session.msg("interrupt_request", {}))
    else:
        import psutil

        for process in psutil.process_iter():
            if "ipykernel_launcher" in process.cmdline():
                process.send_signal(2)


{"start": start, "run": run}[sys.argv[1]](sys.argv[2], str(Path(sys.argv[3])))
