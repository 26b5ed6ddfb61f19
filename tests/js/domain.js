/**
 * A domain of our own: a certificate of a private authority for it and all names below it, and a
 * resolver that leads them here. Only a process with the resolver's file over its /etc/resolv.conf,
 * in a mount namespace of its own, asks it: the host stays as it is.
 */
import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'

import { BINARY, run } from './gateway.js'

const NAME = 'coppice.test'

export class Domain {
  directory = mkdtempSync('/tmp/copdomain')

  async start() {
    const listener = createServer().listen(0, '127.0.0.1')
    await once(listener, 'listening')
    this.port = listener.address().port
    listener.close()
    this.domain = `${NAME}:${this.port}`
    const { stdout } = await run(BINARY, ['tls', 'dev-ca', this.directory, '--domain', this.domain])
    this.ca = /NODE_EXTRA_CA_CERTS=(\S+)/.exec(stdout)[1]
    this.cert = /--tls-cert (\S+)/.exec(stdout)[1]
    this.flags = ['--domain', this.domain, '--tls-listen', `127.0.0.1:${this.port}`]
    this.flags.push('--tls-cert', this.cert, '--tls-key', /--tls-key (\S+)/.exec(stdout)[1])
    await this.#resolve()
    return this
  }

  async #resolve() {
    const resolver = `127.${randomInt(1, 255)}.${randomInt(255)}.53`
    this.resolvConf = join(this.directory, 'resolv.conf')
    writeFileSync(this.resolvConf, `nameserver ${resolver}\n`)
    const argv = [
      '--keep-in-foreground',
      '--conf-file=/dev/null',
      '--pid-file=',
      '--no-resolv',
      '--no-hosts',
    ]
    argv.push('--bind-interfaces', `--listen-address=${resolver}`, `--address=/${NAME}/127.0.0.1`)
    argv.push('--user=root', '--log-facility=-')
    this.dnsmasq = spawn('dnsmasq', argv, { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    for await (const block of this.dnsmasq.stderr) {
      said += block
      // It listens before it says that it has begun.
      if (/started/.test(said)) break
    }
    if (!/started/.test(said)) throw new Error(`no dnsmasq: ${said}`)
  }

  /** The words before a command that run it where the domain's names are known. */
  get prefix() {
    const script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    return ['unshare', '--mount', '--propagation', 'slave', 'sh', '-c', script, this.resolvConf]
  }

  /** What a client takes to find the gateway, and nothing else. */
  get env() {
    return { E2B_DOMAIN: this.domain, NODE_EXTRA_CA_CERTS: this.ca, COPPICE_TEST_CERT: this.cert }
  }

  async stop() {
    if (this.dnsmasq?.exitCode === null) {
      this.dnsmasq.kill()
      await once(this.dnsmasq, 'exit')
    }
    rmSync(this.directory, { recursive: true })
  }
}
