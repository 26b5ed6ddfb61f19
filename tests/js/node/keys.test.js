/** API keys: who may come in. */
import assert from 'node:assert/strict'

import { AuthenticationError, KEY, Sandbox, gatewayFor, test } from '../setup.js'

const [GOOD, OTHER, WRONG] = ['1', '2', '3'].map((digit) => `e2b_${digit.repeat(40)}`)

test('only a known key comes in', async (t) => {
  const own = await gatewayFor(t, [], { COPPICE_API_KEYS: `${GOOD},${OTHER}` })
  for (const apiKey of [GOOD, OTHER]) {
    const sandbox = await Sandbox.create({ ...own.opts, apiKey })
    assert.equal((await sandbox.commands.run('echo in')).stdout, 'in\n')
    assert.equal(await sandbox.kill(), true)
  }
  const { sandboxId } = await Sandbox.create({ ...own.opts, apiKey: GOOD })
  for (const apiKey of [WRONG, KEY, GOOD.slice(0, -1), `${GOOD}1`, GOOD.toUpperCase()]) {
    const opts = { ...own.opts, apiKey, validateApiKey: false }
    await assert.rejects(Sandbox.create(opts), AuthenticationError)
    await assert.rejects(Sandbox.connect(sandboxId, opts), AuthenticationError)
    await assert.rejects(Sandbox.kill(sandboxId, opts), AuthenticationError)
    await assert.rejects(Sandbox.list(opts).nextItems(), AuthenticationError)
  }
  assert.equal(await Sandbox.kill(sandboxId, { ...own.opts, apiKey: OTHER }), true)
})

test('no key at all is refused', async (t) => {
  const own = await gatewayFor(t)
  for (const key of ['', null]) {
    const answer = await fetch(
      `${own.url}/v2/sandboxes`,
      key === null ? {} : { headers: { 'X-API-Key': key } },
    )
    assert.equal(answer.status, 401)
    assert.equal((await answer.json()).code, 401)
  }
})
