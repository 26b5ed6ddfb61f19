/** A page that finds the gateway by `domain` alone: every sandbox is an origin of its own to it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'

import { Chromium } from '../browser/chromium.js'
import { KEY } from '../gateway.js'

test('in a page, over TLS', { timeout: 90_000 }, async (t) => {
  const { E2B_DOMAIN: domain, COPPICE_TEST_CERT: certificate } = process.env
  const chromium = new Chromium()
  t.after(() => chromium.stop())
  await chromium.start({ names: [`*.${domain.split(':')[0]}`], certificate })
  const page = await chromium.open('localhost', { domain, apiKey: KEY })
  for (const name of page.names) {
    await t.test(name, async () => assert.equal(await page.run(name), null))
  }
  const { h2, ...others } = page.spoken(`.${domain}`)
  assert.deepEqual(others, {})
  const hosts = new Set(h2.map(({ host }) => host.split('-')[0]))
  assert.deepEqual(hosts, new Set([`api.${domain}`, '49983']))
})
