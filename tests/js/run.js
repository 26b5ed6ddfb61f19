/**
 * Runs the tests of this directory, as root, after `npm ci`: `node run.js [PART...] [FILE...]`. Parts
 * are `node`, `browser` and `tls`; a FILE is part of a test file's name.
 *
 * Each part has a gateway of its own, which must leave the host as it was. Which methods of the SDK
 * were seen to work is written down below `target/e2e/compat`. `COPPICE_BIN` names the binary if it
 * is not the release build.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { join } from 'node:path'

import { Domain } from './domain.js'
import { BINARY, Gateway, KEY, REPO } from './gateway.js'
import { assertBackTo, hostState } from './host_state.js'
import { summary } from './record.js'
import { VERSION, VERSION_WITH_CODE, codeMethods, publicMethods } from './surface.js'

const FIRST_BUILD = 600_000
const OVER_TLS = ['commands', 'files', 'interpreter', 'kill_during_run', 'pty', 'watch']
// Chromium gives up what is under way when a link appears on the host, as those of sandboxes do.
const NO_LINKS = ['--network', 'none']
const PARTS = {
  node: {
    record: {
      name: 'js',
      client: 'e2b (npm)',
      version: VERSION_WITH_CODE,
      methods: [...publicMethods(), ...codeMethods()],
    },
    files: testsIn('node'),
    atOnce: 3,
  },
  browser: {
    record: {
      name: 'browser',
      client: 'e2b (npm) in Chromium',
      version: VERSION,
      methods: publicMethods(),
    },
    files: testsIn('browser'),
    flags: NO_LINKS,
    atOnce: 1,
  },
  tls: {
    files: [...testsIn('tls'), ...OVER_TLS.map((name) => `node/${name}.test.js`)],
    flags: NO_LINKS,
    atOnce: 3,
  },
}

function testsIn(directory) {
  const names = readdirSync(join(import.meta.dirname, directory))
  return names.filter((name) => name.endsWith('.test.js')).map((name) => join(directory, name))
}

const asked = process.argv.slice(2)
const parts = Object.keys(PARTS).filter((part) => asked.includes(part))
const only = asked.filter((name) => !(name in PARTS))

/** Gives whether all tests of a part passed. */
async function runPart(part) {
  const { record, files, flags = [], atOnce } = PARTS[part]
  const domain = part === 'tls' ? new Domain() : null
  const records = mkdtempSync('/tmp/copr')
  let gateway
  try {
    await domain?.start()
    gateway = new Gateway([...flags, ...(domain?.flags ?? [])])
    const before = await hostState(gateway)
    await gateway.start(FIRST_BUILD)
    const argv = [
      ...(domain?.prefix ?? []),
      ...[process.execPath, '--test', `--test-concurrency=${atOnce}`, '--test-reporter=spec'],
      ...files.filter((file) => only.length === 0 || only.some((some) => file.includes(some))),
    ]
    const env = {
      ...gateway.env,
      ...(domain?.env ?? byUrl(gateway)),
      COPPICE_BIN: BINARY,
      COPPICE_TEST_RECORDS: records,
      COPPICE_TEST_PID: gateway.process.pid,
      COPPICE_TEST_URL: gateway.url,
      E2B_API_KEY: KEY,
    }
    const passed = await succeeds(argv, env)
    if (!passed) console.error(`end of the log of the gateway:\n${gateway.logTail()}`)
    await gateway.end()
    await gateway.down()
    // Of some of the tests neither would say much.
    if (only.length === 0) {
      await assertBackTo(before, gateway)
      if (record) writeRecord(record, records)
    }
    return passed
  } finally {
    await gateway?.remove()
    await domain?.stop()
    rmSync(records, { recursive: true })
  }
}

const byUrl = ({ url }) => ({ E2B_API_URL: url, E2B_SANDBOX_URL: url, E2B_VOLUME_API_URL: url })

async function succeeds([program, ...argv], env) {
  if (interrupted) return false
  const stdio = ['ignore', 'inherit', 'inherit']
  const tests = spawn(program, argv, { cwd: import.meta.dirname, stdio, env })
  interrupt = () => tests.kill()
  const [code] = await once(tests, 'exit')
  return code === 0
}

function writeRecord({ name, client, version, methods }, records) {
  const counted = readdirSync(records).map((name) => JSON.parse(readFileSync(join(records, name))))
  const directory = join(REPO, 'target/e2e/compat')
  mkdirSync(directory, { recursive: true })
  const text = JSON.stringify(summary(client, version, methods, counted), null, 1)
  writeFileSync(join(directory, `${name}.json`), `${text}\n`)
}

// What was begun is still put away.
let interrupt
let interrupted = false
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    interrupted = true
    interrupt?.()
  })
}

for (const part of parts.length ? parts : Object.keys(PARTS)) {
  if (interrupted || !(await runPart(part))) process.exitCode = 1
}
