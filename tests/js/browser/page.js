/**
 * The tests that run in a page. They come here by name, one after the other, from `browser.test.js`,
 * which asserts what they say; a page has no other means than the SDK's browser build.
 */
import * as e2b from 'e2b'

import { Calls, record } from '../record.js'

const { CommandExitError, Sandbox, SandboxNotFoundError, TimeoutError } = e2b
const tests = {}
const calls = new Calls()
let made
let depth = 0
let opts

const test = (name, body) => void (tests[name] = body)
const sleep = (time) => new Promise((resolve) => setTimeout(resolve, time))

function same(actual, expected) {
  const [is, should] = [JSON.stringify(actual), JSON.stringify(expected)]
  if (is !== should) throw new Error(`${is} is not ${should}`)
}

async function rejects(promise, ...types) {
  const error = await promise.then(
    () => undefined,
    (error) => error,
  )
  if (!types.some((type) => error instanceof type)) throw new Error(`not as expected: ${error}`)
  return error
}

async function eventually(condition) {
  for (const deadline = Date.now() + 10_000; !(await condition()); await sleep(30)) {
    if (Date.now() > deadline) throw new Error(`not so in 10 s: ${condition}`)
  }
}

/** Runs `body` with a sandbox that ends with it. */
async function withSandbox(body, more = {}) {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000, ...more, ...opts })
  try {
    await body(sandbox)
  } finally {
    await Sandbox.kill(sandbox.sandboxId, opts)
  }
}

test('a sandbox is made, found, kept and ended', async () => {
  const metadata = { run: crypto.randomUUID(), 'ünï=&': '日本' }
  const sandbox = await Sandbox.create({ metadata, ...opts })
  same(await sandbox.isRunning(), true)
  same((await sandbox.getInfo()).metadata, metadata)
  const paginator = Sandbox.list({ query: { metadata }, limit: 1, ...opts })
  same(
    (await paginator.nextItems()).map((info) => info.sandboxId),
    [sandbox.sandboxId],
  )
  await sandbox.setTimeout(500_000)
  const { startedAt, endAt } = await Sandbox.getInfo(sandbox.sandboxId, opts)
  same(endAt - startedAt > 400_000, true)
  const again = await Sandbox.connect(sandbox.sandboxId, opts)
  same((await again.commands.run('echo $E2B_SANDBOX_ID')).stdout, `${sandbox.sandboxId}\n`)
  same(await sandbox.kill(), true)
  same(await Sandbox.kill(sandbox.sandboxId, opts), false)
  same(await sandbox.isRunning(), false)
  await rejects(Sandbox.getInfo(sandbox.sandboxId, opts), SandboxNotFoundError)
})

test('listings go on to the next page', () => {
  const query = { metadata: { run: crypto.randomUUID() } }
  return withSandbox(
    () =>
      withSandbox(async () => {
        const paginator = Sandbox.list({ query, limit: 1, ...opts })
        same((await paginator.nextItems()).length, 1)
        same(paginator.hasNext, true)
        same((await paginator.nextItems()).length, 1)
        same(paginator.hasNext, false)
      }, query),
    query,
  )
})

test('errors have the class they have in node', async () => {
  await rejects(Sandbox.create('no-such-template', opts), e2b.SandboxError)
  const error = await rejects(Sandbox.create({ ...opts, timeoutMs: 10 ** 16 }), e2b.SandboxError)
  same(error.statusCode, 400)
})

test('commands give their output, take input and are killed', () =>
  withSandbox(async ({ commands }) => {
    const seen = []
    const onStdout = (text) => void seen.push(text)
    const script = 'echo one; sleep 0.5; echo two; echo $MINE $(pwd) $(whoami) >&2'
    const done = await commands.run(script, {
      onStdout,
      envs: { MINE: 'ü' },
      cwd: '/etc',
      user: 'root',
    })
    same([done.stdout, done.stderr], ['one\ntwo\n', 'ü /etc root\n'])
    same(seen, ['one\n', 'two\n'])
    same((await rejects(commands.run('exit 42'), CommandExitError)).exitCode, 42)
    await rejects(commands.run('sleep 30', { timeoutMs: 1000 }), TimeoutError)

    const handle = await commands.run('cat; echo end', { background: true, stdin: true })
    const listed = (await commands.list()).map(({ pid }) => pid)
    same(listed.includes(handle.pid), true)
    await commands.sendStdin(handle.pid, 'grüße ')
    await handle.sendStdin('all\n')
    const second = await commands.connect(handle.pid)
    await commands.closeStdin(handle.pid)
    same((await handle.wait()).stdout, 'grüße all\nend\n')
    same((await second.wait()).exitCode, 0)

    const sleeping = await commands.run('sleep 60', { background: true })
    same(await commands.kill(sleeping.pid), true)
    await rejects(sleeping.wait(), CommandExitError)
    same(await commands.kill(987654), false)
  }))

test('a command that is aborted or left does not end', () =>
  withSandbox(async ({ commands, files }) => {
    const abort = new AbortController()
    const running = commands.run('sleep 1; touch /tmp/aborted', { signal: abort.signal })
    await eventually(async () => (await commands.list()).length === 1)
    abort.abort()
    await rejects(running, Error)
    await eventually(() => files.exists('/tmp/aborted'))
    const handle = await commands.run('sleep 1; touch /tmp/left', { background: true })
    await handle.disconnect()
    await eventually(() => files.exists('/tmp/left'))
  }))

