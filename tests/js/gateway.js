/** A gateway under test: the real binary, with a port and a data directory of its own. */
import { execFile, spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync } from 'node:fs'
import { readFileSync, rmSync, symlinkSync, unlinkSync } from 'node:fs'
import { once } from 'node:events'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'

export const REPO = resolve(import.meta.dirname, '../..')
export const BINARY = resolve(REPO, process.env.COPPICE_BIN ?? 'target/release/coppice')
// All gateways of a run, and later runs, share what is named by its content.
export const TEMPLATES = join(REPO, 'target/e2e/templates')
export const KEY = `e2b_${'0'.repeat(40)}`

const STARTED_WITH = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(COPPICE|E2B|NODE_TEST)_/.test(name)),
)
STARTED_WITH.COPPICE_TEMPLATES = 'base'
// Whatever templates there are: what a test does not ask for is not there.
STARTED_WITH.COPPICE_POOL = 'base=0'

export const run = promisify(execFile)

export class Gateway {
  process = null
  listen = '127.0.0.1:0'

  constructor(flags = [], env = {}) {
    // Short: unix sockets below it have 104 bytes for their whole path.
    this.base = mkdtempSync('/tmp/cop')
    this.dataDir = join(this.base, 'd')
    this.flags = flags
    this.env = { ...STARTED_WITH, ...env }
    mkdirSync(this.dataDir, { mode: 0o700 })
    mkdirSync(TEMPLATES, { mode: 0o700, recursive: true })
    symlinkSync(TEMPLATES, join(this.dataDir, 'templates'))
  }

  /** Starts the process, on the address it had before if it had one, and waits until it serves. */
  async start(patience = 60_000) {
    const out = openSync(join(this.base, 'out'), 'w')
    const log = openSync(join(this.base, 'log'), 'a')
    const argv = ['serve', '--listen', this.listen, '--data-dir', this.dataDir, ...this.flags]
    this.process = spawn(BINARY, argv, { env: this.env, stdio: ['ignore', out, log] })
    this.ended = once(this.process, 'exit')
    closeSync(out)
    closeSync(log)
    const deadline = Date.now() + patience
    for (let address; !(address = this.#announced());) {
      if (this.process.exitCode !== null || Date.now() > deadline) {
        throw new Error(
          `no gateway: exit code ${this.process.exitCode}; its log ends\n${this.logTail()}`,
        )
      }
      await sleep(20)
    }
    this.listen = this.#announced()
    return this
  }

  #announced() {
    return /^listening on http:\/\/(\S+)\n/m.exec(readFileSync(join(this.base, 'out'), 'utf8'))?.[1]
  }

  logTail(lines = 60) {
    const log = join(this.base, 'log')
    return existsSync(log) ? readFileSync(log, 'utf8').split('\n').slice(-lines).join('\n') : ''
  }

  get url() {
    return `http://${this.listen}`
  }

  /** What points one call of the SDK at this gateway. */
  get opts() {
    return { apiUrl: this.url, sandboxUrl: this.url, apiKey: KEY }
  }

  /** A plain request with the API key. */
  fetch(path, { headers, json, ...options } = {}) {
    const body = json === undefined ? {} : { method: 'POST', body: JSON.stringify(json) }
    return fetch(this.url + path, {
      ...body,
      headers: { 'X-API-Key': KEY, 'Content-Type': 'application/json', ...headers },
      ...options,
    })
  }

  /** Ends the process; gives how many milliseconds that took. */
  async end(signal = 'SIGTERM') {
    if (this.process === null) return 0
    const asked = Date.now()
    this.process.kill(signal)
    const forced = setTimeout(() => this.process.kill('SIGKILL'), 30_000)
    await this.ended
    clearTimeout(forced)
    this.process = null
    return Date.now() - asked
  }

  /** Ends all sandboxes. */
  async down() {
    await run(BINARY, ['down', '--data-dir', this.dataDir], { env: this.env, timeout: 60_000 })
  }

  async remove() {
    await this.end()
    await this.down()
    unlinkSync(join(this.dataDir, 'templates'))
    rmSync(this.base, { recursive: true })
  }
}
