// The other pages, whatever was recorded.

import assert from "node:assert/strict";
import { test } from "node:test";

import { open, usable } from "./chromium.js";

for (const name of ["index.html", "benchmark.html", "docs.html", "docs/metrics.html"]) {
  test(`${name} asks for nothing but itself, fits a phone, and can be used by all`, (t) => usable(name, t));
}

test("links lead to pages that are there", async (t) => {
  const page = await open("index.html", t);
  const seen = new Set();
  const ahead = [page.url()];
  while (ahead.length) {
    const url = ahead.pop().replace(/#.*/, "");
    if (seen.has(url) || !url.startsWith("file:")) continue;
    seen.add(url);
    await page.goto(url);
    ahead.push(...(await page.$$eval("a[href]", (links) => links.map((link) => link.href))));
  }
  assert.ok(seen.size > 10, `${seen.size}`);
});
