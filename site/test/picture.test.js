import assert from "node:assert/strict";
import { test } from "node:test";

import { CHARTS, RANGES, drawn } from "../src/lib/charts.js";
import { figure, picture, summary } from "../src/lib/picture.js";
import { Recording } from "../src/lib/recording.js";

test("figures are as people read them", () => {
  const shown = [
    [0, "B", "0"], [4096, "B", "4 KiB"], [41_943_040, "B", "40 MiB"], [0.0025, "s", "2.5 ms"],
    [1.5, "s", "1.5 s"], [99.8, "%", "99.8%"], [0.1, "/s", "0.1/s"], [12, "", "12"], [0.0004, "", "0.0004"],
  ];
  for (const [value, unit, text] of shown) assert.equal(figure(value, unit), text);
});

test("a run is a path, and one point a dash", () => {
  const shown = [{ name: "a", runs: [[[0, 0], [30_000, 10]], [[60_000, 5]]] }];
  const { lines, levels, top } = picture({ shown, from: 0, to: 60_000 }, "");
  assert.equal(top, 10);
  assert.equal(lines[0].path, "M84 194L397 10M710 102m-3 0h6");
  assert.deepEqual(levels.at(-1), { at: 10, text: "10" });
  assert.deepEqual(summary(shown[0], "").figures, ["0", "5", "10", "5"]);
});

test("levels are round numbers of the unit that is said", () => {
  const shown = [{ name: "a", runs: [[[0, 0], [1000, 200 * 2 ** 20]]] }];
  const { levels, top } = picture({ shown, from: 0, to: 1000 }, "B");
  assert.deepEqual(levels.map(({ text }) => text), ["0", "50 MiB", "100 MiB", "150 MiB", "200 MiB"]);
  assert.equal(top, 200 * 2 ** 20);
});

test("an empty recording has nothing to draw in any chart", () => {
  for (const chart of CHARTS) {
    const ranges = drawn(chart, new Recording());
    assert.equal(ranges.length, RANGES.length);
    assert.ok(ranges.every(({ shown }) => shown.length === 0), chart.id);
  }
});
