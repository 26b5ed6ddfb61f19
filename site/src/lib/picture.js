// A chart as the paths and marks of an SVG.

import { scaleLinear, scaleUtc } from "d3-scale";

export const WIDTH = 720;
export const HEIGHT = 220;
export const EDGE = { top: 10, right: 10, bottom: 26, left: 84 };

const COLOURS = 6;
// With its dashes a line is told from the others without its colour.
const DASHES = [undefined, "6 3", "2 3", "8 3 2 3", "12 4", "4 2 1 2"];

/** What the line of that number looks like; those beyond the colours there are are broad. */
export function look(number) {
  const n = number % COLOURS;
  const style = `stroke:var(--s${n})${DASHES[n] ? `;stroke-dasharray:${DASHES[n]}` : ""}`;
  return { style, class: number < COLOURS ? undefined : "broad" };
}

/** Where everything of one range of a chart is. */
export function picture({ shown, from, to }, unit) {
  const values = shown.flatMap(({ runs }) => runs.flat().map(([, value]) => value));
  const highest = Math.max(...values, 0) || 1;
  const x = scaleUtc([from, Math.max(to, from + 1000)], [EDGE.left, WIDTH - EDGE.right]);
  // Round numbers are of KiB or MiB, where these are said.
  const [size] = step(highest, unit);
  const scale = scaleLinear([0, highest / size], [HEIGHT - EDGE.bottom, EDGE.top]).nice(4);
  const y = (value) => scale(value / size);
  return {
    from,
    to: x.domain()[1].getTime(),
    top: scale.domain()[1] * size,
    lines: shown.map(({ name, runs }) => ({ name, path: runs.map((run) => path(run, x, y)).join("") })),
    times: x.ticks(6).map((at) => ({ at: x(at), text: time(at, to - from) })),
    levels: scale.ticks(4).map((value) => ({ at: scale(value), text: figure(value * size, unit) })),
  };
}

function path(run, x, y) {
  const points = run.map(([at, value]) => `${place(x(at))} ${place(y(value))}`);
  // A point by itself would not be seen: it gets a dash.
  return run.length === 1 ? `M${points[0]}m-3 0h6` : `M${points.join("L")}`;
}

const place = (number) => String(Math.round(number * 10) / 10);

function time(at, length) {
  const text = at.toISOString();
  return length > 36 * 3_600_000 ? text.slice(5, 10) : text.slice(11, length < 600_000 ? 19 : 16);
}

const STEPS = {
  B: [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]],
  s: [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]],
};

function step(value, unit) {
  return STEPS[unit]?.find(([size]) => value >= size) ?? [1, unit];
}

/** A value as people read it. */
export function figure(value, unit) {
  if (value === 0) return "0";
  const [size, name] = step(value, unit);
  const scaled = value / size;
  const digits = scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2;
  const text = Number(scaled.toFixed(digits)) || Number(scaled.toPrecision(1));
  return name && /^[/%]/.test(name) ? `${text}${name}` : `${text} ${name}`.trim();
}

/** What a series comes to, for who reads instead of looks. */
export function summary({ name, runs }, unit) {
  const values = runs.flat().map(([, value]) => value);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const [lowest, highest] = [Math.min(...values), Math.max(...values)];
  return { name, figures: [lowest, mean, highest, values.at(-1)].map((value) => figure(value, unit)) };
}
