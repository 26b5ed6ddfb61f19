/** A sandbox that ends under its clients: what they get. */
import assert from 'node:assert/strict'

import {
  Sandbox,
  SandboxNotFoundError,
  TimeoutError,
  eventually,
  sandboxFor,
  test,
  within,
} from '../setup.js'
import { processesOf } from '../host_state.js'

const saysSo = (error) => {
  assert.ok(error instanceof TimeoutError, error)
  assert.match(error.message, /sandbox was killed or reached its end of life/)
  return true
}

const ENDS = {
  'a kill through the API': (sandbox) => Sandbox.kill(sandbox.sandboxId),
  'its deadline': (sandbox) => sandbox.setTimeout(1000),
}

for (const [what, end] of Object.entries(ENDS)) {
  test(`a running command tells that its sandbox has ended by ${what}`, async (t) => {
    const sandbox = await sandboxFor(t)
    const handle = await sandbox.commands.run('sleep 60', { background: true })
    const inFront = sandbox.commands.run('echo some; sleep 60')
    const both = Promise.all([
      assert.rejects(handle.wait(), saysSo),
      assert.rejects(inFront, saysSo),
    ])
    await eventually(async () => (await sandbox.commands.list()).length === 2)
    await end(sandbox)
    await within(20_000, both)
  })
}

test('a terminal tells it too', async (t) => {
  const sandbox = await sandboxFor(t)
  const handle = await sandbox.pty.create({ cols: 80, rows: 24, onData: () => {} })
  await sandbox.kill()
  await within(20_000, assert.rejects(handle.wait(), saysSo))
})

test('a download in flight fails', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.commands.run('head -c 300000000 /dev/zero > /tmp/big')
  const stream = (await sandbox.files.read('/tmp/big', { format: 'stream' })).getReader()
  await stream.read()
  await sandbox.kill()
  const rest = async () => {
    while (!(await stream.read()).done);
  }
  await within(20_000, assert.rejects(rest()))
})

test('the sandbox ends with its first process', async (t) => {
  const sandbox = await sandboxFor(t)
  const handle = await sandbox.commands.run('sleep 60', { background: true })
  const [envd] = processesOf(sandbox.sandboxId, 'envd')
  process.kill(envd, 'SIGKILL')
  await within(20_000, assert.rejects(handle.wait(), TimeoutError))
  await eventually(async () => !(await sandbox.isRunning()))
  await eventually(() => processesOf(sandbox.sandboxId).length === 0)
  assert.equal(await sandbox.kill(), false)
})

test('later calls say that the sandbox is gone', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.kill()
  for (const call of [
    () => sandbox.commands.run('true'),
    () => sandbox.commands.list(),
    () => sandbox.files.list('/'),
    () => sandbox.files.read('/etc/passwd'),
    () => sandbox.files.write('x', 'x'),
  ]) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof TimeoutError || error instanceof SandboxNotFoundError, error)
      return true
    })
  }
})
