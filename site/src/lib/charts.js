// What the page of metrics shows: each chart's name, unit and series.

import { gauge, perSandbox, quantile, rate, since } from "./series.js";

/** Lines of one chart of sandboxes. */
const SANDBOXES = 12;

const HOUR = 3_600_000;
export const RANGES = [
  { id: "hour", name: "Last hour", length: HOUR },
  { id: "day", name: "Last day", length: 24 * HOUR },
  { id: "week", name: "Last week", length: 7 * 24 * HOUR },
  { id: "all", name: "All", length: Infinity },
];

const gauges = (...named) => ({ samples }) => ({
  shown: named.map(([name, value]) => ({ name, runs: gauge(samples, value) })),
});
const rates = (...named) => ({ samples }) => ({
  shown: named.map(([name, counter]) => ({ name, runs: rate(samples, counter) })),
});
const quantiles = (histogram) => ({ samples }) => ({
  shown: [["p50", 0.5], ["p95", 0.95]].map(([name, q]) => ({
    name,
    runs: quantile(samples, histogram, q),
  })),
});
const boxes = (figure) => (range, recording) => perSandbox(recording, range, figure, SANDBOXES);

export const CHARTS = [
  {
    id: "alive",
    name: "Alive state",
    about: "sandboxes + kernels currently in the registry",
    unit: "",
    series: gauges(["sandboxes", ({ alive }) => alive], ["kernels", ({ kernels }) => kernels]),
  },
  {
    id: "lifecycle",
    name: "Sandbox lifecycle",
    about: "create / kill / pause / resume — rate per second",
    unit: "/s",
    series: rates(["create", "created"], ["kill", "killed"], ["pause", "paused"], ["resume", "resumed"]),
  },
  {
    id: "execute",
    name: "Execution path",
    about: "/execute requests + errors — rate per second",
    unit: "/s",
    series: rates(["requests", "execs"], ["errors", "errors"]),
  },
  {
    id: "cpu",
    name: "Per-sandbox CPU",
    about:
      "coppice_sandbox_cpu_percent — one line per live sandbox, each labeled with the first 12 hex chars of its id; 100 = one full core",
    unit: "%",
    series: boxes("cpu"),
  },
  {
    id: "memory",
    name: "Per-sandbox memory",
    about: "coppice_sandbox_memory_bytes — one line per live sandbox",
    unit: "B",
    series: boxes("memory"),
  },
  {
    id: "create-time",
    name: "Time to create a sandbox",
    about: "coppice_sandbox_create_duration_seconds — median and 95th percentile",
    unit: "s",
    series: quantiles("create"),
  },
  {
    id: "execute-time",
    name: "Time to execute",
    about: "coppice_execute_duration_seconds — median and 95th percentile",
    unit: "s",
    series: quantiles("exec"),
  },
  {
    id: "pool",
    name: "Warm pool",
    about: "sandboxes of the pool: all, taken, and ready",
    unit: "",
    series: gauges(
      ["all", ({ pool }) => pool?.[0]],
      ["taken", ({ pool }) => pool?.[1]],
      ["ready", ({ pool }) => pool?.[2]],
    ),
  },
];

/** The chart's series in each of the ranges, which end with the recording. */
export function drawn(chart, recording) {
  return RANGES.map((range) => {
    const from = Math.max(recording.end - range.length, recording.samples[0]?.at ?? 0);
    const { shown, left = 0 } = chart.series(since(recording, from), recording);
    return { ...range, from, to: recording.end, left, shown: shown.filter(({ runs }) => runs.length) };
  });
}
