/** Snapshots and forks, and pauses that keep the files alone. */
import assert from 'node:assert/strict'

import { Sandbox } from '../setup.js'
import { sandboxFor, test } from '../setup.js'

test('sandboxes are made from a snapshot, which is then deleted', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('note', 'kept')
  const unnamed = await sandbox.createSnapshot()
  const named = await Sandbox.createSnapshot(sandbox.sandboxId, { name: 'from-js:v1' })
  assert.deepEqual(named.names, ['from-js:v1'])
  const ids = (infos) => infos.map((info) => info.snapshotId)
  assert.deepEqual(ids(await sandbox.listSnapshots().nextItems()), ids([named, unnamed]))
  const { sandboxId } = sandbox
  assert.deepEqual(ids(await Sandbox.listSnapshots({ sandboxId }).nextItems()), ids([named, unnamed]))
  for (const { snapshotId } of [unnamed, named]) {
    const made = await Sandbox.create(snapshotId)
    t.after(() => made.kill())
    assert.equal(await made.files.read('note'), 'kept')
    await assert.rejects(Sandbox.deleteSnapshot(snapshotId), /^SandboxError: 400/)
    await made.kill()
    assert.equal(await Sandbox.deleteSnapshot(snapshotId), true)
    assert.equal(await Sandbox.deleteSnapshot(snapshotId), false)
  }
})

test('forks have the files and go their own ways', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('note', 'kept')
  const forks = [...(await sandbox.fork({ count: 2 })), ...(await Sandbox.fork(sandbox.sandboxId))]
  t.after(() => Promise.all(forks.map((fork) => fork.kill())))
  assert.equal(forks.length, 3)
  for (const [n, fork] of forks.entries()) {
    assert.equal(await fork.files.read('note'), 'kept')
    await fork.files.write('note', `${n}`)
  }
  assert.equal(await sandbox.files.read('note'), 'kept')
})

test('a pause without memory keeps the files', async (t) => {
  const sandbox = await sandboxFor(t, { envs: { MINE: 'yes' } })
  const sleeping = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  const ended = assert.rejects(sleeping.wait())
  await sandbox.files.write('note', 'kept')
  assert.equal(await sandbox.pause({ keepMemory: false }), true)
  await ended
  await sandbox.connect()
  assert.equal(await sandbox.files.read('note'), 'kept')
  assert.equal((await sandbox.commands.run('echo $MINE')).stdout, 'yes\n')
  assert.deepEqual(await sandbox.commands.list(), [])
})
