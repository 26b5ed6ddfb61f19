/** `E2B_DOMAIN` alone: the API and every port of every sandbox by their names, over TLS and HTTP/2. */
import tls from 'node:tls'

// Before the SDK loads its HTTP client: every TLS connection that it makes.
const connections = []
const { connect } = tls
tls.connect = (...args) => {
  const socket = connect(...args)
  connections.push(socket)
  return socket
}

const assert = (await import('node:assert/strict')).default
const { readFileSync } = await import('node:fs')
const { Sandbox, sandboxFor, test } = await import('../setup.js')

const DOMAIN = process.env.E2B_DOMAIN
const WEB = readFileSync(new URL('../../python/inside/web.py', import.meta.url), 'utf8')

test('the SDK finds the API and its sandboxes by name, and speaks HTTP/2', async (t) => {
  const sandbox = await sandboxFor(t)
  assert.equal(sandbox.sandboxDomain, DOMAIN)
  assert.equal((await sandbox.commands.run('echo over TLS')).stdout, 'over TLS\n')
  await sandbox.files.write('note', 'kept')
  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await again.files.read('note'), 'kept')
  const [host] = DOMAIN.split(':')
  const names = new Set(connections.map(({ servername }) => servername))
  assert.deepEqual(names, new Set([`api.${host}`, `49983-${sandbox.sandboxId}.${host}`]))
  assert.deepEqual(new Set(connections.map(({ alpnProtocol }) => alpnProtocol)), new Set(['h2']))
})

test('a server in a sandbox has the name that getHost gives', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('/tmp/web.py', WEB)
  await sandbox.commands.run('python3 /tmp/web.py 8080', { background: true, timeoutMs: 0 })
  await sandbox.commands.run(
    'until (exec 3<>/dev/tcp/127.0.0.1/8080) 2>/dev/null; do sleep 0.05; done',
  )
  const host = sandbox.getHost(8080)
  assert.equal(host, `8080-${sandbox.sandboxId}.${DOMAIN}`)
  const told = await (await fetch(`https://${host}/a%2Fb?q=1`)).json()
  assert.deepEqual([told.path, told.headers.host], ['/a%2Fb?q=1', host])
  const closed = await fetch(`https://${sandbox.getHost(9999)}/`)
  assert.deepEqual([closed.status, (await closed.json()).port], [502, 9999])
})

test('signed links lead to the name of their sandbox', async (t) => {
  const sandbox = await sandboxFor(t)
  const upload = await sandbox.uploadUrl('up.txt', { useSignatureExpiration: 60 })
  const download = await sandbox.downloadUrl('up.txt', { useSignatureExpiration: 60 })
  const host = sandbox.getHost(49983)
  assert.deepEqual([new URL(upload).host, new URL(download).host], [host, host])
  const form = new FormData()
  form.append('file', new Blob(['uploaded']), 'up.txt')
  assert.equal((await fetch(upload, { method: 'POST', body: form })).status, 200)
  assert.equal(await (await fetch(download)).text(), 'uploaded')
  const late = await fetch(await sandbox.downloadUrl('up.txt', { useSignatureExpiration: -5 }))
  assert.equal(late.status, 401)
})
