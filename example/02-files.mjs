// Files in, code over them, files out.
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create()
try {
  await sandbox.files.write('/home/user/sales.csv', 'month,sales\nJan,3\nFeb,5\nMar,4\n')
  const { results } = await sandbox.runCode(`
import pandas as pd
sales = pd.read_csv("sales.csv")
sales["total"] = sales["sales"].cumsum()
sales.to_csv("totals.csv", index=False)
sales
`)
  console.log(results[0].data.total.join(' '))
  console.log((await sandbox.files.read('/home/user/totals.csv')).split('\n')[1])
} finally {
  await sandbox.kill()
}
