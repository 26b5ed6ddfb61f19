import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { test } from "node:test";

import { links, page, toPage } from "../src/lib/links.js";
import { families } from "../src/lib/metrics.js";

const ROOT = resolve(import.meta.dirname, "../..");

function link(from, url) {
  const tree = { type: "root", children: [{ type: "link", url, children: [{ type: "text", value: "x" }] }] };
  const file = resolve(ROOT, from);
  links()(tree, { path: file, dirname: resolve(file, "..") });
  return tree.children[0].url ?? "none";
}

test("links lead from page to page, and to nothing where there is none", () => {
  const expected = [
    ["README.md", "docs/pool.md", "docs/pool.html"],
    ["README.md", "example", "none"],
    ["docs/metrics.md", "pool.md#sizes", "../docs/pool.html#sizes"],
    ["docs/metrics.md", "../README.md", "../index.html"],
    ["docs/profiles/data-plane.md", "../bench.md", "../../docs/bench.html"],
    ["docs/metrics.md", "../../../etc/passwd", "none"],
    ["docs/metrics.md", "https://example.com/a.md", "https://example.com/a.md"],
    ["docs/metrics.md", "#whose-word", "#whose-word"],
  ];
  for (const [from, url, there] of expected) assert.equal(link(from, url), there, `${from} ${url}`);
});

test("pages know each other by relative links", () => {
  assert.equal(page(resolve(ROOT, "docs/profiles/data-plane.md")), "docs/profiles/data-plane.html");
  assert.equal(toPage("docs/profiles/data-plane.html", "metrics.html"), "../../metrics.html");
  assert.equal(toPage("index.html", "metrics.html"), "metrics.html");
});

test("the table of families has all of the document", async () => {
  const found = families(await readFile(resolve(ROOT, "docs/metrics.md"), "utf8"));
  const names = found.map(({ name }) => name);
  for (const name of [
    "uptime_seconds", "sandboxes_alive", "kernels_alive", "sandboxes_created_total",
    "sandboxes_killed_total", "sandboxes_paused_total", "sandboxes_resumed_total",
    "execute_requests_total", "execute_errors_total", "kernel_spawns_total", "kernel_exits_total",
    "sandbox_create_ns_sum", "execute_ns_sum",
  ]) {
    assert.ok(names.includes(`coppice_${name}`), name);
  }
  assert.ok(found.every(({ kind, meaning }) => /^(gauge|counter|histogram)$/.test(kind) && !meaning.includes("`")));
});
