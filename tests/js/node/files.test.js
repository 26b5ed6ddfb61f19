/** Files: what is written comes back, by every way the SDK has. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'

import { processesOf } from '../host_state.js'
import { AuthenticationError, FileNotFoundError, FileType, InvalidArgumentError } from '../setup.js'
import { NotEnoughSpaceError, SandboxError, gateway, sandboxFor, test } from '../setup.js'

const ALL_BYTES = Uint8Array.from({ length: 256 * 400 }, (_, n) => n % 256)
const MIB = 1 << 20
const BIG = 256 * MIB
// What either process may need more than before, whatever the size; others use the gateway, too.
const BOUND = 32 * MIB

const bytesOf = async (stream) => {
  const blocks = []
  for await (const block of stream) blocks.push(block)
  return new Uint8Array(Buffer.concat(blocks))
}
const streamOf = (...blocks) =>
  new ReadableStream({
    start(controller) {
      for (const block of blocks) controller.enqueue(block)
      controller.close()
    },
  })

test('text, bytes, blobs and streams come back as written', async (t) => {
  const { files } = await sandboxFor(t)
  const written = await files.write('notes/a.txt', 'grüße\n')
  assert.deepEqual([written.path, written.name], ['/home/user/notes/a.txt', 'a.txt'])
  assert.equal(written.type, FileType.FILE)
  assert.equal(await files.read('notes/a.txt'), 'grüße\n')
  assert.equal(await files.read('notes/a.txt', { format: 'text' }), 'grüße\n')
  for (const data of [ALL_BYTES.buffer, new Blob([ALL_BYTES]), streamOf(ALL_BYTES)]) {
    await files.write('/tmp/b.bin', data)
    assert.deepEqual(await files.read('/tmp/b.bin', { format: 'bytes' }), ALL_BYTES)
  }
  const blob = await files.read('/tmp/b.bin', { format: 'blob' })
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), ALL_BYTES)
  assert.deepEqual(await bytesOf(await files.read('/tmp/b.bin', { format: 'stream' })), ALL_BYTES)
})

test('writing again replaces all of a file and keeps its inode', async (t) => {
  const { commands, files } = await sandboxFor(t)
  await files.write('f', 'a long first text')
  const inode = (await commands.run('stat -c %i f')).stdout
  await files.write('f', 'short')
  assert.equal(await files.read('f'), 'short')
  assert.equal((await commands.run('stat -c %i f')).stdout, inode)
})

test('an empty file stays empty', async (t) => {
  const { files } = await sandboxFor(t)
  await files.write('empty', '')
  assert.equal((await files.getInfo('empty')).size, 0)
  assert.equal(await files.read('empty'), '')
  assert.equal((await files.read('empty', { format: 'bytes' })).length, 0)
  assert.equal((await files.read('empty', { format: 'blob' })).size, 0)
  assert.equal((await bytesOf(await files.read('empty', { format: 'stream' }))).length, 0)
})

test('names of any characters are kept', async (t) => {
  const { files } = await sandboxFor(t)
  const odd = [
    'grüße 日本.txt',
    'quo"ted;=.txt',
    'per%20cent+plus&.txt',
    'new\nline',
    '-dash',
    'a'.repeat(255),
  ]
  for (const name of odd) {
    const path = `/home/user/in/${name}`
    await files.write(path, name, { useOctetStream: true })
    assert.equal(await files.read(path), name)
    assert.deepEqual(
      (await files.list('in')).map((entry) => entry.name),
      [name],
    )
    assert.equal((await files.getInfo(path)).path, path)
    await files.remove(path)
    assert.equal(await files.exists(path), false)
  }
})

test('many files are written at once', async (t) => {
  const { files } = await sandboxFor(t)
  const entries = Array.from({ length: 40 }, (_, n) => ({
    path: `many/${n % 3}/grüße ${n}`,
    data: `text ${n}`,
  }))
  entries.push({ path: '/tmp/deep/er/x', data: new Blob([ALL_BYTES]) }, { path: 'empty', data: '' })
  const paths = entries.map(({ path }) => (path.startsWith('/') ? path : `/home/user/${path}`))
  assert.deepEqual(
    (await files.writeFiles(entries)).map((info) => info.path),
    paths,
  )
  assert.equal(await files.read('many/1/grüße 37'), 'text 37')
  assert.deepEqual(await files.read('/tmp/deep/er/x', { format: 'bytes' }), ALL_BYTES)
  const again = await files.write(entries.slice(0, 5), { useOctetStream: true })
  assert.deepEqual(
    again.map((info) => info.path),
    paths.slice(0, 5),
  )
  assert.deepEqual(await files.writeFiles([]), [])
})

test('uploads in quick succession do not disturb each other', async (t) => {
  const { files } = await sandboxFor(t)
  for (let round = 0; round < 5; round++) {
    const names = Array.from({ length: 20 }, (_, n) => `quick/${round}.${n}`)
    const written = await Promise.all(names.map((name) => files.write(name, name)))
    assert.deepEqual(
      written.map(({ path }) => path),
      names.map((name) => `/home/user/${name}`),
    )
  }
})

test('compressed uploads and downloads are transparent', async (t) => {
  const { files } = await sandboxFor(t)
  const text = 'the same again and again\n'.repeat(10_000)
  await files.write('zipped', text, { gzip: true })
  assert.equal((await files.getInfo('zipped')).size, text.length)
  assert.equal(await files.read('zipped'), text)
  assert.equal(await files.read('zipped', { gzip: true }), text)
  const stream = await files.read('zipped', { format: 'stream', gzip: true })
  assert.equal(new TextDecoder().decode(await bytesOf(stream)), text)
})

/** The highest memory use of each process since this was called, less what it was then. */
function growth(pids) {
  const peak = (pid) => {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/VmHWM:\s+(\d+)/.exec(status)[1]) << 10
  }
  for (const pid of pids) writeFileSync(`/proc/${pid}/clear_refs`, '5')
  const before = pids.map(peak)
  return () => pids.map((pid, n) => peak(pid) - before[n])
}

