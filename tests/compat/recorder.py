"""A pytest plugin: `--compat NAME` has the uses of a client, see `record.py`, written down.

They go to `target/e2e/compat/NAME*.json`, of which `table.py` makes docs/e2b.md.
"""

import pytest


class Recorder:
    """Tells the records of a run how each test ended."""

    def __init__(self, again):
        self.records, self._failed, self._again = [], False, again

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report):
        self._failed |= report.failed
        if report.when == "teardown":
            for record in self.records:
                record.settle(not self._failed)
            self._failed = False

    def pytest_sessionfinish(self):
        for record in self.records:
            record.write(again=self._again)


def pytest_addoption(parser):
    parser.addoption("--compat", metavar="NAME", help="write down what was used, under this name")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    config.recorder = Recorder(config.getoption("lf"))
    config.pluginmanager.register(config.recorder)
