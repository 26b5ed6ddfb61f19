// The page of metrics, as it was built of the recording that RECORDING names (from the top of the
// repository; data/sample).

import assert from "node:assert/strict";
import { mkdir, readFile, readdir } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { before, test } from "node:test";

import { CHARTS, RANGES } from "../../src/lib/charts.js";
import { ROOT, open, usable } from "./chromium.js";

const RECORDING = resolve(ROOT, process.env.RECORDING ?? "data/sample");
const SHOTS = resolve(ROOT, "target/site");

let samples;
before(async () => {
  const names = (await readdir(RECORDING)).filter((name) => name.endsWith(".jsonl")).sort();
  const texts = await Promise.all(names.map((name) => readFile(resolve(RECORDING, name), "utf8")));
  samples = texts.join("").trim().split("\n").map((line) => JSON.parse(line));
  await mkdir(SHOTS, { recursive: true });
});

test("the page says all that was recorded", async (t) => {
  const page = await open("metrics.html", t);
  const boxes = new Set(samples.flatMap((sample) => Object.keys(sample.boxes ?? {})));
  const day = new Date(samples[0].at).toISOString().slice(0, 10);
  const extent = new RegExp(`^\\s*${samples.length} samples, from ${day} .*\\s${boxes.size} sandboxes\\.\\s*$`, "s");
  assert.match(await page.textContent("#extent"), extent);
  assert.equal(await page.locator("#bad").count(), 0);
  for (const { id, name } of CHARTS) {
    const section = page.locator(`section:has(#${id})`);
    assert.equal(await section.locator("h2").textContent(), name);
    assert.equal(await section.locator("figure:visible > svg").count(), 1, id);
    assert.ok((await section.locator("figure:visible > svg path").count()) > 0, id);
  }
  const named = await page.locator("section:has(#cpu) figure.all .legend li").allTextContents();
  assert.ok(named.length > 1 && named.every((text) => boxes.has(text.trim()) || /with less/.test(text)));
  const tracked = await page.locator("#tracked tbody th").allTextContents();
  assert.ok(tracked.includes("coppice_sandboxes_alive") && tracked.includes("coppice_execute_ns_sum"));
});

/** Lowest, mean, highest and last of each series of a chart, over all of the recording. */
async function figures(page, id) {
  const rows = page.locator(`section:has(#${id}) figure.all tbody tr`);
  const texts = await rows.evaluateAll((all) => all.map((row) => [...row.cells].map((cell) => cell.textContent)));
  return Object.fromEntries(texts.map(([name, ...told]) => [name, told]));
}

test("the figures of a chart are those of the recording", async (t) => {
  const page = await open("metrics.html", t);
  const most = (value) => String(Math.max(...samples.map(value)));
  const alive = await figures(page, "alive");
  assert.equal(alive.sandboxes[2], most(({ alive }) => alive));
  assert.equal(alive.kernels[2], most(({ kernels }) => kernels));
  assert.equal((await figures(page, "pool")).ready[2], most(({ pool }) => pool?.[2] ?? 0));
  const rates = { ...(await figures(page, "lifecycle")), ...(await figures(page, "execute")) };
  for (const [name, counter] of Object.entries({ create: "created", kill: "killed", requests: "execs", errors: "errors" })) {
    assert.equal(Number.parseFloat(rates[name][2]) > 0, samples.some((sample) => sample[counter] > 0), name);
  }
  for (const id of ["create-time", "execute-time"]) {
    const { p50, p95 } = await figures(page, id);
    assert.match(p50[2], /^[\d.]+ (µs|ms|s)$/);
    assert.match(p95[2], /^[\d.]+ (µs|ms|s)$/);
  }
});

test("on paper there is the whole recording, and nothing to choose", async (t) => {
  const page = await open("metrics.html", t);
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  assert.equal(await page.locator("figure.all:visible").count(), CHARTS.length);
  assert.equal(await page.locator("figure.range:visible").count(), CHARTS.length);
  const told = page.locator("figure.all tbody th");
  const seen = () => told.evaluateAll((all) => all.filter((one) => one.checkVisibility()).length);
  assert.equal(await seen(), await told.count());
  assert.ok(await page.locator("header").isHidden());
  assert.ok(await page.locator("fieldset").isHidden());
  const [ground] = await page.evaluate(() => [getComputedStyle(document.body).backgroundColor]);
  assert.equal(ground, "rgb(255, 255, 255)");
});

test("a gateway that was away is a gap, and one that began anew no fall below zero", async (t) => {
  const page = await open("metrics.html", t);
  const path = await page.locator("section:has(#lifecycle) figure.all > svg path").first().getAttribute("d");
  assert.ok(path.split("M").length > 2, path);
  const lowest = Math.max(...[...path.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map((one) => Number(one[1])));
  assert.equal(lowest, 194);
});

test("one range is shown, and the keyboard chooses it", async (t) => {
  const page = await open("metrics.html", t);
  await page.focus("#show-hour");
  for (const { id } of RANGES) {
    assert.equal(await page.locator("figure.range:visible").count(), CHARTS.length);
    assert.equal(await page.locator(`figure.${id}:visible`).count(), CHARTS.length);
    await page.keyboard.press("ArrowRight");
  }
});

test("values are told under the pointer and by arrow keys", async (t) => {
  const page = await open("metrics.html", t);
  const chart = page.locator("section:has(#alive) figure:visible > svg");
  const values = page.locator("section:has(#alive) figure:visible .values");
  await chart.hover();
  assert.match(await values.textContent(), /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\nsandboxes: \d/);
  await page.mouse.move(0, 0);
  assert.ok(await values.isHidden());
  await page.focus("#show-hour");
  await page.keyboard.press("Tab");
  await page.keyboard.press("End");
  const last = await values.textContent();
  await page.keyboard.press("ArrowLeft");
  assert.notEqual(await values.textContent(), last);
  await page.keyboard.press("Escape");
  assert.ok(await values.isHidden());
});

test("without JavaScript all of it is there but the values", async (t) => {
  const page = await open("metrics.html", t, { javaScriptEnabled: false });
  assert.equal(await page.locator("figure:visible > svg").count(), CHARTS.length);
  await page.locator("#show-all").check();
  assert.equal(await page.locator("figure.all:visible").count(), CHARTS.length);
});

test("it asks for nothing but itself, fits a phone, and can be used by all", (t) => usable("metrics.html", t));

test("pictures for who looks them over", async (t) => {
  for (const [name, options] of Object.entries({
    light: { colorScheme: "light" },
    dark: { colorScheme: "dark" },
    phone: { colorScheme: "light", viewport: { width: 390, height: 844 } },
  })) {
    const page = await open("metrics.html", t, options);
    await page.screenshot({ path: resolve(SHOTS, `${basename(RECORDING)}-${name}.png`), fullPage: true });
  }
});
