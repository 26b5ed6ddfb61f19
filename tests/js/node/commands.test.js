/** Commands: their output, input, ends and surroundings. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'

import {
  AuthenticationError,
  CommandExitError,
  InvalidArgumentError,
  NotFoundError,
} from '../setup.js'
import { Sandbox, SandboxError, TimeoutError } from '../setup.js'
import { eventually, sandboxFor, sleep, test, within } from '../setup.js'

/** The error of a command that ends with anything but 0. */
async function exitOf(promise) {
  const error = await promise.then(
    () => assert.fail('it succeeded'),
    (error) => error,
  )
  assert.ok(error instanceof CommandExitError, error)
  return error
}

test('a command gives its output and exit code', async (t) => {
  const { commands } = await sandboxFor(t)
  const done = await commands.run('echo out; echo err >&2')
  assert.deepEqual([done.stdout, done.stderr, done.exitCode], ['out\n', 'err\n', 0])
  assert.ok(!done.error)
  for (const code of [1, 42, 127, 255]) {
    const failed = await exitOf(commands.run(`echo said; echo why >&2; exit ${code}`))
    assert.deepEqual([failed.exitCode, failed.stdout, failed.stderr], [code, 'said\n', 'why\n'])
    assert.equal(failed.error, `exit status ${code}`)
  }
  assert.equal((await exitOf(commands.run('no-such-program'))).exitCode, 127)
})

test('environment, cwd and user are what was asked for', async (t) => {
  const { commands, files } = await sandboxFor(t)
  const said = async (script, opts) => (await commands.run(script, opts)).stdout
  assert.equal(await said('echo $(pwd) $(whoami) $HOME'), '/home/user user /home/user\n')
  assert.equal(await said('pwd', { cwd: '/etc' }), '/etc\n')
  await files.makeDir('below')
  assert.equal(await said('pwd', { cwd: 'below' }), '/home/user/below\n')
  assert.equal(
    await said('echo $(id -u) $(pwd) $USER $LOGNAME', { user: 'root' }),
    '0 /root root root\n',
  )
  const envs = { ODD: 'a b\'"$x\nüß', EMPTY: '' }
  assert.equal(await said('printf "%s|%s" "$ODD" "${EMPTY-unset}"', { envs }), `${envs.ODD}|`)
  assert.equal(await said('sudo -n id -u'), '0\n')
})

test('a wrong cwd or user is refused', async (t) => {
  const { commands } = await sandboxFor(t)
  await assert.rejects(commands.run('true', { cwd: '/no/such/place' }), (error) => {
    assert.ok(error instanceof InvalidArgumentError)
    assert.match(error.message, /\/no\/such\/place/)
    return true
  })
  await assert.rejects(commands.run('true', { user: 'nobody-of-that-name' }), AuthenticationError)
})

test('callbacks see output as it comes', async (t) => {
  const { commands, files } = await sandboxFor(t)
  const seen = []
  const told = []
  const add = (text) => void told.push(files.write(`/tmp/seen${seen.push(text)}`, ''))
  // A line is only written once the one before it was seen.
  const until = (count) => `until [ -e /tmp/seen${count} ]; do sleep 0.02; done`
  const script = `echo one; ${until(1)}; echo two >&2; ${until(2)}; echo three`
  await commands.run(script, { onStdout: add, onStderr: add })
  await Promise.all(told)
  assert.deepEqual(seen, ['one\n', 'two\n', 'three\n'])
})

test('a background command is listed, waited for and forgotten', async (t) => {
  const { commands } = await sandboxFor(t)
  const script = 'sleep 1; echo done'
  const handle = await commands.run(script, { background: true, envs: { A: '1' }, cwd: '/' })
  const [listed, ...others] = await commands.list()
  assert.deepEqual(others, [])
  assert.equal(listed.pid, handle.pid)
  assert.deepEqual([listed.cmd, listed.args], ['/bin/bash', ['-l', '-c', script]])
  assert.deepEqual([listed.envs.A, listed.cwd], ['1', '/'])
  assert.equal(handle.exitCode, undefined)
  assert.equal((await handle.wait()).stdout, 'done\n')
  assert.deepEqual([handle.exitCode, handle.stdout], [0, 'done\n'])
  assert.deepEqual(await commands.list(), [])
})

test('leaving a command does not end it', async (t) => {
  const { commands, files } = await sandboxFor(t)
  const handle = await commands.run('sleep 1; touch /tmp/lived', { background: true })
  await handle.disconnect()
  await eventually(() => files.exists('/tmp/lived'))
})

test('a command runs on when nobody reads its output', async (t) => {
  const { commands, files } = await sandboxFor(t)
  const script = "head -c 5000000 /dev/zero | tr '\\0' x; touch /tmp/wrote-it-all"
  await (await commands.run(script, { background: true })).disconnect()
  await eventually(() => files.exists('/tmp/wrote-it-all'), 20_000)
})

test('stdin is sent and closed', async (t) => {
  const { commands } = await sandboxFor(t)
  const handle = await commands.run('cat; echo end', { background: true, stdin: true })
  await commands.sendStdin(handle.pid, 'first ')
  await handle.sendStdin(new TextEncoder().encode('ä second\n'))
  await commands.closeStdin(handle.pid)
  assert.equal((await handle.wait()).stdout, 'first ä second\nend\n')
  const other = await commands.run('md5sum', { background: true, stdin: true })
  const block = '0123456789'.repeat(50_000)
  for (let n = 0; n < 4; n++) await other.sendStdin(block)
  await other.closeStdin()
  const digest = createHash('md5').update(block.repeat(4)).digest('hex')
  assert.equal((await other.wait()).stdout, `${digest}  -\n`)
})

