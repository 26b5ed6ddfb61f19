/** Watching directories. */
import assert from 'node:assert/strict'

import { FileType, FilesystemEventType as Event, Sandbox, TimeoutError } from '../setup.js'
import { eventually, sandboxFor, sleep, test } from '../setup.js'

/** The events of a watch so far, and how it ended. */
async function watched(sandbox, path, opts = {}) {
  const seen = { events: [], ends: [] }
  const onExit = (error) => void seen.ends.push(error)
  seen.handle = await sandbox.files.watchDir(path, (event) => void seen.events.push(event), {
    onExit,
    ...opts,
  })
  seen.find = (name, type) =>
    seen.events.find((event) => event.name === name && event.type === type)
  seen.sees = (name, type) => eventually(() => seen.find(name, type))
  return seen
}

test('a watch sees what happens in its directory', async (t) => {
  const sandbox = await sandboxFor(t)
  const { commands, files } = sandbox
  await commands.run('mkdir -p w/below; touch w/old')
  const watch = await watched(sandbox, 'w')
  await files.write('w/new', 'x')
  await watch.sees('new', Event.CREATE)
  await watch.sees('new', Event.WRITE)
  await commands.run('chmod 600 w/old')
  await watch.sees('old', Event.CHMOD)
  await files.rename('w/old', 'w/renamed')
  await watch.sees('old', Event.RENAME)
  await watch.sees('renamed', Event.CREATE)
  await files.remove('w/renamed')
  await watch.sees('renamed', Event.REMOVE)
  await files.write('w/below/deep', 'x')
  await files.write('w/last', 'x')
  await watch.sees('last', Event.CREATE)
  assert.deepEqual(
    watch.events.filter(({ name }) => name.includes('deep')),
    [],
  )
})

test('a stopped watch ends and sees no more', async (t) => {
  const sandbox = await sandboxFor(t)
  const watch = await watched(sandbox, '/tmp')
  await sandbox.files.write('/tmp/seen', 'x')
  await watch.sees('seen', Event.WRITE)
  await watch.handle.stop()
  await eventually(() => watch.ends.length === 1)
  await sandbox.files.write('/tmp/unseen', 'x')
  await sleep(300)
  assert.equal(watch.find('unseen', Event.CREATE), undefined)
})

test('a recursive watch follows directories made later', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.makeDir('w/below')
  const watch = await watched(sandbox, 'w', { recursive: true })
  await sandbox.files.write('w/below/deep', 'x')
  await watch.sees('below/deep', Event.WRITE)
  await sandbox.files.makeDir('w/later')
  await watch.sees('later', Event.CREATE)
  await sandbox.files.write('w/later/file', 'x')
  await watch.sees('later/file', Event.WRITE)
})

test('a watch tells of the entry when asked', async (t) => {
  const sandbox = await sandboxFor(t)
  await sandbox.files.makeDir('w')
  const watch = await watched(sandbox, 'w', { includeEntry: true })
  await sandbox.files.write('w/new', '12345')
  const { entry } = await watch.sees('new', Event.WRITE)
  assert.deepEqual([entry.path, entry.type], ['/home/user/w/new', FileType.FILE])
  await sandbox.files.remove('w/new')
  assert.equal((await watch.sees('new', Event.REMOVE)).entry, undefined)
})

test('a watch ends with its own timeout', async (t) => {
  const watch = await watched(await sandboxFor(t), '/tmp', { timeoutMs: 1000 })
  await eventually(() => watch.ends.length === 1)
  assert.ok(watch.ends[0] instanceof TimeoutError, watch.ends[0])
})

test('a watch tells that the sandbox has ended', async (t) => {
  const sandbox = await sandboxFor(t)
  const watch = await watched(sandbox, '/tmp')
  await Sandbox.kill(sandbox.sandboxId)
  await eventually(() => watch.ends.length === 1, 5000)
  assert.ok(watch.ends[0] instanceof TimeoutError, watch.ends[0])
  assert.match(watch.ends[0].message, /sandbox was killed or reached its end of life/)
})
