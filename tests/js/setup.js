/**
 * What every test file starts from: `test`, whose calls to the SDK are recorded, and sandboxes and
 * gateways that end with their test. `run.js` has started the gateway that most tests share.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test as nodeTest } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { Sandbox as CodeSandbox } from '@e2b/code-interpreter'
import * as e2b from 'e2b'

import { Gateway, KEY } from './gateway.js'
import { Calls, record } from './record.js'
import { codeMethods, publicMethods } from './surface.js'

export * from 'e2b'
export { CodeSandbox, KEY, sleep }

const { Sandbox } = e2b
const calls = new Calls()
const running = new AsyncLocalStorage()

const unconnected = new Sandbox({ sandboxId: 'none', envdVersion: '0.6.13', sandboxDomain: 'none' })
const classes = [...Object.values(e2b), CodeSandbox]
const seeds = [...classes, unconnected.files, unconnected.commands, unconnected.pty]
export const {
  defaultBuildLogger,
  getSignature,
  waitForFile,
  waitForPort,
  waitForProcess,
  waitForTimeout,
  waitForURL,
} = record([...publicMethods(), ...codeMethods()], seeds, e2b, {
  calls: () => running.getStore(),
  inside: (body) => running.run(undefined, body),
})

process.on('exit', () => {
  const directory = process.env.COPPICE_TEST_RECORDS
  if (!directory) return
  mkdirSync(directory, { recursive: true })
  writeFileSync(join(directory, `${process.pid}.json`), JSON.stringify(calls.counts))
})

export function test(name, body) {
  nodeTest(name, { timeout: 120_000 }, async (t) => {
    const made = []
    try {
      await running.run(made, () => body(t))
    } catch (error) {
      calls.settle(made, false)
      throw error
    }
    calls.settle(made, true)
  })
}

/** The gateway most tests share. */
export const gateway = {
  url: process.env.COPPICE_TEST_URL,
  pid: Number(process.env.COPPICE_TEST_PID),
  fetch: Gateway.prototype.fetch,
}

/** A sandbox that ends with the test, whatever became of it. */
export async function sandboxFor(t, opts = {}) {
  return endsWith(t, await Sandbox.create({ timeoutMs: 120_000, ...opts }), opts)
}

/** One that runs code, likewise. */
export async function interpreterFor(t, opts = {}) {
  return endsWith(t, await CodeSandbox.create({ timeoutMs: 120_000, ...opts }), opts)
}

function endsWith(t, sandbox, opts) {
  t.after(() => Sandbox.kill(sandbox.sandboxId, opts).catch(() => {}))
  return sandbox
}

/** A gateway of the test's own. The shared one has built its templates. */
export async function gatewayFor(t, flags, env) {
  const own = new Gateway(flags, env)
  t.after(() => own.remove())
  return own.start()
}

/** Waits until `condition()` holds and gives what it gave. */
export async function eventually(condition, patience = 20_000) {
  const deadline = Date.now() + patience
  for (let found; ; await sleep(30)) {
    if ((found = await condition())) return found
    if (Date.now() > deadline) throw new Error(`not so within ${patience} ms: ${condition}`)
  }
}

/** Rejects if `promise` takes longer than `patience`. */
export function within(patience, promise) {
  const late = sleep(patience, null, { ref: false }).then(() => {
    throw new Error(`not over within ${patience} ms`)
  })
  return Promise.race([promise, late])
}
