// Debian's Chromium, and the pages as they were built, opened from the disk.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { after, before } from "node:test";
import { pathToFileURL } from "node:url";

import { chromium } from "playwright-core";

export const ROOT = resolve(import.meta.dirname, "../../..");
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox"],
  });
});
after(() => browser?.close());

export async function open(name, t, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  page.asked = [];
  page.on("request", (request) => page.asked.push(request.url()));
  page.on("pageerror", (error) => assert.fail(error));
  await page.goto(pathToFileURL(resolve(ROOT, "site/dist", name)).href);
  return page;
}

/** Whether it can be used by all, on a phone, by day and by night, and needs nothing but itself. */
export async function usable(name, t) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await open(name, t, { colorScheme, viewport: { width: 390, height: 844 } });
    assert.deepEqual(page.asked.filter((url) => !url.startsWith("data:")).length, 1);
    const [wanted, there] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(wanted <= there, `${wanted} of ${there}`);
    await page.addScriptTag({ path: AXE });
    const { violations } = await page.evaluate(() => window.axe.run());
    assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html.slice(0, 200))]), []);
  }
}
