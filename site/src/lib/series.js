// Points of charts, made of a recording: as many as a picture has room for, and none where nothing is
// known.
//
// A series is a list of runs, a run a list of `[at, value]`: between runs there is a gap.

import { growth, histogramGrowth, isGap } from "./recording.js";

/** Points of one series at most. */
export const POINTS = 240;
/** Of quantiles, which take many events each. */
const WINDOWS = 60;
/** Upper bounds of the histograms' buckets (seconds); the last bucket has none. */
export const BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300];

/** The samples from `begin` on, and the number of the first. */
export function since(recording, begin) {
  const samples = recording.samples;
  let [low, high] = [0, samples.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (samples[middle].at < begin) low = middle + 1;
    else high = middle;
  }
  return { first: low, samples: samples.slice(low) };
}

/** A figure as it was: of several that share a point the highest, so that no peak is lost. */
export function gauge(samples, value) {
  const point = (group) => {
    const known = group.map(value).filter((one) => one !== null && one !== undefined);
    return known.length ? Math.max(...known) : null;
  };
  return runs(samples, POINTS, (group) => point(group.map(({ after }) => after)), true);
}

/** How fast a counter grew (per second). */
export function rate(samples, counter) {
  return runs(samples, POINTS, (group) => {
    let [grown, passed] = [0, 0];
    for (const { before, after } of group) {
      if (!before) continue;
      grown += growth(before, after, counter);
      passed += (after.at - before.at) / 1000;
    }
    return passed > 0 ? grown / passed : null;
  });
}

/** A quantile of what came between samples, by straight lines within buckets. */
export function quantile(samples, histogram, q) {
  return runs(samples, WINDOWS, (group) => {
    const counts = new Array(BOUNDS.length + 1).fill(0);
    for (const { before, after } of group) {
      if (!before) continue;
      histogramGrowth(before, after, histogram).forEach((count, n) => (counts[n] += count));
    }
    return quantileOf(counts, q);
  });
}

export function quantileOf(counts, q) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let left = q * total;
  for (let n = 0; n < counts.length; n += 1) {
    if (counts[n] > 0 && left <= counts[n]) {
      const low = n === 0 ? 0 : BOUNDS[n - 1];
      // Of what is beyond the last bound no more is known.
      const high = BOUNDS[n] ?? low;
      return low + (high - low) * (left / counts[n]);
    }
    left -= counts[n];
  }
  return BOUNDS.at(-1);
}

/** One series for each sandbox seen in the range, those with the highest figures first. */
export function perSandbox(recording, { first, samples }, figure, most) {
  const found = [];
  for (const [id, box] of recording.boxes) {
    if (box.numbers.at(-1) < first) continue;
    const values = new Map();
    let highest = -1;
    box.numbers.forEach((number, n) => {
      if (number < first || box[figure][n] === null) return;
      values.set(samples[number - first], box[figure][n]);
      highest = Math.max(highest, box[figure][n]);
    });
    if (values.size) found.push({ id, values, highest });
  }
  found.sort((a, b) => b.highest - a.highest || a.id.localeCompare(b.id));
  const shown = found.slice(0, most).map(({ id, values }) => ({
    name: id,
    runs: gauge(samples, (sample) => values.get(sample)),
  }));
  return { shown, left: found.length - shown.length };
}

/** Groups of samples that follow each other become points; gaps, and groups of no value, end a run. */
function runs(samples, most, point, alone = false) {
  if (samples.length === 0) return [];
  const [begin, end] = [samples[0].at, samples.at(-1).at];
  const width = samples.length <= most ? 0 : (end - begin) / most;
  const found = [];
  let [run, group, place] = [[], [], null];
  const flush = () => {
    if (group.length === 0) return;
    const value = point(group);
    // A rate has its point at the end of what it is of, as has the highest of several.
    if (value === null) close();
    else run.push([group.at(-1).after.at, value]);
    group = [];
  };
  const close = () => {
    if (run.length) found.push(run);
    run = [];
  };
  samples.forEach((after, n) => {
    const before = samples[n - 1];
    const gap = !before || isGap(before, after);
    const here = width ? Math.min(Math.floor((after.at - begin) / width), most - 1) : n;
    if (gap || here !== place) flush();
    if (gap) close();
    place = here;
    // The first after a gap has nothing to be compared with.
    if (!gap || alone) group.push({ before: gap ? null : before, after });
  });
  flush();
  close();
  return found;
}
