"""A server in a sandbox, reached from outside by the sandbox's own name for its port."""

import os
import time
import urllib.error
import urllib.request

from e2b_code_interpreter import Sandbox

PORT = 8000


def get(sandbox, path):
    """By headers, which need no name server; `https://{sandbox.get_host(PORT)}` is the other way."""
    request = urllib.request.Request(
        os.environ["E2B_SANDBOX_URL"] + path,
        headers={"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(PORT)},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


with Sandbox.create() as sandbox:
    sandbox.files.write("/home/user/site/index.html", "<h1>from a sandbox</h1>\n")
    server = sandbox.commands.run(
        f"python3 -m http.server {PORT} --directory site", background=True, timeout=0
    )
    for _ in range(100):
        try:
            print(get(sandbox, "/"), end="")
            break
        except urllib.error.HTTPError as error:
            # Nobody listens there yet.
            assert error.code == 502, error
            time.sleep(0.1)
    server.kill()
