// A figure as the numbers in it; `figure.png` is the picture.
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create()
try {
  const { results } = await sandbox.runCode(`
import matplotlib.pyplot as plt
plt.pie([1, 3], labels=["tea", "coffee"])
plt.title("Drinks")
plt.show()
`)
  const { chart } = results[0]
  console.log(chart.type, chart.title)
  for (const slice of chart.elements) console.log(slice.label, slice.angle)
} finally {
  await sandbox.kill()
}
