/** Terminals. */
import assert from 'node:assert/strict'

import { CommandExitError, Sandbox, eventually, sandboxFor, test, within } from '../setup.js'

/** A terminal of 80 by 24, and all it showed. */
async function terminal(sandbox, opts = {}) {
  const screen = { shown: '' }
  const decoder = new TextDecoder()
  screen.onData = (data) => void (screen.shown += decoder.decode(data, { stream: true }))
  screen.handle = await sandbox.pty.create({ cols: 80, rows: 24, onData: screen.onData, ...opts })
  screen.pid = screen.handle.pid
  screen.type = (text) => sandbox.pty.sendInput(screen.pid, new TextEncoder().encode(text))
  screen.shows = (text) => eventually(() => screen.shown.includes(text))
  return screen
}

const killed = (handle) => within(20_000, assert.rejects(handle.wait(), CommandExitError))

test('a terminal has its size, takes input and ends', async (t) => {
  const screen = await terminal(await sandboxFor(t))
  await screen.type('stty size; tty; echo $TERM-$LANG\n')
  await screen.shows('24 80')
  await screen.shows('/dev/pts/')
  await screen.shows('xterm-256color-C.UTF-8')
  await screen.type('exit\n')
  assert.equal((await within(20_000, screen.handle.wait())).exitCode, 0)
})

test('a terminal is resized', async (t) => {
  const sandbox = await sandboxFor(t)
  const screen = await terminal(sandbox)
  await screen.type("trap 'echo changed' WINCH; echo re''ady\n")
  await screen.shows('ready')
  await sandbox.pty.resize(screen.pid, { cols: 132, rows: 50 })
  await screen.type('stty size\n')
  await screen.shows('50 132')
  await screen.shows('changed')
})

test('a terminal has user, cwd and environment', async (t) => {
  const opts = { user: 'root', cwd: '/etc', envs: { MINE: 'yes' } }
  const screen = await terminal(await sandboxFor(t), opts)
  await screen.type('echo "<$(whoami) $PWD $MINE>"\n')
  await screen.shows('<root /etc yes>')
})

test('control-c interrupts and job control works', async (t) => {
  const screen = await terminal(await sandboxFor(t))
  await screen.type("echo be''gun; sleep 100\n")
  await screen.shows('begun')
  await screen.type('\x03')
  await screen.type("echo af''ter\n")
  await screen.shows('after')
  await screen.type('sleep 100 & jobs; fg\n')
  await screen.shows('Running')
  assert.doesNotMatch(screen.shown, /no job control/)
})

test('kill ends a terminal once', async (t) => {
  const sandbox = await sandboxFor(t)
  const screen = await terminal(sandbox)
  assert.deepEqual(
    (await sandbox.commands.list()).map(({ pid }) => pid),
    [screen.pid],
  )
  assert.equal(await sandbox.pty.kill(screen.pid), true)
  await killed(screen.handle)
  await eventually(async () => (await sandbox.commands.list()).length === 0)
  assert.equal(await sandbox.pty.kill(987654), false)
})

test('a second client connects to a terminal, which outlives the first', async (t) => {
  const sandbox = await sandboxFor(t)
  const screen = await terminal(sandbox)
  const other = await Sandbox.connect(sandbox.sandboxId)
  let also = ''
  const onData = (data) => void (also += new TextDecoder().decode(data))
  const second = await other.pty.connect(screen.pid, { onData })
  await screen.type("echo to''both\n")
  await screen.shows('toboth')
  await eventually(() => also.includes('toboth'))
  await screen.handle.disconnect()
  await screen.type("echo still''here\n")
  await eventually(() => also.includes('stillhere'))
  assert.equal(await second.kill(), true)
  await killed(second)
})
