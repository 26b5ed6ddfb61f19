"""A kernel, and a client of it that others reach by HTTP: `kernel.py NAME PORT`.

A cell that is posted runs; the answer is a list of all messages it was answered with.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from jupyter_client import KernelManager

PATIENCE = 45
INTERRUPT = "interrupt when it prints"


class Cells(BaseHTTPRequestHandler):
    def do_POST(self):
        code = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer = json.dumps(list(run(code))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def run(code):
    asked = client.execute(code, allow_stdin=False)
    interrupted = INTERRUPT not in code
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            break
        if kind not in ("status", "execute_input"):
            yield {"kind": kind, **content}
        if kind == "stream" and not interrupted:
            interrupted = True
            manager.interrupt_kernel()


manager = KernelManager(kernel_name=sys.argv[1], transport="ipc")
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=PATIENCE)
HTTPServer(("127.0.0.1", int(sys.argv[2])), Cells).serve_forever()
