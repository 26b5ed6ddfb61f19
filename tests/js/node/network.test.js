/** What a sandbox may reach, and who may reach it. */
import assert from 'node:assert/strict'

import { Sandbox, gateway, sandboxFor, test } from '../setup.js'

const TOKEN = 'e2b-traffic-access-token'

test('a network is changed as a whole', async (t) => {
  const sandbox = await sandboxFor(t, { network: { denyOut: ['9.9.9.9'] } })
  const denied = async () => (await sandbox.getInfo()).network.denyOut
  assert.deepEqual(await denied(), ['9.9.9.9'])
  await sandbox.updateNetwork({ denyOut: ({ allTraffic }) => [allTraffic] })
  assert.deepEqual(await denied(), ['0.0.0.0/0'])
  await Sandbox.updateNetwork(sandbox.sandboxId, { allowInternetAccess: false })
  const info = await sandbox.getInfo()
  assert.equal(info.network, undefined)
  assert.equal(info.allowInternetAccess, false)
})

test('ports that are not public are reached with a token', async (t) => {
  const sandbox = await sandboxFor(t, { network: { allowPublicTraffic: false } })
  const ask = (headers) =>
    fetch(gateway.url, {
      headers: { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '8080', ...headers },
    })
  assert.equal((await ask({})).status, 403)
  const answer = await ask({ [TOKEN]: sandbox.trafficAccessToken })
  assert.equal((await answer.json()).message, 'The sandbox is running but port is not open')
})
