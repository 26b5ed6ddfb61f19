/**
 * Runs the tests of this directory: `node run.js [node] [browser]`, as root, after `npm ci`.
 *
 * Each part has a gateway of its own, which must leave the host as it was, and writes down which
 * methods of the SDK were seen to work: `target/e2e/compat/<part>.json`. `COPPICE_BIN` names the
 * binary if it is not the release build.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { once } from 'node:events'
import { join } from 'node:path'

import { Gateway, KEY, REPO } from './gateway.js'
import { assertBackTo, hostState } from './host_state.js'
import { summary } from './record.js'
import { VERSION, publicMethods } from './surface.js'

const FIRST_BUILD = 600_000
const PARTS = {
  node: { client: 'e2b (npm)', at_once: 3 },
  browser: { client: 'e2b (npm) in Chromium', at_once: 1 },
}

/** Gives whether all tests of a part passed. */
async function runPart(part) {
  const { client, at_once } = PARTS[part]
  const files = readdirSync(join(import.meta.dirname, part)).filter((name) => name.endsWith('.test.js'))
  const records = mkdtempSync('/tmp/copr')
  const gateway = new Gateway()
  try {
    const before = await hostState(gateway)
    await gateway.start(FIRST_BUILD)
    const argv = ['--test', `--test-concurrency=${at_once}`, '--test-reporter=spec']
    const tests = spawn(process.execPath, [...argv, ...files.map((name) => join(part, name))], {
      cwd: import.meta.dirname,
      stdio: ['ignore', 'inherit', 'inherit'],
      env: {
        ...gateway.env,
        COPPICE_BIN: process.env.COPPICE_BIN ?? '',
        COPPICE_TEST_RECORDS: records,
        COPPICE_TEST_PID: gateway.process.pid,
        E2B_API_URL: gateway.url,
        E2B_SANDBOX_URL: gateway.url,
        E2B_VOLUME_API_URL: gateway.url,
        E2B_API_KEY: KEY,
      },
    })
    const [code] = await once(tests, 'exit')
    if (code !== 0) console.error(`end of the log of the gateway:\n${gateway.logTail()}`)
    await gateway.end()
    await gateway.down()
    await assertBackTo(before, gateway)
    writeRecord(part, client, records)
    return code === 0
  } finally {
    await gateway.remove()
    rmSync(records, { recursive: true })
  }
}

function writeRecord(part, client, records) {
  const counted = readdirSync(records).map((name) => JSON.parse(readFileSync(join(records, name))))
  const directory = join(REPO, 'target/e2e/compat')
  mkdirSync(directory, { recursive: true })
  const text = JSON.stringify(summary(client, VERSION, publicMethods(), counted), null, 1)
  writeFileSync(join(directory, `${part}.json`), `${text}\n`)
}

const parts = process.argv.slice(2)
for (const part of parts.length ? parts : Object.keys(PARTS)) {
  if (!(await runPart(part))) process.exitCode = 1
}
