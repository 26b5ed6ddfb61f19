// `node month.js DIRECTORY`: a recording of 30 days at an interval of 30 seconds, of a gateway that
// always has five sandboxes and none for longer than ten minutes, begins anew each day and is away
// for an hour each week.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

const [directory] = process.argv.slice(2);
const EVERY = 30;
const DAY = 86_400;
const BEGIN = Date.UTC(2026, 9, 24);
const id = (number) => (number * 2654435761).toString(16).padStart(12, "0").slice(-12);

for (let day = 0; day < 30; day += 1) {
  const lines = [];
  for (let up = 0; up < DAY; up += EVERY) {
    if (day % 7 === 3 && up > 40_000 && up < 43_600) continue;
    const turn = Math.floor((day * DAY + up) / 600);
    const created = 5 * Math.floor(up / 600);
    const boxes = Array.from({ length: 5 }, (_, n) => [
      id(turn * 5 + n),
      [(up * (n + 7)) % 1000 / 10, 40_000_000 + ((up * 7919 * (n + 1)) % 900_000_000)],
    ]);
    const execs = up * 2;
    lines.push(JSON.stringify({
      v: 1, at: BEGIN + (day * DAY + up) * 1000, every: EVERY, up, alive: 5, kernels: 5, created,
      killed: Math.max(0, created - 5), paused: Math.floor(up / 900), resumed: Math.floor(up / 900), execs,
      errors: Math.floor(up / 60), spawns: created, exits: Math.max(0, created - 5), create_ns: created * 5e7,
      exec_ns: execs * 2e7, create: [0, 0, created], exec: [execs - up, up - (up % 50), up % 50],
      pool: [3, 1, 2], boxes: Object.fromEntries(boxes),
    }));
  }
  const name = new Date(BEGIN + day * DAY * 1000).toISOString().slice(0, 10);
  writeFileSync(join(directory, `${name}.jsonl`), `${lines.join("\n")}\n`);
}
