/** Signed links, which work without any header. */
import assert from 'node:assert/strict'

import { gateway, getSignature, sandboxFor, test } from '../setup.js'

test('signed links go down and up', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('über/s+1.txt', 'signed')
  const download = await sandbox.downloadUrl('über/s+1.txt', { useSignatureExpiration: 60 })
  const down = await fetch(download)
  assert.deepEqual([down.status, await down.text()], [200, 'signed'])
  const form = new FormData()
  form.append('file', new Blob(['uploaded']), 'up.txt')
  const upload = await sandbox.uploadUrl('up.txt', { user: 'user', useSignatureExpiration: 60 })
  const up = await fetch(upload, { method: 'POST', body: form })
  assert.equal(up.status, 200)
  assert.equal((await up.json())[0].path, '/home/user/up.txt')
  assert.equal(await sandbox.files.read('up.txt'), 'uploaded')
})

test('expired and forged links are refused', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('s', 'signed')
  const late = await fetch(await sandbox.downloadUrl('s', { useSignatureExpiration: -5 }))
  assert.deepEqual(
    [late.status, (await late.json()).message],
    [401, 'signature is already expired'],
  )
  const good = await sandbox.downloadUrl('s')
  assert.equal(await (await fetch(good)).text(), 'signed')
  for (const forged of [
    good.replace('path=s', 'path=t'),
    good.replace('signature=v1_', 'signature=v1_x'),
  ]) {
    assert.ok([401, 404].includes((await fetch(forged)).status))
  }
})

test('a signature is made from the token alone', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('/tmp/s', 'signed')
  const { signature } = await getSignature({
    path: '/tmp/s',
    operation: 'read',
    user: undefined,
    envdAccessToken: sandbox.envdAccessToken,
  })
  const query = new URLSearchParams({ path: '/tmp/s', signature })
  assert.equal(await (await fetch(`${gateway.url}/files?${query}`)).text(), 'signed')
})

test('a part of a file is served', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.write('digits', '0123456789')
  const headers = { Range: 'bytes=2-4', 'Accept-Encoding': 'identity' }
  const part = await fetch(await sandbox.downloadUrl('digits'), { headers })
  assert.deepEqual([part.status, await part.text()], [206, '234'])
  assert.equal(part.headers.get('Content-Range'), 'bytes 2-4/10')
})

test('envd answers nobody without its token', async (t) => {
  const sandbox = await sandboxFor(t)
  const routing = { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '49983' }
  for (const token of [{}, { 'X-Access-Token': 'wrong' }]) {
    const headers = { ...routing, ...token }
    const list = await gateway.fetch('/process.Process/List', { json: {}, headers })
    assert.deepEqual([list.status, (await list.json()).code], [401, 401])
    assert.equal((await gateway.fetch('/files?path=/etc/passwd', { headers })).status, 401)
    assert.equal((await gateway.fetch('/health', { headers })).status, 204)
  }
})
