import assert from "node:assert/strict";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Recording, growth, histogramGrowth, read } from "../src/lib/recording.js";
import { POINTS, gauge, perSandbox, quantile, quantileOf, rate, since } from "../src/lib/series.js";

const BEGIN = Date.UTC(2026, 10, 22);

function sample(second, more = {}) {
  return {
    v: 1, at: BEGIN + second * 1000, every: 30, up: second, alive: 0, kernels: 0, created: 0,
    killed: 0, paused: 0, resumed: 0, execs: 0, errors: 0, spawns: 0, exits: 0, create_ns: 0,
    exec_ns: 0, ...more,
  };
}

function recording(samples) {
  const made = new Recording();
  for (const one of samples) made.add(JSON.stringify(one));
  assert.equal(made.bad, 0);
  return made;
}

const values = (runs) => runs.map((run) => run.map(([, value]) => value));

test("a directory that is not there is an empty recording", async () => {
  const empty = await read(join(tmpdir(), "there", "is", "none"));
  assert.deepEqual([empty.samples, empty.bad], [[], 0]);
});

test("files are read in the order of their days, and bad lines are counted", async () => {
  const directory = await mkdtemp(join(tmpdir(), "recording-"));
  const line = (second) => `${JSON.stringify(sample(second))}\n`;
  await writeFile(join(directory, "2026-11-23.jsonl"), line(86_400));
  await writeFile(join(directory, "2026-11-22.jsonl"), `${line(0)}{"v":2}\n{"v":1,\n${line(30)}${line(30)}nul\n`);
  await writeFile(join(directory, "notes.txt"), "not read");
  const found = await read(directory);
  assert.deepEqual(found.samples.map(({ up }) => up), [0, 30, 86_400]);
  assert.equal(found.bad, 4);
});

test("lines of a wrong form are bad, whatever it is", () => {
  const found = new Recording();
  for (const wrong of [
    { at: "now" }, { alive: -1 }, { boxes: { "../../etc": [1, 1] } }, { boxes: { "0123456789ab": [1] } },
    { boxes: null }, { pool: [1, 2] }, { exec: ["<svg>"] }, { up: null },
  ]) {
    found.add(JSON.stringify(sample(0, wrong)));
  }
  found.add("null");
  assert.deepEqual([found.samples.length, found.bad], [0, 9]);
});

test("a counter that has begun anew grows by what it is, and never less than nothing", () => {
  const [before, after] = [sample(100, { created: 50 }), sample(10, { created: 3 })];
  assert.equal(growth(before, after, "created"), 3);
  // Even where it has caught up meanwhile.
  assert.equal(growth(before, sample(10, { created: 60 }), "created"), 60);
  assert.equal(growth(before, sample(130, { created: 60 }), "created"), 10);
  assert.deepEqual(histogramGrowth({ up: 1, exec: [5, 1] }, { up: 2, exec: [6, 1, 1] }, "exec"), [1, 0, 1]);
  assert.deepEqual(histogramGrowth({ up: 9, exec: [5, 1] }, { up: 2, exec: [1] }, "exec"), [1]);
});

test("rates are per second, without the sample before a gap", () => {
  const { samples } = recording([
    sample(0), sample(30, { created: 30 }), sample(60, { created: 90 }),
    sample(600, { created: 700 }), sample(630, { created: 760 }),
  ]);
  assert.deepEqual(values(rate(samples, "created")), [[1, 2], [2]]);
});

test("a gap is where a sample is late by more than one and a half times", () => {
  const alive = (seconds) => recording(seconds.map((second) => sample(second, { alive: 1 }))).samples;
  const lengths = (seconds) => gauge(alive(seconds), ({ alive }) => alive).map((run) => run.length);
  assert.deepEqual(lengths([0, 30, 105, 135]), [4]);
  assert.deepEqual(lengths([0, 30, 106, 136]), [2, 2]);
});

test("many samples become few points, which keep peaks and sums", () => {
  const many = [];
  for (let n = 0; n < 10_000; n += 1) {
    many.push(sample(n * 30, { alive: n === 5_000 ? 9 : 1, created: n * 3 }));
  }
  const { samples } = recording(many);
  const [alive] = gauge(samples, (one) => one.alive);
  assert.ok(alive.length <= POINTS && alive.length > POINTS / 2, `${alive.length}`);
  assert.equal(Math.max(...alive.map(([, value]) => value)), 9);
  const [created] = rate(samples, "created");
  assert.ok(created.every(([, value]) => Math.abs(value - 0.1) < 1e-9));
});

test("quantiles lie within their bucket", () => {
  assert.equal(quantileOf([0, 0, 0], 0.5), null);
  assert.equal(quantileOf([10], 0.5), 0.0025);
  assert.ok(Math.abs(quantileOf([50, 50], 0.95) - 0.0095) < 1e-9);
  assert.equal(quantileOf([...new Array(14).fill(0), 3], 0.5), 300);
  const { samples } = recording([
    sample(0), sample(30, { exec: [10] }), sample(60, { exec: [10] }), sample(90, { exec: [10, 0, 8] }),
  ]);
  // Where nothing ran there is nothing to tell.
  assert.deepEqual(values(quantile(samples, "exec", 0.5)), [[0.0025], [0.0175]]);
});

test("each sandbox has a line for as long as it was there, the busiest first", () => {
  const [one, other] = ["0".repeat(12), "f".repeat(12)];
  const made = recording([
    sample(0, { boxes: { [one]: [1, 10] } }),
    sample(30, { boxes: { [one]: [2, 10], [other]: [50, null] } }),
    sample(60, { boxes: { [other]: [60, null] } }),
  ]);
  const all = since(made, BEGIN);
  const cpu = perSandbox(made, all, "cpu", 9);
  assert.deepEqual(cpu.shown.map(({ name }) => name), [other, one]);
  assert.deepEqual(cpu.shown.map(({ runs }) => values(runs)), [[[50, 60]], [[1, 2]]]);
  assert.deepEqual(perSandbox(made, all, "cpu", 1).left, 1);
  assert.deepEqual(perSandbox(made, all, "memory", 9).shown.map(({ name }) => name), [one]);
  assert.deepEqual(perSandbox(made, since(made, BEGIN + 60_000), "cpu", 9).shown.length, 1);
});