test('a command without stdin reads its end at once', async (t) => {
  const { commands } = await sandboxFor(t)
  assert.equal((await commands.run('cat; echo end')).stdout, 'end\n')
  const handle = await commands.run('sleep 30', { background: true })
  await assert.rejects(commands.sendStdin(handle.pid, 'x'), SandboxError)
})

test('a timeout ends the command', async (t) => {
  const { commands } = await sandboxFor(t)
  const asked = Date.now()
  await assert.rejects(
    commands.run('echo $$ > /tmp/pid; exec sleep 60', { timeoutMs: 1500 }),
    TimeoutError,
  )
  assert.ok(Date.now() - asked > 1000)
  await eventually(async () => (await commands.list()).length === 0)
  await exitOf(commands.run('kill -0 $(cat /tmp/pid)'))
})

test('kill ends a command once', async (t) => {
  const { commands } = await sandboxFor(t)
  const handle = await commands.run('sleep 60', { background: true })
  assert.equal(await commands.kill(handle.pid), true)
  const ended = await exitOf(handle.wait())
  assert.deepEqual([ended.exitCode, ended.error], [-1, 'signal: killed'])
  const other = await commands.run('sleep 60 & echo started; wait', { background: true })
  assert.equal(await other.kill(), true)
  await within(20_000, exitOf(other.wait()))
  assert.equal(await commands.kill(987654), false)
})

test('a background child holds back the end', async (t) => {
  const { commands } = await sandboxFor(t)
  const asked = Date.now()
  await commands.run('sleep 2 & echo started')
  assert.ok(Date.now() - asked > 1800)
})

test('a second client connects to a running command, and a late one to its end', async (t) => {
  const sandbox = await sandboxFor(t)
  const script = 'while [ ! -e /tmp/go ]; do sleep 0.05; done; echo both see this; exit 3'
  const handle = await sandbox.commands.run(script, { background: true })
  const seen = []
  const other = await Sandbox.connect(sandbox.sandboxId)
  const second = await other.commands.connect(handle.pid, {
    onStdout: (text) => void seen.push(text),
  })
  assert.equal(second.pid, handle.pid)
  await sandbox.files.write('/tmp/go', '')
  for (const client of [handle, second]) {
    const ended = await exitOf(client.wait())
    assert.deepEqual([ended.stdout, ended.exitCode], ['both see this\n', 3])
  }
  assert.deepEqual(seen, ['both see this\n'])
  const late = await sandbox.commands.connect(handle.pid)
  assert.equal((await exitOf(late.wait())).exitCode, 3)
  await assert.rejects(sandbox.commands.connect(987654), NotFoundError)
})

test('characters split between writes arrive whole', async (t) => {
  const { commands } = await sandboxFor(t)
  const script = String.raw`printf 'a\xf0\x9f'; sleep 0.5; printf '\x98\x80b'; sleep 0.2; printf '\xc3'`
  assert.equal((await commands.run(script)).stdout, 'a😀b\ufffd')
})

test('twenty megabytes of output arrive intact', async (t) => {
  const { commands } = await sandboxFor(t)
  const { stdout } = await commands.run("seq -f '%019.0f' 1000000", { timeoutMs: 50_000 })
  assert.equal(stdout.length, 20_000_000)
  const lines = stdout.split('\n')
  assert.ok(lines.slice(0, -1).every((line, at) => Number(line) === at + 1))
})

test('a hundred commands run at once', async (t) => {
  const { commands } = await sandboxFor(t)
  const numbers = Array.from({ length: 100 }, (_, n) => n)
  const answers = await Promise.all(numbers.map((n) => commands.run(`sleep 0.3; echo ${n}`)))
  assert.deepEqual(
    answers.map((done) => done.stdout),
    numbers.map((n) => `${n}\n`),
  )
})

test('an aborted command rejects at once, and an aborted create too', async (t) => {
  const sandbox = await sandboxFor(t)
  const abort = new AbortController()
  const running = sandbox.commands.run('sleep 60', { signal: abort.signal })
  await eventually(async () => (await sandbox.commands.list()).length === 1)
  abort.abort()
  await within(20_000, assert.rejects(running))
  assert.equal((await sandbox.commands.run('echo on')).stdout, 'on\n')
  await assert.rejects(Sandbox.create({ signal: AbortSignal.abort() }))
  await assert.rejects(sandbox.files.list('/', { signal: AbortSignal.abort() }))
  await assert.rejects(sandbox.isRunning({ signal: AbortSignal.abort() }))
})

test('a request that takes longer than its timeout is given up', async (t) => {
  const { commands } = await sandboxFor(t)
  const opts = { requestTimeoutMs: 1 }
  const slow = () => Promise.all(Array.from({ length: 50 }, () => commands.list(opts)))
  await assert.rejects(
    slow,
    (error) => error instanceof TimeoutError || error.name === 'TimeoutError',
  )
  await sleep(50)
  assert.deepEqual(await commands.list(), [])
})

test('what is internal to the host is out of sight', async (t) => {
  const { commands } = await sandboxFor(t)
  assert.ok(Number((await commands.run('ls -d /proc/[0-9]* | wc -l')).stdout) < 12)
  assert.equal((await commands.run('ls /proc/$$/fd; true')).stdout, '0\n1\n2\n')
  await exitOf(commands.run('echo 1 > /proc/sys/kernel/panic', { user: 'root' }))
})
