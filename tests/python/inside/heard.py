"""A kernel of no language: it prints all that it was sent until now, also what shows nothing."""

import json

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class Heard(Kernel):
    implementation, implementation_version, banner = "heard", "1", ""
    language_info = {"name": "heard", "mimetype": "text/plain", "file_extension": ".txt"}

    def __init__(self, **settings):
        super().__init__(**settings)
        self.heard = []

    def do_execute(self, code, silent, *_, **options):
        self.heard.append(code)
        if not silent:
            said = {"name": "stdout", "text": json.dumps(self.heard)}
            self.send_response(self.iopub_socket, "stream", said)
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {},
        }


IPKernelApp.launch_instance(kernel_class=Heard)
