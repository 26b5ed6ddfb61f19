/** Many sandboxes at once: all answer. That nothing stays is seen at the end of the run. */
import assert from 'node:assert/strict'

import { Sandbox, test } from '../setup.js'

const MANY = 30
const numbers = Array.from({ length: MANY }, (_, n) => n)

/** A handful of what a user does, with answers that only this sandbox can give. */
async function work({ commands, files }, n) {
  await files.write('who', `sandbox ${n}`)
  for (let turn = 0; turn < 3; turn++) {
    const done = await commands.run(`echo ${n}.${turn}; cat who`)
    assert.equal(done.stdout, `${n}.${turn}\nsandbox ${n}`)
  }
  await commands.run('sleep 300', { background: true, timeoutMs: 0 })
  assert.equal((await commands.list()).length, 1)
}

test('thirty sandboxes at once all answer', async (t) => {
  const made = await Promise.all(
    numbers.map((n) => Sandbox.create({ timeoutMs: 110_000, metadata: { n: `${n}` } })),
  )
  t.after(() => Promise.all(made.map(({ sandboxId }) => Sandbox.kill(sandboxId))))
  assert.equal(new Set(made.map(({ sandboxId }) => sandboxId)).size, MANY)
  await Promise.all(made.map(work))
  const killed = await Promise.all(made.map((sandbox) => sandbox.kill()))
  assert.ok(killed.every(Boolean))
  const running = await Promise.all(made.map((sandbox) => sandbox.isRunning()))
  assert.ok(!running.some(Boolean))
})

test('sandboxes are made and killed at once, again and again', async () => {
  for (let round = 0; round < 3; round++) {
    const killed = await Promise.all(
      numbers.slice(0, 10).map(async () => (await Sandbox.create({ timeoutMs: 60_000 })).kill()),
    )
    assert.ok(killed.every(Boolean))
  }
})
