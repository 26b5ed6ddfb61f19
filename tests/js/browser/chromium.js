/** Debian's Chromium, and pages in it with the tests of `page.js` and the SDK in them. */
import { X509Certificate, createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'

import { build } from 'esbuild'
import { chromium } from 'playwright-core'

import { publicMethods } from '../surface.js'

const CHROMIUM = '/usr/bin/chromium'
const QUIET = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

export class Chromium {
  profile = mkdtempSync('/tmp/copchromium')

  /** `names` (`*.` for all below one) lead here, and the key of `certificate` is trusted. */
  async start({ names = [], certificate } = {}) {
    const bundle = await bundled()
    this.server = createServer((request, response) => {
      const isScript = request.url === '/page.js'
      response.setHeader('Content-Type', isScript ? 'text/javascript' : 'text/html; charset=utf-8')
      response.end(isScript ? bundle : '<!doctype html><script src="/page.js"></script>')
    })
    this.server.listen(0, '127.0.0.1')
    await once(this.server, 'listening')
    const rules = names.map((name) => `MAP ${name} 127.0.0.1`)
    this.context = await chromium.launchPersistentContext(this.profile, {
      executablePath: CHROMIUM,
      headless: true,
      args: [
        ...QUIET,
        `--host-resolver-rules=${rules.join(', ')}`,
        ...(certificate ? [`--ignore-certificate-errors-spki-list=${keyOf(certificate)}`] : []),
      ],
    })
    return this
  }

  /** A page of that host whose SDK is given `opts`. */
  async open(host, opts) {
    const page = await this.context.newPage()
    const failed = []
    page.on('requestfailed', (request) => {
      failed.push(`${request.method()} ${request.url()}: ${request.failure()?.errorText}`)
    })
    // As the browser itself has it: a page is not told of other origins' connections.
    const spoken = []
    const devtools = await this.context.newCDPSession(page)
    devtools.on('Network.responseReceived', ({ response }) => {
      spoken.push({ host: new URL(response.url).host, protocol: response.protocol })
    })
    await devtools.send('Network.enable')
    await page.goto(`http://${host}:${this.server.address().port}/`)
    await page.evaluate(
      ([methods, opts]) => globalThis.page.start(methods, opts),
      [publicMethods(), opts],
    )
    return {
      names: await page.evaluate(() => globalThis.page.names),
      /** Gives what went wrong in a test, if anything did. */
      async run(name) {
        failed.length = 0
        const failure = await page.evaluate((name) => globalThis.page.run(name), name)
        return failure && [failure, ...failed].join('\n')
      },
      /** The answers of hosts below `suffix`, by the version of HTTP they came in. */
      spoken(suffix) {
        const ours = spoken.filter(({ host }) => host.endsWith(suffix))
        return Object.groupBy(ours, ({ protocol }) => protocol)
      },
      counts: () => page.evaluate(() => globalThis.page.counts),
    }
  }

  async stop() {
    await this.context?.close()
    this.server?.close()
    rmSync(this.profile, { recursive: true, force: true })
  }
}

// The SDK imports them and leaves them alone in a browser.
const withoutNode = {
  name: 'without-node',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^(node:.*|fs|os|path|url|util|crypto|stream)$/ }, ({ path }) => ({
      path,
      namespace: 'none',
    }))
    onLoad({ filter: /.*/, namespace: 'none' }, () => ({ contents: 'export default {}' }))
  },
}

async function bundled() {
  const { outputFiles } = await build({
    entryPoints: [join(import.meta.dirname, 'page.js')],
    bundle: true,
    format: 'iife',
    platform: 'browser',
    write: false,
    plugins: [withoutNode],
  })
  return outputFiles[0].text
}

function keyOf(certificate) {
  const { publicKey } = new X509Certificate(readFileSync(certificate))
  return createHash('sha256')
    .update(publicKey.export({ type: 'spki', format: 'der' }))
    .digest('base64')
}
