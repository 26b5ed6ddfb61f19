/** The gateway comes and goes; its sandboxes stay. */
import assert from 'node:assert/strict'

import { Sandbox, eventually, gatewayFor, sleep, test, within } from '../setup.js'
import { processesOf } from '../host_state.js'

async function busySandbox(own, opts = {}) {
  const sandbox = await Sandbox.create({ timeoutMs: 300_000, ...opts, ...own.opts })
  await sandbox.files.write('note', 'kept')
  const ticking = 'while :; do date +%s.%N > /tmp/next; mv /tmp/next /tmp/tick; sleep 0.1; done'
  const handle = await sandbox.commands.run(ticking, { background: true, timeoutMs: 0 })
  await eventually(() => sandbox.files.exists('/tmp/tick'))
  return { sandbox, handle }
}

for (const signal of ['SIGKILL', 'SIGTERM']) {
  test(`sandboxes, their processes and files outlive a gateway ended by ${signal}`, async (t) => {
    const own = await gatewayFor(t)
    const { sandbox, handle } = await busySandbox(own, {
      metadata: { a: 'b' },
      envs: { MINE: 'yes' },
    })
    const info = await sandbox.getInfo()
    const cut = assert.rejects(handle.wait())
    assert.ok((await own.end(signal)) < 10_000)
    await within(10_000, cut)
    assert.ok(processesOf(sandbox.sandboxId, 'user').length > 0)
    await own.start()
    assert.equal(await sandbox.isRunning(), true)
    assert.deepEqual(await sandbox.getInfo(), info)
    assert.deepEqual(
      (await sandbox.commands.list()).map(({ pid }) => pid),
      [handle.pid],
    )
    assert.equal(await sandbox.files.read('note'), 'kept')
    const before = await sandbox.files.read('/tmp/tick')
    await eventually(async () => (await sandbox.files.read('/tmp/tick')) > before)
    assert.equal((await sandbox.commands.run('echo $MINE')).stdout, 'yes\n')
    const again = await Sandbox.connect(sandbox.sandboxId, own.opts)
    const other = await again.commands.connect(handle.pid)
    assert.equal(await other.kill(), true)
    assert.equal(await sandbox.kill(), true)
  })
}

test('a deadline that passed meanwhile is kept at the start', async (t) => {
  const own = await gatewayFor(t)
  const sandbox = await Sandbox.create({ timeoutMs: 2000, ...own.opts })
  await own.end('SIGKILL')
  await sleep(2500)
  assert.ok(processesOf(sandbox.sandboxId).length > 0)
  await own.start()
  await eventually(async () => !(await sandbox.isRunning()))
  await eventually(() => processesOf(sandbox.sandboxId).length === 0)
})

test('down ends all sandboxes, and those of another gateway stay', async (t) => {
  const [own, other] = [await gatewayFor(t), await gatewayFor(t)]
  const [mine, theirs] = [await busySandbox(own), await busySandbox(other)]
  await own.end('SIGKILL')
  await own.down()
  await eventually(() => processesOf(mine.sandbox.sandboxId).length === 0)
  assert.equal((await theirs.sandbox.commands.run('echo undisturbed')).stdout, 'undisturbed\n')
  await theirs.sandbox.kill()
  const later = await Sandbox.create(other.opts)
  assert.equal((await later.commands.run('echo still here')).stdout, 'still here\n')
})
