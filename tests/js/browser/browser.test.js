/**
 * The SDK's browser build in Debian's Chromium, on a page of another origin than the gateway: what
 * `page.js` does, with CORS as browsers do it.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { build } from 'esbuild'
import { chromium } from 'playwright-core'

import { Gateway, KEY } from '../gateway.js'
import { publicMethods } from '../surface.js'

const CHROMIUM = process.env.COPPICE_TEST_CHROMIUM ?? '/usr/bin/chromium'
const QUIET = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
const FOREIGN = 'app.example'

// The SDK imports them and leaves them alone in a browser.
const withoutNode = {
  name: 'without-node',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:.*|fs|os|path|url|util|crypto|stream)$/ }, ({ path }) => ({ path, namespace: 'none' }))
    onLoad({ filter: /.*/, namespace: 'none' }, () => ({ contents: 'export default {}' }))
  },
}

const profile = mkdtempSync('/tmp/copchromium')
let server, context

before(async () => {
  const bundle = await build({
    entryPoints: [join(import.meta.dirname, 'page.js')],
    bundle: true,
    format: 'iife',
    platform: 'browser',
    write: false,
    plugins: [withoutNode],
  })
  server = createServer((request, response) => {
    const isScript = request.url === '/page.js'
    response.setHeader('Content-Type', isScript ? 'text/javascript' : 'text/html; charset=utf-8')
    response.end(isScript ? bundle.outputFiles[0].text : '<!doctype html><script src="/page.js"></script>')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    args: [...QUIET, `--host-resolver-rules=MAP ${FOREIGN} 127.0.0.1`],
  })
})

after(async () => {
  await context?.close()
  server?.close()
  rmSync(profile, { recursive: true, force: true })
})

/** A page of that host, with the tests in it. */
async function open(host, opts) {
  const page = await context.newPage()
  await page.goto(`http://${host}:${server.address().port}/`)
  await page.evaluate(([methods, opts]) => globalThis.page.start(methods, opts), [publicMethods(), opts])
  return page
}

const runIn = (page, name) => page.evaluate((name) => globalThis.page.run(name), name)

test('in a page of localhost', { timeout: 60_000 }, async (t) => {
  const url = process.env.COPPICE_TEST_URL
  const page = await open('localhost', { apiUrl: url, sandboxUrl: url, apiKey: KEY })
  const names = await page.evaluate(() => globalThis.page.names)
  assert.ok(names.length > 0)
  for (const name of names) {
    await t.test(name, async () => assert.equal(await runIn(page, name), null))
  }
  const directory = process.env.COPPICE_TEST_RECORDS
  const counts = await page.evaluate(() => globalThis.page.counts)
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, 'browser.json'), JSON.stringify(counts))
})

test('a page of elsewhere comes in with a key, and not without', { timeout: 60_000 }, async (t) => {
  const NAME = 'commands give their output, take input and are killed'
  const key = `e2b_${'1'.repeat(40)}`
  const own = new Gateway([], { COPPICE_API_KEYS: key })
  t.after(() => own.remove())
  await own.start()
  const guarded = { apiUrl: own.url, sandboxUrl: own.url }
  assert.equal(await runIn(await open(FOREIGN, { ...guarded, apiKey: key }), NAME), null)
  assert.match(await runIn(await open(FOREIGN, { ...guarded, apiKey: KEY }), NAME), /AuthenticationError/)
  const url = process.env.COPPICE_TEST_URL
  const keyless = { apiUrl: url, sandboxUrl: url, apiKey: KEY }
  assert.match(await runIn(await open(FOREIGN, keyless), NAME), /TypeError: Failed to fetch/)
})
