/** Pausing sandboxes and having them go on. */
import assert from 'node:assert/strict'

import { Sandbox, SandboxError, SandboxNotFoundError } from '../setup.js'
import { eventually, interpreterFor, sandboxFor, test } from '../setup.js'

test('a paused sandbox goes on where it was', async (t) => {
  const sandbox = await sandboxFor(t)
  const sleeping = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  await sandbox.files.write('note', 'kept')
  assert.equal(await sandbox.pause(), true)
  assert.equal(await sandbox.isRunning(), false)
  const paused = await sandbox.getInfo()
  assert.equal(paused.state, 'paused')
  assert.equal(await Sandbox.pause(sandbox.sandboxId), false)
  await assert.rejects(sandbox.setTimeout(60_000), SandboxError)

  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal((await sandbox.getInfo()).state, 'running')
  assert.equal(await again.files.read('note'), 'kept')
  assert.deepEqual((await again.commands.list()).map((process) => process.pid), [sleeping.pid])
  // Who was there before need not connect anew.
  assert.equal((await sandbox.commands.run('echo up')).stdout, 'up\n')
})

test('an open stream ends when its sandbox is paused', async (t) => {
  const sandbox = await sandboxFor(t)
  const sleeping = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  const ended = assert.rejects(sleeping.wait())
  assert.equal(await sandbox.betaPause(), true)
  await ended
  assert.equal(await Sandbox.betaPause(sandbox.sandboxId), false)
})

test('paused at its deadline, and woken by whoever comes', async (t) => {
  const lifecycle = { onTimeout: 'pause', autoResume: true }
  const sandbox = await sandboxFor(t, { timeoutMs: 1000, lifecycle })
  const state = async () => (await sandbox.getInfo()).state
  await eventually(async () => (await state()) === 'paused')
  assert.deepEqual((await sandbox.getInfo()).lifecycle, lifecycle)
  assert.equal((await sandbox.commands.run('echo woken')).stdout, 'woken\n')
})

test('what has ended is neither paused nor resumed', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.pause()
  assert.equal(await sandbox.kill(), true)
  await assert.rejects(Sandbox.pause(sandbox.sandboxId), SandboxNotFoundError)
  await assert.rejects(Sandbox.connect(sandbox.sandboxId), SandboxNotFoundError)
})

test('the interpreter keeps its variables', async (t) => {
  const sandbox = await interpreterFor(t)
  await sandbox.runCode('kept = [1, 2]')
  await sandbox.pause()
  await sandbox.connect()
  assert.equal((await sandbox.runCode('kept + [3]')).text, '[1, 2, 3]')
})