test('a big file streams both ways in constant memory', async (t) => {
  const { files, sandboxId } = await sandboxFor(t)
  const grown = growth([gateway.pid, ...processesOf(sandboxId, 'envd')])
  const sent = createHash('sha256')
  let left = BIG
  const source = new ReadableStream({
    pull(controller) {
      const block = Buffer.alloc(Math.min(left, MIB))
      block.writeDoubleBE(left)
      left -= block.length
      sent.update(block)
      controller.enqueue(block)
      if (left === 0) controller.close()
    },
  })
  await files.write('/tmp/big', source, { requestTimeoutMs: 60_000 })
  assert.equal((await files.getInfo('/tmp/big')).size, BIG)
  const received = createHash('sha256')
  const options = { format: 'stream', requestTimeoutMs: 60_000 }
  for await (const block of await files.read('/tmp/big', options)) received.update(block)
  assert.equal(received.digest('hex'), sent.digest('hex'))
  const needed = grown()
  t.diagnostic(`gateway and envd needed more (MiB): ${needed.map((bytes) => bytes / MIB)}`)
  assert.equal(needed.length, 2)
  assert.ok(Math.max(...needed) < BOUND, `gateway and envd needed more by ${needed} bytes`)
})

test('a file that finds no room is refused as such, and is not there', async (t) => {
  const { commands, files } = await sandboxFor(t)
  const free = Number((await commands.run('df --output=avail -k /dev/shm | tail -1')).stdout) << 10
  let left = free + (8 << 20)
  const tooMuch = new ReadableStream({
    pull(controller) {
      left -= 1 << 20
      controller.enqueue(new Uint8Array(1 << 20))
      if (left <= 0) controller.close()
    },
  })
  await assert.rejects(files.write('/dev/shm/much', tooMuch), NotEnoughSpaceError)
  assert.equal(await files.exists('/dev/shm/much'), false)
})

test('a download that is aborted stops', async (t) => {
  const { commands, files } = await sandboxFor(t)
  await commands.run('truncate -s 1G /tmp/big')
  const abort = new AbortController()
  const stream = await files.read('/tmp/big', { format: 'stream', signal: abort.signal })
  await assert.rejects(async () => {
    for await (const _ of stream) abort.abort()
  })
})

test('files belong to the user who writes them, and paths start from home', async (t) => {
  const { files } = await sandboxFor(t)
  await files.write('new/dir/mine', 'x')
  for (const path of ['new', 'new/dir', '~/new/dir/mine', '/home/user/new/dir/mine']) {
    const info = await files.getInfo(path)
    assert.deepEqual([info.owner, info.group], ['user', 'user'])
  }
  await files.write('theirs', 'x', { user: 'root' })
  assert.equal((await files.getInfo('/root/theirs', { user: 'root' })).owner, 'root')
  await assert.rejects(files.write('x', 'x', { user: 'nobody-of-that-name' }), AuthenticationError)
})

