/**
 * The programs in `example/`, as a user runs them. They take code-interpreter-v1, which the Python
 * tests before these have built.
 */
import assert from 'node:assert/strict'
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'

import { REPO, run } from '../gateway.js'

const SAID = {
  '01-hello.mjs': '45\nuser\nReferenceError\n',
  '02-files.mjs': '3 8 12\nJan,3,3\n',
  '03-streaming.mjs': 'step 0\nstep 1\nstep 2\n',
  '04-charts.mjs': 'pie Drinks\ntea 90\ncoffee 270\n',
}

// Where they find the packages that a user has installed.
const home = mkdtempSync(join(import.meta.dirname, '../node_modules/.example-'))
after(() => rmSync(home, { recursive: true }))
cpSync(join(REPO, 'example'), home, { recursive: true })

for (const [program, said] of Object.entries(SAID)) {
  test(`${program} does what it says`, { timeout: 60_000 }, async () => {
    const { stdout } = await run(process.execPath, [join(home, program)])
    assert.equal(stdout, said)
  })
}

test('every example is run', () => {
  const programs = readdirSync(home).filter((name) => name.endsWith('.mjs'))
  assert.deepEqual(programs.sort(), Object.keys(SAID))
})
