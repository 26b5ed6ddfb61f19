/** Figures as charts, field by field: what is expected here is told from the figures by hand. */
import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { CodeSandbox, test } from '../setup.js'

let sandbox
before(async () => (sandbox = await CodeSandbox.create({ timeoutMs: 600_000 })))
after(() => sandbox?.kill())

const NO_LABELS = { x_label: null, y_label: null, x_unit: null, y_unit: null }

const CHARTS = {
  line: {
    drawing: `
plt.plot([1, 10, 100], [1, 2, 3], label="a")
plt.xlabel("Time (s)")
plt.ylabel("Size [MB]")
plt.xscale("log")
plt.xticks([1, 10, 100], ["one", "ten", "hundred"])
plt.yticks([1, 2])
`,
    chart: {
      type: 'line',
      title: null,
      x_label: 'Time (s)',
      y_label: 'Size [MB]',
      x_unit: 's',
      y_unit: 'MB',
      x_ticks: [1, 10, 100],
      x_tick_labels: ['one', 'ten', 'hundred'],
      x_scale: 'log',
      y_ticks: [1, 2],
      y_tick_labels: ['1', '2'],
      y_scale: 'linear',
      elements: [{ label: 'a', points: [1, 10, 100].map((x, n) => [x, n + 1]) }],
    },
  },
  scatter: {
    drawing: `
plt.scatter([1, 2], [3, 4], label="Dots")
plt.title("Both")
plt.xticks([1, 2])
plt.yticks([3, 4])
`,
    chart: {
      type: 'scatter',
      title: 'Both',
      ...NO_LABELS,
      x_ticks: [1, 2],
      x_tick_labels: ['1', '2'],
      x_scale: 'linear',
      y_ticks: [3, 4],
      y_tick_labels: ['3', '4'],
      y_scale: 'linear',
      elements: [{ label: 'Dots', points: [1, 2].map((x) => [x, x + 2]) }],
    },
  },
  bar: {
    drawing: 'plt.bar(["a", "b"], [3, 5]); plt.bar(["a", "b"], [1, 2], label="More")',
    chart: {
      type: 'bar',
      title: null,
      ...NO_LABELS,
      elements: [
        { label: 'a', group: 'Group 0', value: 3 },
        { label: 'b', group: 'Group 0', value: 5 },
        { label: 'a', group: 'More', value: 1 },
        { label: 'b', group: 'More', value: 2 },
      ],
    },
  },
  pie: {
    drawing: 'plt.pie([1, 3], labels=["one", "three"], radius=1.5)',
    chart: {
      type: 'pie',
      title: null,
      elements: [
        { label: 'one', angle: 90, radius: 1.5 },
        { label: 'three', angle: 270, radius: 1.5 },
      ],
    },
  },
  box_and_whisker: {
    drawing: `
plt.boxplot([[1, 2, 3, 4, 5], [2, 4, 6, 8, 9, 30]], patch_artist=True, tick_labels=["x", "y"])
plt.ylabel("Weight (kg)")
`,
    chart: {
      type: 'box_and_whisker',
      title: null,
      ...NO_LABELS,
      y_label: 'Weight (kg)',
      y_unit: 'kg',
      elements: [
        {
          label: 'x',
          min: 1,
          first_quartile: 2,
          median: 3,
          third_quartile: 4,
          max: 5,
          outliers: [],
        },
        {
          label: 'y',
          min: 2,
          first_quartile: 4.5,
          median: 7,
          third_quartile: 8.75,
          max: 9,
          outliers: [30],
        },
      ],
    },
  },
  unknown: {
    drawing: 'plt.imshow([[1, 2], [3, 4]]); plt.title("Pixels")',
    chart: { type: 'unknown', title: 'Pixels', elements: [] },
  },
}

async function shown(drawing) {
  const { results, error } = await sandbox.runCode(
    `import matplotlib.pyplot as plt\n${drawing}\nplt.show()`,
  )
  assert.equal(error, undefined, error?.traceback)
  assert.equal(results.length, 1)
  assert.equal(Buffer.from(results[0].png, 'base64').subarray(1, 4).toString(), 'PNG')
  return results[0]
}

for (const [kind, { drawing, chart }] of Object.entries(CHARTS)) {
  test(`a figure is told as a chart: ${kind}`, async () => {
    assert.deepEqual((await shown(drawing)).chart, chart)
  })
}

test('several in one figure are a superchart', async () => {
  const all = Object.values(CHARTS)
  const drawings = all.map(({ drawing }, n) => `plt.subplot(2, 3, ${n + 1})\n${drawing}`)
  const drawing = `plt.figure().suptitle("All")\n${drawings.join('\n')}`
  assert.deepEqual((await shown(drawing)).chart, {
    type: 'superchart',
    title: 'All',
    elements: all.map(({ chart }) => chart),
  })
})
