"""A figure as a picture and as the numbers in it."""

import base64
import pathlib
import tempfile

from e2b_code_interpreter import Sandbox

CODE = """
import matplotlib.pyplot as plt
plt.bar(["Jan", "Feb", "Mar"], [3, 5, 4])
plt.title("Sales")
plt.ylabel("Units (thousands)")
plt.show()
"""

with Sandbox.create() as sandbox:
    (figure,) = sandbox.run_code(CODE).results

picture = pathlib.Path(tempfile.gettempdir()) / "sales.png"
picture.write_bytes(base64.b64decode(figure.png))
print("picture:", picture)

chart = figure.chart
print(f"{chart.type.value} chart, {chart.title}, in {chart.y_unit}")
for bar in chart.elements:
    print(bar.label, bar.value)
