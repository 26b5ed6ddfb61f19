/** Servers in a sandbox, reached by the host the SDK names and by the headers it sends. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { buffer } from 'node:stream/consumers'

import { WebSocket } from 'undici'

import { eventually, gateway, sandboxFor, test, within } from '../setup.js'

const WEB = readFileSync(new URL('../../python/inside/web.py', import.meta.url), 'utf8')
const { hostname, port: gatewayPort } = new URL(gateway.url)

const ROUTES = {
  headers: (sandbox, port = 8080) => ({
    'E2b-Sandbox-Id': sandbox.sandboxId,
    'E2b-Sandbox-Port': `${port}`,
  }),
  host: (sandbox, port = 8080) => ({ Host: sandbox.getHost(port) }),
}

/** A sandbox with a web server on a port of its loopback. */
async function webFor(t) {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('/tmp/web.py', WEB)
  await sandbox.commands.run('python3 /tmp/web.py 8080', { background: true, timeoutMs: 0 })
  await sandbox.commands.run(
    'until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; do sleep 0.05; done',
  )
  return sandbox
}

/** One request; `fetch` would not send a Host of ours. */
async function ask(headers, path = '/', { method = 'GET', body } = {}) {
  const answer = await new Promise((resolve, reject) => {
    const asked = request(
      { hostname, port: gatewayPort, path, method, headers, agent: false },
      resolve,
    )
    asked.on('error', reject)
    asked.end(body)
  })
  return { status: answer.statusCode, headers: answer.headers, text: `${await buffer(answer)}` }
}

for (const [by, route] of Object.entries(ROUTES)) {
  test(`a server on the loopback is reached by ${by}`, async (t) => {
    const web = await webFor(t)
    const told = await ask({ ...route(web), 'X-Mine': 'kept' }, '/a%2Fb/%C3%BC?q=1&q=%20')
    const { path, headers } = JSON.parse(told.text)
    assert.deepEqual(
      [told.status, path, headers['x-mine']],
      [200, '/a%2Fb/%C3%BC?q=1&q=%20', 'kept'],
    )
    assert.equal((await ask(route(web), '/teapot')).status, 418)
    const body = Buffer.alloc(8 << 20, '0123456789abcdef')
    const digest = createHash('sha256').update(body).digest('hex')
    assert.equal((await ask(route(web), '/', { method: 'POST', body })).text, digest)
  })

  test(`what is not there is told apart by ${by}`, async (t) => {
    const sandbox = await sandboxFor(t)
    const closed = await ask(route(sandbox, 9999))
    assert.equal(closed.status, 502)
    assert.match(closed.text, /The sandbox is running but port is not open/)
    await sandbox.kill()
    const gone = await ask(route(sandbox))
    assert.equal(gone.status, 502)
    assert.match(gone.text, /The sandbox was not found/)
  })
}

test('a body for a port that is closed is answered too', async (t) => {
  const sandbox = await sandboxFor(t)
  for (let n = 0; n < 10; n++) {
    const body = new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 5))
        controller.enqueue(new Uint8Array(1000))
        controller.close()
      },
    })
    const options = { method: 'POST', body, duplex: 'half', headers: ROUTES.headers(sandbox, 9999) }
    assert.equal((await fetch(gateway.url, options)).status, 502)
  }
})

test('server-sent events come one by one', async (t) => {
  const web = await webFor(t)
  const answer = await fetch(`${gateway.url}/sse`, { headers: ROUTES.headers(web) })
  const seen = []
  for await (const block of answer.body.pipeThrough(new TextDecoderStream()))
    seen.push([block, Date.now()])
  assert.equal(seen.map(([block]) => block).join(''), 'data: 0\n\ndata: 1\n\ndata: 2\n\n')
  assert.ok(seen.at(-1)[1] - seen[0][1] > 1000)
})

test('a websocket echoes', async (t) => {
  const web = await webFor(t)
  const socket = new WebSocket(`ws://${hostname}:${gatewayPort}/ws`, {
    headers: ROUTES.headers(web),
  })
  const next = (type) =>
    within(10_000, new Promise((resolve) => socket.addEventListener(type, resolve, { once: true })))
  await next('open')
  for (const message of ['hello', 'grüße '.repeat(20_000), '']) {
    const echo = next('message')
    socket.send(message)
    assert.equal((await echo).data, message)
  }
  socket.close()
})

test('a client that leaves is gone for the server at once', async (t) => {
  const web = await webFor(t)
  const abort = new AbortController()
  const headers = ROUTES.headers(web)
  const answer = await fetch(`${gateway.url}/hold`, { headers, signal: abort.signal })
  await answer.body.getReader().read()
  assert.equal(await web.files.exists('/tmp/client-gone'), false)
  abort.abort()
  await eventually(() => web.files.exists('/tmp/client-gone'))
})

test('routing headers that are no address are refused', async (t) => {
  const sandbox = await sandboxFor(t)
  const good = ROUTES.headers(sandbox)
  for (const [name, value] of [
    ['E2b-Sandbox-Port', '0'],
    ['E2b-Sandbox-Port', '65536'],
    ['E2b-Sandbox-Port', 'http'],
    ['E2b-Sandbox-Id', '../x'],
    ['E2b-Sandbox-Id', 'UPPER'],
  ]) {
    assert.equal((await ask({ ...good, [name]: value })).status, 400)
  }
  for (const name of Object.keys(good)) {
    const { [name]: _, ...one } = good
    assert.equal((await ask(one)).status, 400)
  }
})
