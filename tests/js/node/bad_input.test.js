/** What clients must not send: the right error, and nothing created. */
import assert from 'node:assert/strict'

import {
  InvalidArgumentError,
  NotFoundError,
  Sandbox,
  SandboxError,
  gateway,
  sandboxFor,
  test,
} from '../setup.js'

const refused =
  (status, ...words) =>
  (error) => {
    assert.ok(error instanceof SandboxError, error)
    assert.equal(error.statusCode, status, error.message)
    for (const word of words) assert.ok(error.message.includes(word), error.message)
    return true
  }

test('creates that cannot be are refused by what is wrong', async () => {
  const metadata = { run: crypto.randomUUID() }
  const create = (opts) => Sandbox.create({ metadata, ...opts })
  for (const timeoutMs of [-1000, 10 ** 16]) {
    await assert.rejects(create({ timeoutMs }), refused(400))
  }
  for (const envs of [{ 'A=B': 'x' }, { '': 'x' }, { 'NUL\0': 'x' }, { A: 5 }]) {
    await assert.rejects(create({ envs }), refused(400))
  }
  await assert.rejects(create({ metadata: { a: 1 } }), refused(400))
  for (const name of ['no-such-template', 'base:no-such-tag']) {
    await assert.rejects(Sandbox.create(name, { metadata }), refused(404, name.split(':').at(-1)))
  }
  await assert.rejects(Sandbox.create('../base', { metadata }), SandboxError)
  await assert.rejects(create({ metadata: { a: 'x'.repeat(20 << 20) } }))
  assert.deepEqual(await Sandbox.list({ query: { metadata } }).nextItems(), [])
})

test('what is not honoured yet is refused by name', async () => {
  for (const [opts, field] of [
    [{ network: { rules: { 'a.test': [{ transform: { headers: { A: '1' } } }] } } }, 'network'],
    [{ network: { egressProxy: { address: '192.0.2.1:1080' } } }, 'network'],
    [{ volumeMounts: { '/v': 'v' } }, 'volumeMounts'],
  ]) {
    await assert.rejects(Sandbox.create(opts), refused(400, field))
  }
})

test('bad listings are refused', async () => {
  for (const opts of [
    { limit: 101 },
    { limit: -1 },
    { nextToken: 'garbage' },
    { order: 'sideways' },
  ]) {
    await assert.rejects(Sandbox.list(opts).nextItems(), refused(400))
  }
  await assert.rejects(Sandbox.list({ query: { state: ['sleeping'] } }).nextItems(), refused(400))
})

test('an id that is none finds nothing', async () => {
  for (const id of ['UPPER', 'a.b', 'a b', 'ü', 'a'.repeat(3000), '0'.repeat(32)]) {
    await assert.rejects(Sandbox.getInfo(id), SandboxError)
    await assert.rejects(Sandbox.connect(id), SandboxError)
    await assert.rejects(Sandbox.setTimeout(id, 1000), SandboxError)
  }
})

test('a bad timeout leaves the deadline alone', async (t) => {
  const sandbox = await sandboxFor(t)
  const { endAt } = await sandbox.getInfo()
  await assert.rejects(sandbox.setTimeout(-1000), refused(400))
  await assert.rejects(sandbox.setTimeout(10 ** 16), refused(400))
  await assert.rejects(sandbox.connect({ timeoutMs: 10 ** 16 }), refused(400))
  assert.deepEqual((await sandbox.getInfo()).endAt, endAt)
})

test('what a process cannot be given is refused', async (t) => {
  const { commands, files, pty } = await sandboxFor(t)
  await assert.rejects(commands.run('true', { envs: { A: 'NUL\0' } }), InvalidArgumentError)
  await assert.rejects(commands.sendStdin(987654, 'x'), NotFoundError)
  await assert.rejects(pty.resize(987654, { cols: 1, rows: 1 }), NotFoundError)
  await assert.rejects(files.list('nul\0'), SandboxError)
  await assert.rejects(files.write('nul\0', 'x'), SandboxError)
})

test('unknown routes, methods and bodies are told apart', async () => {
  const status = async (path, options) => {
    const answer = await gateway.fetch(path, options)
    assert.equal((await answer.json()).code, answer.status)
    return answer.status
  }
  assert.equal(await status('/nothing'), 404)
  assert.equal(await status('/v2/sandboxes', { method: 'DELETE' }), 405)
  assert.equal(await status('/v2/sandboxes', { method: 'POST', body: '{' }), 400)
  assert.equal(
    await status('/v2/sandboxes', { json: { templateID: 'base', somethingNew: 1 } }),
    400,
  )
})
