"""Files in, code over them, files out."""

from e2b_code_interpreter import Sandbox

SALES = "month,sales\nJan,3\nFeb,5\nMar,4\n"

with Sandbox.create() as sandbox:
    sandbox.files.write("/home/user/sales.csv", SALES)
    sandbox.run_code(
        """
        import pandas as pd
        sales = pd.read_csv("sales.csv")
        sales["total"] = sales["sales"].cumsum()
        sales.to_excel("sales.xlsx")
        """
    )
    frame = sandbox.run_code("sales").results[0]
    print(frame.data["total"])

    for entry in sandbox.files.list("/home/user"):
        if entry.name.startswith("sales"):
            print(entry.name)
    workbook = sandbox.files.read("/home/user/sales.xlsx", format="bytes")
    print(bytes(workbook[:2]))
