# Of every IPython kernel on the system's Python; a virtual environment has no coppice_display.
from importlib.util import find_spec

c = get_config()  # noqa: F821

c.InteractiveShell.colors = "nocolor"
c.PlainTextFormatter.max_seq_length = 0
# A session's inputs stay with the session.
c.HistoryManager.hist_file = ":memory:"
if find_spec("coppice_display"):
    c.InteractiveShellApp.extensions = ["coppice_display"]
