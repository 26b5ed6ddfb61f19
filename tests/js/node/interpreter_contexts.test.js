/** Contexts: made, listed, restarted and removed, and what runs in them meanwhile. */
import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { NotFoundError, Sandbox, SandboxError, TimeoutError } from '../setup.js'
import { CodeSandbox, interpreterFor, test, within } from '../setup.js'

let sandbox
before(async () => (sandbox = await CodeSandbox.create({ timeoutMs: 600_000 })))
after(() => sandbox?.kill())

const run = (code, opts) => sandbox.runCode(code, opts)
const ids = async () => (await sandbox.listCodeContexts()).map(({ id }) => id)

test('contexts have variables and a directory of their own', async () => {
  await run("where = 'default'")
  const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'Python' })
  assert.deepEqual([context.language, context.cwd], ['python', '/tmp'])
  assert.equal((await run('import os; os.getcwd()', { context })).text, '/tmp')
  assert.equal((await run('where', { context })).error.name, 'NameError')
  await run("where = 'own'", { context })
  assert.equal((await run('where')).text, 'default')
  assert.ok((await ids()).includes(context.id))

  await sandbox.restartCodeContext(context)
  assert.equal((await run('where', { context })).error.name, 'NameError')
  assert.equal((await run('import os; os.getcwd()', { context })).text, '/home/user')

  await sandbox.removeCodeContext(context.id)
  assert.ok(!(await ids()).includes(context.id))
  for (const call of [
    // Refused, it leaves the SDK's timer behind, which keeps the process: a short one.
    () => run('1', { context, requestTimeoutMs: 5000 }),
    () => sandbox.restartCodeContext(context),
    () => sandbox.removeCodeContext(context),
  ]) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof NotFoundError, error)
      assert.match(error.message, new RegExp(`Context ${context.id} not found`))
      return true
    })
  }
})

test('the default ones are there from the beginning, and are those that run', async (t) => {
  const own = await interpreterFor(t)
  const contexts = await own.listCodeContexts()
  assert.deepEqual(
    contexts.map(({ language, cwd }) => [language, cwd]),
    [
      ['python', '/home/user'],
      ['javascript', '/home/user'],
    ],
  )
  const [python, javascript] = contexts
  await own.runCode('x = 1')
  assert.equal((await own.runCode('x + 1', { context: python })).text, '2')
  await own.runCode('const y = 2', { language: 'js' })
  assert.equal((await own.runCode('y + 1', { context: javascript })).text, '3')
  assert.equal((await own.listCodeContexts()).length, 2)
})

test('a context that cannot be is told and leaves nothing', async () => {
  const before = await ids()
  for (const wanted of [{ cwd: '/nowhere' }, { cwd: '/etc/passwd' }, { language: 'cobol' }]) {
    await assert.rejects(sandbox.createCodeContext(wanted), SandboxError)
  }
  assert.deepEqual(await ids(), before)
})

test('two contexts run at the same time, and one does one thing at a time', async () => {
  const contexts = await Promise.all([sandbox.createCodeContext(), sandbox.createCodeContext()])
  // Each waits for the other.
  const meet = (own, other) => `
import pathlib, time
pathlib.Path("/tmp/${own}").touch()
for _ in range(2000):
    if pathlib.Path("/tmp/${other}").exists(): break
    time.sleep(0.01)
pathlib.Path("/tmp/${other}").exists()
`
  const met = await Promise.all([
    run(meet('a', 'b'), { context: contexts[0] }),
    run(meet('b', 'a'), { context: contexts[1] }),
  ])
  assert.deepEqual(
    met.map(({ text }) => text),
    ['True', 'True'],
  )

  const [context] = contexts
  await run('busy = n = 0', { context })
  const code = 'assert not busy\nbusy = 1\nimport time; time.sleep(0.02)\nbusy = 0\nn += 1\nn'
  const many = await Promise.all(Array.from({ length: 20 }, () => run(code, { context })))
  assert.deepEqual(
    many.map(({ text }) => Number(text)).sort((a, b) => a - b),
    Array.from({ length: 20 }, (_, n) => n + 1),
  )
  await Promise.all(contexts.map((context) => sandbox.removeCodeContext(context)))
})

/** Code that runs already: `outcome` is how it ends. */
async function running(target, context) {
  let outcome
  const code = "import time; print('in it', flush=True); time.sleep(60)"
  await new Promise((begun, failed) => {
    outcome = target.runCode(code, { context, timeoutMs: 90_000, onStdout: begun })
    outcome.catch(failed)
  })
  // In an object: a promise would be waited for.
  return { outcome }
}

test('a restart ends what runs, and what waits goes on', async () => {
  const context = await sandbox.createCodeContext()
  const { outcome } = await running(sandbox, context)
  const waiting = run("'waited'", { context })
  await sandbox.restartCodeContext(context)
  const { error } = await within(10_000, outcome)
  assert.deepEqual([error.name, error.value], ['ContextRestarting', 'Context was restarted'])
  assert.equal((await within(30_000, waiting)).text, 'waited')
  await sandbox.removeCodeContext(context)
})

test('a removal ends what runs', async () => {
  const context = await sandbox.createCodeContext()
  const { outcome } = await running(sandbox, context)
  await sandbox.removeCodeContext(context)
  const { error } = await within(10_000, outcome)
  assert.equal(error.name, 'UnexpectedEndOfExecution')
})

test('a sandbox that is killed ends what runs in it', async (t) => {
  const own = await interpreterFor(t)
  const { outcome } = await running(own)
  const told = assert.rejects(outcome, (error) => {
    assert.ok(error instanceof TimeoutError, error)
    assert.match(error.message, /killed while the request was in progress/)
    return true
  })
  await Sandbox.kill(own.sandboxId)
  await within(10_000, told)
})
