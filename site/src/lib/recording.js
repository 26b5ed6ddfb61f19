// The recording that the page is made of: lines of JSON, as docs/metrics-jsonl.md has them.
//
// A line that is none, or of another form, is counted and passed over. Nothing here knows of pictures.

import { createReadStream } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";

const COUNTS = [
  "alive",
  "kernels",
  "created",
  "killed",
  "paused",
  "resumed",
  "execs",
  "errors",
  "spawns",
  "exits",
];
export const HISTOGRAMS = ["create", "exec"];

// Of one that was made by itself, whose successor nobody has promised (seconds).
const UNSAID = 300;
// So many times the time that was promised may pass, or there is a gap.
const LATE = 2.5;

/** All files of a directory, in the order of their days; an empty recording where there is none. */
export async function read(directory) {
  let names = [];
  try {
    names = (await readdir(directory)).filter((name) => /^\d{4}-\d\d-\d\d\.jsonl$/.test(name));
  } catch (error) {
    if (error.code !== "ENOENT") throw error;
  }
  const recording = new Recording();
  for (const name of names.sort()) {
    const lines = createInterface({ input: createReadStream(join(directory, name)) });
    for await (const line of lines) recording.add(line);
  }
  return recording;
}

export class Recording {
  constructor() {
    this.samples = [];
    this.bad = 0;
    // Of each sandbox: the numbers of its samples, and its two figures in each.
    this.boxes = new Map();
  }

  add(line) {
    if (line === "") return;
    const sample = parse(line);
    if (!sample || sample.at <= (this.samples.at(-1)?.at ?? -1)) {
      this.bad += 1;
      return;
    }
    const { boxes = {}, ...figures } = sample;
    const number = this.samples.push(figures) - 1;
    for (const [id, [cpu, memory]] of Object.entries(boxes)) {
      if (!this.boxes.has(id)) this.boxes.set(id, { numbers: [], cpu: [], memory: [] });
      const box = this.boxes.get(id);
      box.numbers.push(number);
      box.cpu.push(cpu);
      box.memory.push(memory);
    }
  }

  get end() {
    return this.samples.at(-1)?.at;
  }
}

function parse(line) {
  let sample;
  try {
    sample = JSON.parse(line);
  } catch {
    return null;
  }
  return isSample(sample) ? sample : null;
}

const isFigure = (value) => Number.isFinite(value) && value >= 0;
const areFigures = (value) => Array.isArray(value) && value.every(isFigure);

function isSample(sample) {
  if (typeof sample !== "object" || sample === null || sample.v !== 1) return false;
  if (!["at", "every", "up", ...COUNTS].every((name) => isFigure(sample[name]))) return false;
  if (!HISTOGRAMS.every((name) => sample[name] === undefined || areFigures(sample[name]))) return false;
  if (sample.pool !== undefined && !(areFigures(sample.pool) && sample.pool.length === 3)) return false;
  return (
    sample.boxes === undefined ||
    (typeof sample.boxes === "object" &&
      sample.boxes !== null &&
      Object.entries(sample.boxes).every(
        ([id, figures]) =>
          /^[0-9a-f]{12}$/.test(id) &&
          Array.isArray(figures) &&
          figures.length === 2 &&
          figures.every((figure) => figure === null || isFigure(figure)),
      ))
  );
}

/** Whether something is missing between two samples that follow each other. */
export function isGap(before, after) {
  return after.at - before.at > LATE * 1000 * (before.every || UNSAID);
}

/** How much a counter has grown; one that is less than before has begun anew, with its gateway. */
export function growth(before, after, counter) {
  return after.up < before.up || after[counter] < before[counter]
    ? after[counter]
    : after[counter] - before[counter];
}

/** The growth of each bucket of a histogram. */
export function histogramGrowth(before, after, name) {
  const [earlier, later] = [before[name] ?? [], after[name] ?? []];
  const anew = after.up < before.up || earlier.some((count, n) => (later[n] ?? 0) < count);
  return later.map((count, n) => (anew ? count : count - (earlier[n] ?? 0)));
}
