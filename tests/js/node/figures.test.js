/** What sandboxes have used. */
import assert from 'node:assert/strict'

import { Sandbox, SandboxNotFoundError, eventually, sandboxFor, test } from '../setup.js'

test('a sandbox tells what it has used', async (t) => {
  const sandbox = await sandboxFor(t)
  let figures = []
  await eventually(async () => (figures = await sandbox.getMetrics()).length > 0)
  const [first] = figures
  assert.equal(first.cpuCount, 2)
  assert.equal(first.memTotal, 2 ** 30)
  assert.ok(first.memUsed > 0 && first.memUsed < first.memTotal && first.memCache >= 0)
  assert.ok(first.cpuUsedPct >= 0 && first.diskTotal > 0 && first.diskUsed >= 0)
  const same = await Sandbox.getMetrics(sandbox.sandboxId, {
    start: first.timestamp,
    end: first.timestamp,
  })
  assert.deepEqual(same, [first])
  await sandbox.kill()
  await assert.rejects(Sandbox.getMetrics(sandbox.sandboxId), SandboxNotFoundError)
})