test('info tells all about an entry', async (t) => {
  const { commands, files } = await sandboxFor(t)
  await files.write('f', '12345')
  await commands.run('chmod 640 f; ln -s f link; ln -s nowhere broken; mkdir d')
  const info = await files.getInfo('f')
  assert.deepEqual([info.name, info.path, info.type], ['f', '/home/user/f', FileType.FILE])
  assert.deepEqual([info.size, info.mode, info.permissions], [5, 0o640, '-rw-r-----'])
  assert.equal(info.symlinkTarget, undefined)
  assert.equal(info.metadata, undefined)
  assert.ok(Math.abs(info.modifiedTime - Date.now()) < 20_000)
  const folder = await files.getInfo('d')
  assert.deepEqual([folder.type, folder.permissions], [FileType.DIR, 'drwxr-xr-x'])
  assert.equal((await files.getInfo('link')).symlinkTarget, '/home/user/f')
  assert.deepEqual([await files.exists('broken'), await files.exists('nowhere')], [true, false])
})

test('listing goes as deep as asked', async (t) => {
  const { commands, files } = await sandboxFor(t)
  await commands.run('mkdir -p t/b/c && touch t/a t/b/x t/b/c/y t/z')
  const paths = async (depth) =>
    (await files.list('t', { depth })).map((entry) => entry.path.replace('/home/user/t/', ''))
  assert.deepEqual(await paths(), ['a', 'b', 'z'])
  assert.deepEqual(await paths(1), ['a', 'b', 'z'])
  assert.deepEqual(await paths(2), ['a', 'b', 'b/c', 'b/x', 'z'])
  assert.deepEqual(await paths(9), ['a', 'b', 'b/c', 'b/c/y', 'b/x', 'z'])
  await assert.rejects(paths(0), InvalidArgumentError)
})

test('directories are made, moved and removed', async (t) => {
  const { files } = await sandboxFor(t)
  assert.equal(await files.makeDir('a/b/c'), true)
  assert.equal(await files.makeDir('a/b/c'), false)
  await files.write('old', 'text')
  await assert.rejects(files.makeDir('old'), InvalidArgumentError)
  assert.equal((await files.rename('old', 'below/new')).path, '/home/user/below/new')
  assert.deepEqual([await files.read('below/new'), await files.exists('old')], ['text', false])
  await files.write('target', 'gone')
  await files.rename('below/new', 'target')
  assert.equal(await files.read('target'), 'text')
  await files.remove('a')
  await files.remove('a')
  assert.equal(await files.exists('a'), false)
})

test('what is missing or of the wrong kind is said so', async (t) => {
  const { files } = await sandboxFor(t)
  for (const call of [
    () => files.read('missing'),
    () => files.read('missing', { format: 'stream' }),
    () => files.getInfo('missing'),
    () => files.list('missing'),
    () => files.rename('missing', 'x'),
    () => files.watchDir('missing', () => {}),
  ]) {
    await assert.rejects(call, FileNotFoundError)
  }
  assert.equal(await files.exists('missing'), false)
  await files.write('file', 'x')
  await assert.rejects(files.list('file'), InvalidArgumentError)
  await assert.rejects(
    files.watchDir('file', () => {}),
    InvalidArgumentError,
  )
  await assert.rejects(files.read('/etc'), SandboxError)
  await assert.rejects(files.write('/etc', 'x'), SandboxError)
})

test('metadata comes back until the file is written again', async (t) => {
  const { files } = await sandboxFor(t)
  const metadata = { kind: 'report', from: 'a b=c;d' }
  for (const useOctetStream of [false, true]) {
    assert.deepEqual((await files.write('m', 'x', { metadata, useOctetStream })).metadata, metadata)
  }
  assert.deepEqual((await files.getInfo('m')).metadata, metadata)
  const listed = (await files.list('/home/user')).filter(({ name }) => name === 'm')
  assert.deepEqual(
    listed.map((entry) => entry.metadata),
    [metadata],
  )
  assert.deepEqual((await files.rename('m', 'n')).metadata, metadata)
  await files.write('n', 'y')
  assert.equal((await files.getInfo('n')).metadata, undefined)
})
