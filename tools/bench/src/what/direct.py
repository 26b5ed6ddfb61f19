"""What `execute` is measured beside: jupyter_client and a kernel, with nothing in between.

direct.py CODE WARM_UP COUNT RESULT: writes the microseconds of each run, and how many characters
of output it had, to RESULT.
"""

import json
import sys
import time

from jupyter_client.manager import KernelManager

PATIENCE = 120


def run(client, code):
    characters = 0
    began = time.perf_counter()
    sent = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != sent:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            characters += len(content["text"])
        elif kind == "execute_result":
            characters += len(content["data"]["text/plain"])
        elif kind == "error":
            sys.exit(f"{content['ename']}: {content['evalue']}")
        elif kind == "status" and content["execution_state"] == "idle":
            break
    took = time.perf_counter() - began
    client.get_shell_msg(timeout=PATIENCE)
    return [round(took * 1e6), characters]


def main():
    code, warm_up, count, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    manager = KernelManager(kernel_name="python3", transport="ipc")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE)
    runs = [run(client, code) for _ in range(warm_up + count)][warm_up:]
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    with open(result, "w") as file:
        json.dump(runs, file)


main()
