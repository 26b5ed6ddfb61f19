/**
 * The SDK's browser build in Chromium, on pages of other origins than the gateway: what `page.js`
 * does, with CORS as browsers do it.
 */
import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, test } from 'node:test'

import { Gateway, KEY } from '../gateway.js'
import { Chromium } from './chromium.js'

const FOREIGN = 'app.example'
const SOME = 'commands give their output, take input and are killed'

const at = (url, apiKey = KEY) => ({ apiUrl: url, sandboxUrl: url, apiKey })
const shared = at(process.env.COPPICE_TEST_URL)
const chromium = new Chromium()

before(() => chromium.start({ names: [FOREIGN] }))
after(() => chromium.stop())

test('in a page of localhost', { timeout: 90_000 }, async (t) => {
  const page = await chromium.open('localhost', shared)
  assert.ok(page.names.includes(SOME))
  for (const name of page.names) {
    await t.test(name, async () => assert.equal(await page.run(name), null))
  }
  const directory = process.env.COPPICE_TEST_RECORDS
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, 'browser.json'), JSON.stringify(await page.counts()))
})

test('in a page of 127.0.0.1', { timeout: 60_000 }, async () => {
  const page = await chromium.open('127.0.0.1', shared)
  assert.equal(await page.run(SOME), null)
})

test('a page of elsewhere needs a key', { timeout: 60_000 }, async (t) => {
  const key = `e2b_${'1'.repeat(40)}`
  const guarded = new Gateway(['--network', 'none'], { COPPICE_API_KEYS: key })
  t.after(() => guarded.remove())
  await guarded.start()
  const outcome = async (opts) => (await chromium.open(FOREIGN, opts)).run(SOME)
  assert.equal(await outcome(at(guarded.url, key)), null)
  assert.match(await outcome(at(guarded.url, KEY)), /AuthenticationError/)
  assert.match(await outcome(shared), /TypeError: Failed to fetch/)
})