test('files are written, read, listed, moved and removed', () =>
  withSandbox(async ({ files }) => {
    const bytes = Uint8Array.from({ length: 10_000 }, (_, n) => n % 256)
    const metadata = { kind: 'report' }
    const written = await files.write('a/grüße 日本.txt', 'grüße', { metadata })
    same([written.path, written.metadata], ['/home/user/a/grüße 日本.txt', metadata])
    same(await files.read('a/grüße 日本.txt'), 'grüße')
    same((await files.getInfo('a/grüße 日本.txt')).metadata, metadata)
    const stream = new Blob([bytes]).stream()
    for (const [n, data] of [bytes.buffer, new Blob([bytes]), stream].entries()) {
      await files.write(`b${n}`, data)
      same(Array.from(await files.read(`b${n}`, { format: 'bytes' })), Array.from(bytes))
    }
    await files.write('zipped', 'again '.repeat(10_000), { gzip: true })
    same((await files.getInfo('zipped')).size, 60_000)
    same(
      (await (await files.read('b0', { format: 'blob' })).arrayBuffer()).byteLength,
      bytes.length,
    )
    const streamed = await new Response(await files.read('b0', { format: 'stream' })).arrayBuffer()
    same(streamed.byteLength, bytes.length)
    const many = Array.from({ length: 10 }, (_, n) => ({ path: `many/${n}`, data: `${n}` }))
    same((await files.writeFiles(many)).length, 10)
    same(
      (await files.list('many')).map(({ name }) => name),
      many.map(({ data }) => data),
    )
    same(await files.makeDir('many'), false)
    same((await files.rename('many/3', 'three')).path, '/home/user/three')
    await files.remove('many')
    same(await files.exists('many'), false)
    await rejects(files.read('many/1'), e2b.FileNotFoundError)
  }))

test('a watch sees what happens and is stopped', () =>
  withSandbox(async ({ files }) => {
    const seen = []
    await files.makeDir('w')
    const watch = await files.watchDir('w', ({ name, type }) => void seen.push(`${type} ${name}`), {
      recursive: true,
    })
    await files.write('w/below/new', 'x')
    await eventually(() => seen.includes('write below/new') || seen.includes('create below'))
    await watch.stop()
  }))

test('a terminal shows what is typed, is resized and killed', () =>
  withSandbox(async ({ pty }) => {
    let shown = ''
    const onData = (data) => void (shown += new TextDecoder().decode(data))
    const handle = await pty.create({ cols: 80, rows: 24, onData })
    const type = (text) => pty.sendInput(handle.pid, new TextEncoder().encode(text))
    await type('stty size\n')
    await eventually(() => shown.includes('24 80'))
    await pty.resize(handle.pid, { cols: 132, rows: 50 })
    await type('stty size\n')
    await eventually(() => shown.includes('50 132'))
    const second = await pty.connect(handle.pid, { onData })
    await second.disconnect()
    same(await pty.kill(handle.pid), true)
    await rejects(handle.wait(), CommandExitError)
  }))

test('a local repository is made and cloned', () =>
  withSandbox(async ({ files, git }) => {
    await git.init('r', { initialBranch: 'main' })
    await git.configureUser('A', 'a@example.com')
    await files.write('r/f', 'x')
    await git.add('r')
    await git.commit('r', 'first')
    await git.clone('/home/user/r', { path: 'work' })
    same((await git.status('work')).currentBranch, 'main')
  }))

test('signed links go up and down without the SDK', () =>
  withSandbox(async (sandbox) => {
    const form = new FormData()
    form.append('file', new Blob(['from a page']), 'up.txt')
    const upload = await sandbox.uploadUrl('up.txt', { useSignatureExpiration: 60 })
    const answer = await fetch(upload, { method: 'POST', body: form })
    same([answer.status, (await answer.json())[0].path], [200, '/home/user/up.txt'])
    const down = await fetch(await sandbox.downloadUrl('up.txt', { useSignatureExpiration: 60 }))
    same(await down.text(), 'from a page')
    const late = await fetch(await sandbox.downloadUrl('up.txt', { useSignatureExpiration: -5 }))
    same(late.status, 401)
  }))

test('a command tells that its sandbox was killed', async () => {
  const sandbox = await Sandbox.create(opts)
  const handle = await sandbox.commands.run('sleep 60', { background: true })
  const ended = rejects(handle.wait(), TimeoutError)
  same(await Sandbox.kill(sandbox.sandboxId, opts), true)
  await ended
  await rejects(sandbox.commands.list(), TimeoutError)
})

test('a paused sandbox goes on where it was', () =>
  withSandbox(async (sandbox) => {
    await sandbox.files.write('note', 'kept')
    same(await sandbox.pause(), true)
    same(await Sandbox.pause(sandbox.sandboxId, opts), false)
    await sandbox.connect(opts)
    same(await sandbox.files.read('note'), 'kept')
  }))

test('a network is changed', () =>
  withSandbox(async (sandbox) => {
    await sandbox.updateNetwork({ allowInternetAccess: false })
    same((await sandbox.getInfo()).allowInternetAccess, false)
  }))

globalThis.page = {
  names: Object.keys(tests),
  counts: calls.counts,

  start(methods, given) {
    opts = given
    const scope = {
      calls: () => (depth === 0 ? made : undefined),
      inside(body) {
        depth++
        try {
          return body()
        } finally {
          depth--
        }
      },
    }
    const { files, commands, pty } = new Sandbox({
      sandboxId: 'none',
      envdVersion: '0.6.13',
      ...opts,
    })
    record(methods, [...Object.values(e2b), files, commands, pty], e2b, scope)
  },

  /** Gives what went wrong, if anything did. */
  async run(name) {
    made = []
    const failure = await tests[name]().then(
      () => null,
      (error) => error.stack ?? `${error}`,
    )
    calls.settle(made, failure === null)
    return failure
  },
}
